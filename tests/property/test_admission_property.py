"""Whatever happens to requests on their way: what is stored is paid, what is paid is stored, and nothing stays held."""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from receiver.core.books import MemoryLedger
from receiver.core.credit import CreditPolicy, OnExhausted
from receiver.core.journal import StoreBroken, StoreFull
from receiver.core.ledger import Terms, adjust
from receiver.otlp.export import Answer
from tests.exports import model_call
from tests.integration.lines import Lines

SPANS = 12  #: in three traces, so that requests meet in them
#: Turns of the loop between two events: from none to more than a request needs.
TURNS = st.integers(0, 12)
FAULTS = st.sampled_from([StoreFull(), StoreBroken("the disk failed"), ValueError("a rule of the store"), None])
POLICIES = st.builds(
    CreditPolicy,
    price_per_span_msat=st.sampled_from([0, 1, 7, 10]),
    enforce=st.booleans(),
    on_exhausted=st.sampled_from(OnExhausted),
    partial=st.booleans(),
    credit_limit_msat=st.sampled_from([0, 15]),
    max_debt_msat=st.sampled_from([0, 30]),
    low_balance_marks_msat=st.sampled_from([(), (50,)]),
    enabled=st.booleans(),
)
EVENTS = st.lists(
    st.tuples(
        TURNS,
        st.one_of(
            st.tuples(st.just("send"), st.lists(st.integers(0, SPANS - 1), min_size=1, max_size=SPANS)),
            st.tuples(st.just("leave"), st.integers(0, 100)),
            st.tuples(st.just("hold"), FAULTS),
            st.tuples(st.just("go on"), st.none()),
            st.tuples(st.just("policy"), POLICIES),
            st.tuples(st.just("money"), st.sampled_from([5, 40, 200, -20])),
        ),
    ),
    max_size=30,
)


def span(number: int) -> Any:
    return model_call(1 + number % 3, 1 + number)


async def story(start: CreditPolicy, events: list[tuple[int, tuple[str, Any]]]) -> None:
    lines = Lines(ledger=MemoryLedger(), policy=start)
    ledger, journal = lines.ledger, lines.journal
    requests: list[asyncio.Task[Answer]] = []
    for number, (turns, (what, detail)) in enumerate(events):
        match what:
            case "send":
                requests.append(asyncio.ensure_future(lines.send(*map(span, detail))))
            case "leave" if requests:
                requests[detail % len(requests)].cancel()
            case "hold":
                journal.gate.clear()
                if detail is not None:
                    journal.faults.append(detail)
            case "go on":
                journal.gate.set()
            case "policy":
                lines.policy = detail
            case "money":
                moved = adjust("default", client_id=str(number), amount_msat=detail, unix_nano=0)
                await ledger.post(moved, Terms(None))
        for _ in range(turns):
            await asyncio.sleep(0)
    journal.gate.set()
    journal.faults.clear()
    await asyncio.gather(*requests, return_exceptions=True)
    while lines.intake._in_flight:  # noqa: ASYNC110 -- requests whose clients have left
        await asyncio.sleep(0)

    stored = [(each.trace_id, each.span_id) for row in journal.accepted for each in row.spans]
    assert len(stored) == len(set(stored)) == lines.accepted == lines.window.spans, "each is stored once"
    balance = ledger.balance("default")
    assert balance.debits_msat - sum(-m for _, (w, m) in events if w == "money" and m < 0) == sum(
        row.debit_msat for row in journal.accepted
    )
    assert balance.held_msat == 0, "nothing is held for nobody"
    assert (await ledger.audit()).balanced
    for request in requests:
        if not request.cancelled() and request.exception() is None:
            assert request.result().rejected_spans <= SPANS

    # whatever was answered, a resend of everything stores the rest, once, and costs what the rest costs
    lines.policy = CreditPolicy(price_per_span_msat=3)
    assert await lines.send(*map(span, range(SPANS))) == Answer()
    assert lines.accepted == SPANS
    assert ledger.balance("default").debits_msat == balance.debits_msat + 3 * (SPANS - len(stored))
    assert ledger.balance("default").held_msat == 0


@settings(max_examples=200, deadline=None)
@example(CreditPolicy(), [(0, ("hold", None)), (8, ("send", [0, 1])), (5, ("leave", 0))])  # on its way into the journal
@example(CreditPolicy(), [(0, ("hold", StoreFull())), (8, ("send", [0, 1])), (5, ("leave", 0)), (2, ("send", [1, 2]))])
@given(POLICIES, EVENTS)
def test_every_grant_is_committed_or_released_once(start: CreditPolicy, events: list[tuple[int, tuple[str, Any]]]) -> None:
    """Over clients that leave at any await, full and failing disks, terms that change, money that comes and goes, spans that meet."""
    asyncio.run(story(start, events))
