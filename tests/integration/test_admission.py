"""Credit at the door: what is stored is paid, exactly, and what is refused tells its client why, on both transports."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from google.protobuf import json_format
from google.rpc import error_details_pb2, status_pb2
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2

from receiver.app import Daemon
from receiver.config import load
from receiver.core.books import MemoryLedger
from receiver.core.credit import CreditPolicy, LowBalance, OnExhausted, OnLedgerError
from receiver.core.ledger import adjust
from receiver.errors import CreditExhausted, CreditHeld, Overloaded
from receiver.otlp.export import Answer
from receiver.otlp.status import JITTER
from tests.exports import export, model_call
from tests.integration.lines import TOPUP_URL, Lines
from tests.integration.test_intake import begin
from tests.integration.wire_helpers import H2, Reply, grpc_call, http_call
from tests.otlp_json import as_otlp_json

FREE = tuple(f"{name}.endpoint=127.0.0.1:0" for name in ("otlp.grpc", "otlp.http", "operator", "customer"))
PRICE_MSAT = 10


def paid(msat: int, account: str = "default") -> MemoryLedger:
    """Books in which `account` has `msat`."""
    return MemoryLedger([adjust(account, client_id=f"start:{account}", amount_msat=msat, unix_nano=0)] if msat else [])


def call(number: int) -> Any:
    """One model call in a trace of its own."""
    return model_call(number, 1)


def calls(first: int, count: int) -> list[Any]:
    return [call(number) for number in range(first, first + count)]


async def agrees(lines: Lines, start_msat: int) -> None:
    """Whatever was answered: what is stored was debited, nothing is held any more, and the books add up."""
    balance = lines.ledger.balance("default")
    assert balance.debits_msat == PRICE_MSAT * lines.accepted == PRICE_MSAT * lines.window.spans
    assert balance.posted_msat == start_msat - balance.debits_msat
    assert balance.held_msat == 0
    assert (await lines.ledger.audit()).balanced


# --- the last credit, and commits that fail --------------------------------------------------------------------------------------


@pytest.mark.parametrize("partial", [True, False])
async def test_requests_at_once_at_the_last_credit_store_exactly_what_it_pays(*, partial: bool) -> None:
    """64 requests of 30 new spans, all decoded before any is committed, at credit for 1,000 spans: 1,000 or, whole requests only, 990."""
    lines = Lines(ledger=paid(10_000), policy=CreditPolicy(enforce=True, partial=partial))
    lines.journal.gate.clear()
    requests = [await begin(lines, *calls(1 + 30 * at, 30)) for at in range(64)]
    lines.journal.gate.set()
    answers = await asyncio.gather(*requests, return_exceptions=True)
    stored = [answer for answer in answers if isinstance(answer, Answer)]
    refused = [answer for answer in answers if isinstance(answer, CreditExhausted)]
    assert len(stored) + len(refused) == 64
    assert lines.accepted == sum(30 - answer.rejected_spans for answer in stored) == (1_000 if partial else 990)
    assert lines.metrics.exact("receiver_refused_spans", reason="credit_exhausted") == 30 * len(refused)
    assert lines.metrics.exact("receiver_rejected_spans", reason="credit_exhausted") == (20 if partial else 0)
    await agrees(lines, 10_000)


async def test_a_failed_commit_gives_its_price_back_and_the_resend_is_new() -> None:
    """Un-seen and un-paid together: the waiting resend of the same spans is stored with the same credit."""
    lines = Lines(ledger=paid(20), policy=CreditPolicy(enforce=True))
    lines.journal.gate.clear()
    lines.journal.faults = [OSError("no space left on device")]
    first = await begin(lines, *calls(1, 2))
    again = await begin(lines, *calls(1, 2))
    assert lines.ledger.balance("default").available_msat == 0
    lines.journal.gate.set()
    with pytest.raises(OSError, match="no space"):
        await first
    assert await again == Answer()
    assert (lines.accepted, lines.duplicate) == (2, 0)
    assert lines.metrics.exact("receiver_refused_spans", reason="internal") == 2
    await agrees(lines, 20)


async def test_a_resend_waits_and_costs_nothing_even_at_the_last_credit() -> None:
    """While the first one holds all credit, its resend is let in, waits, and hears that all is well."""
    lines = Lines(ledger=paid(20), policy=CreditPolicy(enforce=True))
    lines.journal.gate.clear()
    first = await begin(lines, *calls(1, 2))
    assert lines.intake.admit(None, transport="grpc") == "default"
    again = await begin(lines, *calls(1, 2))
    lines.journal.gate.set()
    assert await first == await again == Answer()
    assert (lines.accepted, lines.duplicate) == (2, 2)
    await agrees(lines, 20)
    with pytest.raises(CreditExhausted):
        lines.intake.admit(None, transport="grpc")


async def test_a_client_that_leaves_has_paid_for_what_is_stored() -> None:
    """The commit is under way when the client goes: row and debit stand, and the resend is a duplicate."""
    lines = Lines(ledger=paid(50), policy=CreditPolicy(enforce=True))
    lines.journal.gate.clear()
    request = await begin(lines, *calls(1, 3))
    request.cancel()
    await asyncio.gather(request, return_exceptions=True)
    lines.journal.gate.set()
    await lines.send(*calls(1, 3))
    assert (lines.accepted, lines.duplicate) == (3, 3)
    await agrees(lines, 50)


async def test_what_was_not_paid_is_new_once_it_is() -> None:
    """Spans that were rejected or refused for want of credit were never seen: after a top-up the same request is stored whole."""
    lines = Lines(ledger=paid(20), policy=CreditPolicy(enforce=True, partial=True))
    answer = await lines.send(*calls(1, 5))
    assert answer.rejected_spans == 3
    assert answer.error_message == (
        f"credit of account 'default' ended within this request (the balance is 0 sat), 3 spans were not stored: top up at {TOPUP_URL}"
    )
    with pytest.raises(CreditExhausted):
        await lines.send(*calls(1, 5))
    lines.ledger.record(gift := adjust("default", client_id="more", amount_msat=30, unix_nano=0))
    lines.ledger.posted(gift)
    assert await lines.send(*calls(1, 5)) == Answer()
    assert (lines.accepted, lines.duplicate) == (5, 2)
    await agrees(lines, 50)


async def test_only_new_spans_cost() -> None:
    """Duplicates, repeats within a request and invalid spans are free, however the request is answered."""
    lines = Lines()
    bad = call(9)
    bad.trace_id = b"short"
    await lines.send(call(1), call(1), bad)
    await lines.send(call(1), call(2))
    balance = lines.ledger.balance("default")
    assert (lines.accepted, lines.duplicate, balance.debits_msat) == (2, 2, 20)
    assert balance.posted_msat == -20, "without enforcement it is metered all the same"


# --- what is said ----------------------------------------------------------------------------------------------------------------


async def test_a_low_balance_is_told_once_a_mark_and_dip() -> None:
    """In the answer of the request that passed it, and to the log and metrics; again only after the balance had recovered."""
    lines = Lines(ledger=paid(100), policy=CreditPolicy(enforce=True, low_balance_marks_msat=(80, 40)))
    told: list[LowBalance] = []
    lines.intake._on_low = told.append
    answers = [(await lines.send(call(at))).error_message for at in range(1, 8)]  # 90, 80, 70, 60, 50, 40, 30
    assert [bool(answer) for answer in answers] == [False, False, True, False, False, False, True]
    assert answers[2] == (f"credit of account 'default' fell below 0.08 sat, 0.07 sat are left: top up at {TOPUP_URL}")
    lines.ledger.record(gift := adjust("default", client_id="more", amount_msat=100, unix_nano=0))
    lines.ledger.posted(gift)
    lines.credit.observe("default")
    assert (await lines.send(*calls(10, 6))).error_message  # 130 - 60
    assert told == [LowBalance("default", 80, 70), LowBalance("default", 40, 30), LowBalance("default", 80, 70)]


async def test_the_log_names_an_account_once_until_money_comes_in(caplog: pytest.LogCaptureFixture) -> None:
    """However often its clients ask."""
    lines = Lines(policy=CreditPolicy(enforce=True))
    with caplog.at_level(logging.WARNING, logger="receiver.intake"):
        for _ in range(3):
            with pytest.raises(CreditExhausted):
                lines.intake.admit(None, transport="grpc")
        assert [[vars(record)[fact] for fact in ("account", "why", "balance_msat")] for record in caplog.records] == [
            ["default", "exhausted", 0]
        ]
        lines.ledger.posted(adjust("default", client_id="more", amount_msat=15, unix_nano=0))
        await lines.send(call(1))
        for _ in range(3):
            with pytest.raises(CreditExhausted):
                lines.intake.admit(None, transport="grpc")
    assert [vars(record)["balance_msat"] for record in caplog.records] == [0, 5]


@pytest.mark.parametrize("choice", OnLedgerError)
async def test_books_that_cannot_be_asked_are_no_empty_account(choice: OnLedgerError) -> None:
    """Hold: refused as retryable under its own reason. Accept: stored and debited whatever the balance. Afterwards all is as before."""
    lines = Lines(policy=CreditPolicy(enforce=True, on_ledger_error=choice))
    lines.credit.fault = "the ledger does not answer"
    if choice is OnLedgerError.HOLD:
        with pytest.raises(Overloaded) as early:
            lines.intake.admit(None, transport="grpc")
        with pytest.raises(Overloaded) as late:
            await lines.send(call(1))
        for error in (early.value, late.value):
            assert (error.reason, error.retry_after_seconds) == ("ledger_unavailable", 5)
            assert "credit" not in str(error)
        assert lines.accepted == 0
    else:
        assert lines.intake.admit(None, transport="grpc") == "default"
        assert await lines.send(call(1)) == Answer()
        assert lines.ledger.balance("default").posted_msat == -10
    lines.credit.fault = None
    with pytest.raises(CreditExhausted):
        lines.intake.admit(None, transport="grpc")


# --- limits of an account --------------------------------------------------------------------------------------------------------


async def test_an_account_holds_no_more_open_spans_than_it_may() -> None:
    """Beyond it a request is refused as retryable, also while commits are under way; what is closed makes room."""
    lines = Lines(max_open_spans=10)
    lines.journal.gate.clear()
    first = await begin(lines, *calls(1, 6))
    with pytest.raises(Overloaded) as refused:
        await lines.send(*calls(7, 5))
    assert (refused.value.reason, lines.ledger.balance("default").held_msat) == ("account_spans", 60)
    lines.journal.gate.set()
    await first
    await lines.send(*calls(7, 4))
    with pytest.raises(Overloaded, match="10 spans in open traces"):
        await lines.send(call(11))
    await lines.send(*calls(1, 3))  # a resend needs no room
    assert lines.window.open_spans("default") == 10
    await lines.close_all()
    assert lines.window.open_spans("default") == 0
    await lines.send(*calls(11, 12))  # larger than the limit, and alone: else it could never come in
    assert (lines.accepted, lines.duplicate, lines.intake._storing) == (22, 3, {})


# --- both transports, by raw clients ---------------------------------------------------------------------------------------------


@asynccontextmanager
async def serving(*settings: str, msat: int = 0) -> AsyncIterator[tuple[Daemon, dict[str, int]]]:
    """A daemon without a data folder, in which `default` has `msat`."""
    daemon = Daemon(load(None, environ={}, assignments=(*FREE, "credit.enforce=true", *settings)))
    if msat:
        daemon.offices.ledger.posted(adjust("default", client_id="start", amount_msat=msat, unix_nano=0))
    async with daemon.serving() as ports:
        yield daemon, dict(ports)


def details_of(status: status_pb2.Status) -> tuple[error_details_pb2.ErrorInfo, error_details_pb2.RetryInfo | None]:
    """Exactly one ErrorInfo, at most one RetryInfo, nothing else."""
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    [packed] = [each for each in status.details if each.Is(info.DESCRIPTOR)]
    packed.Unpack(info)
    delays = [each for each in status.details if each.Is(retry.DESCRIPTOR)]
    assert len(delays) + 1 == len(status.details)
    if not delays:
        return info, None
    delays[0].Unpack(retry)
    return info, retry


async def every_way(ports: dict[str, int], body: bytes) -> tuple[Reply, Reply, Reply]:
    """The same request over gRPC, HTTP/protobuf and HTTP/JSON."""
    json_body = as_otlp_json(body)
    return (
        await grpc_call(ports["otlp.grpc"], body),
        await http_call(ports["otlp.http"], body),
        await http_call(ports["otlp.http"], json_body, content_type="application/json"),
    )


@pytest.mark.parametrize("msat", [0, 10], ids=["on headers", "after decoding"])
async def test_drop_is_final_and_says_where_to_top_up(msat: int) -> None:
    """FAILED_PRECONDITION and 402, no delay in any form; one ErrorInfo with account, balance and page in each encoding."""
    async with serving(msat=msat) as (daemon, ports):
        by_grpc, by_http, by_json = await every_way(ports, export(call(1), call(2)))
        url = f"http://127.0.0.1:{ports['customer']}/topup"
        assert by_grpc.code == grpc.StatusCode.FAILED_PRECONDITION.value[0]
        assert (by_http.code, by_json.code) == (402, 402)
        assert set(by_grpc.trailers) & {"google.rpc.retryinfo-bin", "grpc-retry-pushback-ms"} == set()
        assert [reply.headers.get("retry-after") for reply in (by_http, by_json)] == [None, None]
        assert (by_http.headers["content-type"], by_json.headers["content-type"]) == ("application/x-protobuf", "application/json")
        said = [by_grpc.status, by_http.status, by_json.status]
        sat = "0.01" if msat else "0"
        for status in said:
            info, delay = details_of(status)
            assert (info.reason, info.domain, delay) == ("CREDIT_EXHAUSTED", "spantoll", None)
            assert dict(info.metadata) == {"account": "default", "balance_msat": str(msat), "topup_url": url}
            assert status.code == grpc.StatusCode.FAILED_PRECONDITION.value[0]
            assert (
                status.message
                == f"credit of account 'default' is exhausted (the balance is {sat} sat), nothing was stored: top up at {url}"
            )
        assert by_grpc.message == said[0].message
        assert daemon.metrics.exact("receiver_requests", outcome="refused", reason="credit_exhausted") == 3
        assert daemon.metrics.exact("receiver_refused_spans", reason="credit_exhausted") == (6 if msat else 0)
        assert daemon.metrics.exact("receiver_accepted_spans") == 0


async def test_hold_asks_for_the_same_again() -> None:
    """UNAVAILABLE with its delay told twice, 503 with Retry-After in whole seconds: 30 s, spread, and the same words on every way."""
    async with serving("credit.on_exhausted=hold") as (daemon, ports):
        by_grpc, by_http, by_json = await every_way(ports, export(call(1), call(2)))
        assert (by_grpc.code, by_http.code, by_json.code) == (grpc.StatusCode.UNAVAILABLE.value[0], 503, 503)
        said = [by_grpc.status, by_http.status, by_json.status]
        delays = []
        for status in said:
            info, delay = details_of(status)
            assert delay is not None
            assert (info.reason, info.metadata["account"], info.metadata["balance_msat"]) == ("CREDIT_EXHAUSTED", "default", "0")
            assert "nothing was stored yet; send again in 30 s: top up at http" in status.message
            delays.append(delay.retry_delay.ToTimedelta().total_seconds())
        assert all(30 * (1 - JITTER) <= each <= 30 * (1 + JITTER) < 300 for each in delays)
        assert len(set(delays)) == 3, "each client comes back at a moment of its own"
        bare = error_details_pb2.RetryInfo.FromString(by_grpc.trailers["google.rpc.retryinfo-bin"])
        assert bare.retry_delay.ToTimedelta().total_seconds() == delays[0]
        for reply, delay_seconds in ((by_http, delays[1]), (by_json, delays[2])):
            assert delay_seconds <= int(reply.headers["retry-after"]) <= delay_seconds + 1
        daemon.offices.ledger.posted(adjust("default", client_id="more", amount_msat=20, unix_nano=0))
        again = await every_way(ports, export(call(1), call(2)))
        assert [reply.code for reply in again][:1] == [0], "the same request, once somebody topped up"
        assert daemon.metrics.exact("receiver_accepted_spans") == 2


async def test_a_refusal_for_want_of_credit_is_trailers_only() -> None:
    """One block of headers and no data: a client that reads the status from the headers alone sees it."""
    async with serving("credit.on_exhausted=hold") as (_, ports):
        client = await H2.connect(ports["otlp.grpc"])
        try:
            client.call(export(call(1)))
            blocks, data = await client.answer()
        finally:
            await client.close()
        assert (len(blocks), data) == (1, b"")
        assert blocks[0]["grpc-status"] == str(grpc.StatusCode.UNAVAILABLE.value[0])
        assert {"google.rpc.retryinfo-bin", "grpc-status-details-bin"} <= set(blocks[0])


async def test_accept_is_debt_up_to_its_bound_and_says_so() -> None:
    """OK with 0 rejected and a sentence, on each way; beyond the bound it drops."""
    async with serving("credit.on_exhausted=accept", "credit.max_debt_msat=30") as (daemon, ports):
        url = f"http://127.0.0.1:{ports['customer']}/topup"
        by_grpc = await grpc_call(ports["otlp.grpc"], export(call(1)))
        by_http = await http_call(ports["otlp.http"], export(call(2)))
        by_json = await http_call(ports["otlp.http"], as_otlp_json(export(call(3))), content_type="application/json")
        assert (by_grpc.code, by_http.code, by_json.code) == (0, 200, 200)
        said = [
            trace_service_pb2.ExportTraceServiceResponse.FromString(by_grpc.body),
            trace_service_pb2.ExportTraceServiceResponse.FromString(by_http.body),
            json_format.Parse(by_json.body, trace_service_pb2.ExportTraceServiceResponse()),
        ]
        for answer, sat in zip(said, ("-0.01", "-0.02", "-0.03"), strict=True):
            assert answer.partial_success.rejected_spans == 0
            assert answer.partial_success.error_message == (
                f"credit of account 'default' is exhausted (the balance is {sat} sat), metered as debt: top up at {url}"
            )
        beyond = await every_way(ports, export(call(4)))
        assert [reply.code for reply in beyond] == [grpc.StatusCode.FAILED_PRECONDITION.value[0], 402, 402]
        assert daemon.metrics.exact("receiver_accepted_spans") == 3
        assert daemon.metrics.exact("credit_balance_msat", account="default") == -30


async def test_partial_names_the_spans_that_credit_did_not_cover() -> None:
    """OK, with their number and why, on both transports."""
    async with serving('credit.at_last_span="partial"', msat=20) as (daemon, ports):
        by_grpc = await grpc_call(ports["otlp.grpc"], export(*calls(1, 5)))
        assert by_grpc.code == 0
        partial = trace_service_pb2.ExportTraceServiceResponse.FromString(by_grpc.body).partial_success
        assert partial.rejected_spans == 3
        assert "ended within this request" in partial.error_message
        daemon.offices.ledger.posted(adjust("default", client_id="more", amount_msat=10, unix_nano=0))
        by_http = await http_call(ports["otlp.http"], export(*calls(1, 5)))
        partial = trace_service_pb2.ExportTraceServiceResponse.FromString(by_http.body).partial_success
        assert (by_http.code, partial.rejected_spans) == (200, 2)
        assert daemon.metrics.exact("receiver_requests", outcome="partial") == 2
        assert daemon.metrics.exact("receiver_duplicate_spans") == 2
        assert daemon.metrics.exact("receiver_accepted_spans") == 3


async def test_a_held_request_is_never_stored_in_part() -> None:
    """`hold` with `partial`: the request comes again whole, so nothing of it may be rejected for good."""
    lines = Lines(ledger=paid(20), policy=CreditPolicy(enforce=True, partial=True, on_exhausted=OnExhausted.HOLD))
    with pytest.raises(CreditHeld):
        await lines.send(*calls(1, 5))
    assert lines.accepted == 0
    await agrees(lines, 20)
