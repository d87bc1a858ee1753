"""The table from error to answer, and the answers themselves."""

from __future__ import annotations

import json
import logging
import random

import grpc
import pytest
from google.protobuf import json_format
from google.rpc import error_details_pb2, status_pb2
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2

from receiver import errors
from receiver.config.endpoint import Endpoint
from receiver.otlp import status
from receiver.otlp.export import MAX_MESSAGE_BYTES, Answer, Encoding, cut
from receiver.otlp.listen import CannotListen, addresses
from receiver.otlp.preface import MAX_PEERS, WrongProtocol, spoken
from receiver.otlp.status import FAULT_RETRY_SECONDS, JITTER, TABLE, Refusals

#: What clients of OTLP send again, by the specification ("Failures"; RESOURCE_EXHAUSTED only with RetryInfo).
GRPC_RETRYABLE = {"CANCELLED", "DEADLINE_EXCEEDED", "ABORTED", "OUT_OF_RANGE", "UNAVAILABLE", "DATA_LOSS"}
HTTP_RETRYABLE = {429, 502, 503, 504}

SAMPLES: list[Exception] = [
    errors.MalformedExport("bad"),
    errors.ExportTooLarge(what="spans", found=20_001, limit=20_000),
    errors.UnsupportedEncoding("zstd"),
    errors.Unauthenticated("who"),
    errors.PermissionDenied("no"),
    errors.AccountDisabled("acme"),
    errors.CreditExhausted("no credit", account="acme", balance_msat=-7, topup_url="http://x/"),
    errors.CreditHeld("no credit yet", account="acme", balance_msat=-7, topup_url="http://x/", retry_after_seconds=30),
    errors.Overloaded(reason="memory", retry_after_seconds=1),
    status.NotServed("metrics"),
    status.MethodNotAllowed("GET"),
    status.LengthRequired("?"),
    status.RequestTimedOut("slow"),
    errors.ConfigError(["odd"]),
    ValueError("a bug"),
    RecursionError(),
    MemoryError(),
]


def refusals() -> Refusals:
    return Refusals(random.Random(7))


@pytest.mark.parametrize("error", SAMPLES, ids=lambda e: type(e).__name__)
def test_no_error_becomes_unknown_internal_or_another_5xx_than_503(error: Exception) -> None:
    """Clients drop a batch on UNKNOWN, INTERNAL and 500; a fault of ours must not lose it."""
    refusal = refusals().of(error)
    assert refusal.code not in (grpc.StatusCode.OK, grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL)
    assert refusal.http == 503 or 400 <= refusal.http < 500
    assert refusal.reason
    assert refusal.message
    # a delay is promised exactly where every client may come back
    retryable = refusal.code.name == "UNAVAILABLE"
    assert (refusal.retry_after_seconds is not None) == (refusal.retry_after is not None) == retryable == (refusal.http in HTTP_RETRYABLE)


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.error.__name__)
def test_rows_are_final_or_retryable_on_both_transports(row: status.Row) -> None:
    """The same error must not be kept by one transport's clients and lost by the other's (408 ends the connection: neither matters)."""
    if row.http != 408:
        assert (row.code.name in GRPC_RETRYABLE) == (row.http in HTTP_RETRYABLE)


def test_no_row_hides_another() -> None:
    """First match wins, so a base class must stand below its children."""
    for index, row in enumerate(TABLE):
        assert not any(issubclass(later.error, row.error) for later in TABLE[index + 1 :])


def test_a_subclass_is_answered_as_its_parent() -> None:
    """A finer error needs no row of its own."""

    class Finer(errors.MalformedExport):
        pass

    assert refusals().of(Finer("x")).http == 400


@pytest.mark.parametrize(
    ("error", "reason", "metadata"),
    [
        (SAMPLES[6], "CREDIT_EXHAUSTED", {"account": "acme", "balance_msat": "-7", "topup_url": "http://x/"}),
        (SAMPLES[7], "CREDIT_EXHAUSTED", {"account": "acme", "balance_msat": "-7", "topup_url": "http://x/"}),
        (SAMPLES[5], "ACCOUNT_DISABLED", {"account": "acme"}),
        (SAMPLES[0], "MALFORMED", {}),
    ],
)
def test_the_facts_of_a_refusal_are_there_for_programs(error: Exception, reason: str, metadata: dict[str, str]) -> None:
    """ErrorInfo names a stable reason and holds the facts that the sentence tells."""
    refusal = refusals().of(error)
    info = error_details_pb2.ErrorInfo()
    [packed] = [each for each in refusal.status.details if each.Is(info.DESCRIPTOR)]
    packed.Unpack(info)
    assert (info.reason, info.domain, dict(info.metadata)) == (reason, "spantoll", metadata)
    assert status.reason_of(error).upper() == refusal.reason.upper() == reason


def test_a_fault_of_ours_has_the_reason_that_its_answer_has() -> None:
    """The label of a metric and the word of the answer are one."""
    assert status.reason_of(ZeroDivisionError()) == refusals().of(ZeroDivisionError()).reason == "internal"


def test_an_unexpected_fault_is_logged_whole_and_told_in_general(caplog: pytest.LogCaptureFixture) -> None:
    """The operator gets the traceback; the client gets no text that may hold another client's data."""
    try:
        {}["canary"]
    except KeyError as error:
        refusal = refusals().of(error)
    assert (refusal.code, refusal.http, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, 503, "internal")
    assert "canary" not in refusal.message
    assert b"canary" not in refusal.body(Encoding.PROTOBUF)
    [record] = caplog.records
    assert record.levelno == logging.ERROR
    assert "canary" in caplog.text
    assert "Traceback" in caplog.text


@pytest.mark.parametrize("error", SAMPLES, ids=lambda e: type(e).__name__)
def test_both_encodings_of_the_body_are_one_status(error: Exception) -> None:
    """JSON and protobuf say the same, details included."""
    refusal = refusals().of(error)
    parsed = json_format.Parse(refusal.body(Encoding.JSON), status_pb2.Status())
    binary = status_pb2.Status.FromString(refusal.body(Encoding.PROTOBUF))
    assert binary == refusal.status
    assert json_format.MessageToDict(parsed) == json_format.MessageToDict(binary)  # unpacked: the order of a map's entries means nothing
    assert parsed.code == refusal.code.value[0]


@given(st.text(max_size=600))
def test_the_phrase_of_a_status_line_is_readable_and_splits_nothing(text: str) -> None:
    """Whatever stands in the message: visible ASCII on one line, for it goes before the headers."""
    phrase = refusals().of(errors.MalformedExport(text)).reason_phrase
    assert phrase.isascii()
    assert phrase.isprintable()
    assert len(phrase) <= status.MAX_REASON_PHRASE


def test_retry_info_is_sent_twice_and_says_the_same() -> None:
    """Python's SDK reads one trailer, Go's the other."""
    refusal = refusals().of(errors.Overloaded(reason="shutdown", retry_after_seconds=5))
    trailers = dict(refusal.trailers)
    bare = error_details_pb2.RetryInfo.FromString(trailers["google.rpc.retryinfo-bin"])
    details = status_pb2.Status.FromString(trailers["grpc-status-details-bin"]).details
    wrapped = error_details_pb2.RetryInfo()
    [packed] = [each for each in details if each.Is(wrapped.DESCRIPTOR)]
    packed.Unpack(wrapped)
    assert bare == wrapped
    assert bare.retry_delay.ToTimedelta().total_seconds() == pytest.approx(refusal.retry_after_seconds)
    final = dict(refusals().of(errors.MalformedExport("bad")).trailers)
    assert list(final) == ["grpc-status-details-bin"]


@given(st.floats(0, 400), st.integers())
def test_delays_are_spread_and_whole_seconds_on_http(delay: float, seed: int) -> None:
    """Within a fifth of what was asked, never 0, an integer that is not below the exact delay."""
    refusal = Refusals(random.Random(seed)).of(errors.Overloaded(reason="memory", retry_after_seconds=delay))
    assert refusal.retry_after_seconds is not None
    assert delay * (1 - JITTER) <= refusal.retry_after_seconds <= delay * (1 + JITTER)
    assert refusal.retry_after is not None
    assert refusal.retry_after.isdigit()
    assert max(1.0, refusal.retry_after_seconds) <= int(refusal.retry_after) <= max(1.0, refusal.retry_after_seconds + 1)


def test_a_fault_is_asked_for_again_within_what_sdks_wait() -> None:
    """SDK exporters give up after 10 s: a longer delay would lose the batch at once."""
    assert FAULT_RETRY_SECONDS * (1 + JITTER) < 5


@given(st.integers(0, 2**63 - 1), st.text(max_size=2_000))
def test_our_response_is_the_official_one(rejected: int, message: str) -> None:
    """Hand-written bytes and JSON parse as, and are, what opentelemetry-proto writes; the message is cut at 1 KiB."""
    answer = Answer(rejected, message.encode("utf-8", "replace").decode())
    official = trace_service_pb2.ExportTraceServiceResponse()
    if answer.rejected_spans or answer.error_message:
        official.partial_success.rejected_spans = rejected
        official.partial_success.error_message = cut(answer.error_message)
    assert answer.encode(Encoding.PROTOBUF) == official.SerializeToString()
    assert json.loads(answer.encode(Encoding.JSON)) == json.loads(json_format.MessageToJson(official))


def test_full_success_leaves_partial_success_unset() -> None:
    """Not an empty message: clients take its presence for a warning."""
    assert Answer().encode(Encoding.PROTOBUF) == b""
    assert Answer().encode(Encoding.JSON) == b"{}"


@given(st.text(max_size=3_000))
def test_messages_are_cut_between_characters(message: str) -> None:
    """At most 1 KiB of valid UTF-8, whole where it fits."""
    short = cut(message)
    assert len(short.encode()) <= MAX_MESSAGE_BYTES
    if len(message.encode("utf-8", "replace")) <= MAX_MESSAGE_BYTES:
        assert short == message.encode("utf-8", "replace").decode()


# --- the small neighbours: listening and foreign protocols ---------------------------------------------------------------------------


def test_an_unknown_host_is_no_crash() -> None:
    """`.invalid` resolves nowhere by RFC 6761."""
    with pytest.raises(CannotListen, match=r"nowhere\.invalid"):
        addresses(Endpoint("nowhere.invalid", 4317))


def test_foreign_protocols_are_known_by_their_first_bytes() -> None:
    """And nothing that begins as HTTP/1.1 is taken for one."""
    assert spoken(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n") == "grpc"
    assert spoken(b"\x16\x03\x01\x00\xee") == "tls"
    for method in (b"POST /v1/traces HTTP/1.1\r\n", b"PRI", b"PROPFIND / HTTP/1.1\r\n", b""):
        assert spoken(method) is None


def test_each_peer_is_told_of_once_in_bounded_memory(caplog: pytest.LogCaptureFixture) -> None:
    """A client that retries for a day fills no log, and a million peers fill no memory."""
    wrong = WrongProtocol()
    for _ in range(3):
        wrong.tell("a sentence", "192.0.2.1")
    assert len(caplog.records) == 1
    for number in range(3 * MAX_PEERS):
        wrong.tell("a sentence", str(number))
    assert len(wrong._told) == MAX_PEERS
