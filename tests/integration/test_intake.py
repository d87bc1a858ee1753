"""The first line: what an acknowledgement means while commits are slow, fail, or meet one another."""

from __future__ import annotations

import asyncio
import random
from collections import Counter

import pytest

from receiver.access.keys import Keys, hash_key
from receiver.core.journal import Acceptance
from receiver.errors import MalformedExport, Overloaded, Unauthenticated
from receiver.intake import TURN_BYTES, TURN_SPANS
from receiver.otlp.export import Answer, Encoding
from tests.exports import CALL_PUSD, agent, export, model_call, request
from tests.fakes import TryingJournal
from tests.integration.lines import Lines
from tests.sampling import generator


async def begin(lines: Lines, *spans: object, account: str = "default") -> asyncio.Task[Answer]:
    """A request that has gone as far as it can."""
    task = asyncio.ensure_future(lines.send(*spans, account=account))
    for _ in range(5):
        await asyncio.sleep(0)
    return task


async def test_the_same_span_in_two_requests_at_once_counts_once() -> None:
    """The second finds the first one's commit under way, waits for it, and then has nothing new."""
    lines = Lines()
    lines.journal.gate.clear()
    first = await begin(lines, model_call(1, 1))
    second = await begin(lines, model_call(1, 1))
    assert lines.journal.begun == 1, "the second asked for no commit of its own"
    assert not first.done()
    assert not second.done(), "an answer now would be a promise that nothing holds"
    lines.journal.gate.set()
    assert await first == await second == Answer()
    assert (lines.accepted, lines.duplicate) == (1, 1)
    await lines.close_all()
    assert (lines.calls, lines.cost_pusd) == (1, CALL_PUSD)


async def test_what_a_failed_commit_held_is_new_again() -> None:
    """Both clients are told the truth: the first its failure, the second, which waited, the success of its own commit."""
    lines = Lines()
    lines.journal.gate.clear()
    lines.journal.faults = [OSError("no space left on device")]
    first = await begin(lines, model_call(1, 1), model_call(1, 2))
    second = await begin(lines, model_call(1, 2), model_call(1, 3))
    lines.journal.gate.set()
    with pytest.raises(OSError, match="no space"):
        await first
    await second
    assert (lines.accepted, lines.duplicate, lines.window.spans) == (2, 0, 2)
    await lines.send(model_call(1, 1), model_call(1, 2))
    assert (lines.accepted, lines.duplicate, lines.window.spans) == (3, 1, 3)


async def test_only_requests_of_the_same_trace_wait_for_one_another() -> None:
    """Another trace, and the same ids under another account, go their own way."""
    lines = Lines()
    lines.journal.gate.clear()
    waiting = [
        await begin(lines, model_call(1, 1)),
        await begin(lines, model_call(2, 1)),
        await begin(lines, model_call(1, 1), account="b"),
    ]
    assert lines.journal.begun == 3
    lines.journal.gate.set()
    await asyncio.gather(*waiting)
    assert lines.accepted == 3


async def test_a_cancelled_wait_leaves_no_trace_behind() -> None:
    """Whoever waited for another's commit and gave up holds nothing, and stops nobody."""
    lines = Lines()
    lines.journal.gate.clear()
    first, second = await begin(lines, model_call(1, 1)), await begin(lines, model_call(1, 1))
    second.cancel()
    await asyncio.gather(second, return_exceptions=True)
    lines.journal.gate.set()
    await first
    await lines.send(model_call(1, 1))
    assert (lines.accepted, lines.duplicate) == (1, 1)


class _ShakyJournal(TryingJournal):
    """Commits end in any order, and one in four fails."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__()
        self._rng = rng

    async def accept(self, acceptance: Acceptance) -> int:
        for _ in range(self._rng.randrange(6)):
            await asyncio.sleep(0)
        if self._rng.random() < 0.25:
            raise OSError("a write failed")
        return await super().accept(acceptance)


@pytest.mark.parametrize("seed", [1, 2, 3, 4, generator("intake").randrange(5, 1 << 32)])
async def test_however_requests_meet_each_acknowledged_span_is_stored_once(seed: int) -> None:
    """Overlapping requests at once, over commits that fail and overtake one another, each resent until it is answered OK."""
    rng = random.Random(seed)
    lines = Lines()
    lines.journal = lines.intake._journal = _ShakyJournal(rng)
    lines.journal.watch(lines.metrics.fold)
    spans = [(trace, number) for trace in range(1, 5) for number in range(1, 9)]
    acknowledged: set[tuple[int, int]] = set()

    async def client() -> None:
        for _ in range(6):
            chosen = rng.sample(spans, rng.randint(1, 10))
            while True:
                try:
                    await lines.send(*(model_call(*each) for each in chosen))
                except OSError:
                    continue
                acknowledged.update(chosen)
                break

    await asyncio.gather(*(client() for _ in range(8)))
    stored = Counter((span.trace_id, span.span_id) for row in lines.journal.accepted for span in row.spans)
    assert set(stored.values()) == {1}
    assert {(int.from_bytes(trace), int.from_bytes(number)) for trace, number in stored} == acknowledged
    assert lines.accepted == lines.window.spans == len(acknowledged)
    await lines.close_all()
    assert (lines.calls, lines.cost_pusd) == (len(acknowledged), len(acknowledged) * CALL_PUSD)


async def test_the_same_ids_of_two_accounts_are_two_spans() -> None:
    """Ids are chosen by clients: nobody can make another's span a duplicate."""
    lines = Lines()
    for account in ("a", "b"):
        await lines.send(agent(1, 1), model_call(1, 2, parent=1), account=account)
    await lines.close_all()
    for account in ("a", "b"):
        assert lines.metrics.exact("cost_usd", account=account) == CALL_PUSD


async def test_a_request_that_repeats_a_span_within_itself_stores_it_once() -> None:
    """The first is kept, the rest are duplicates."""
    lines = Lines()
    await lines.send(model_call(1, 1), model_call(1, 1), model_call(1, 1))
    assert (lines.accepted, lines.duplicate) == (1, 2)


async def test_what_was_rejected_or_malformed_is_never_seen() -> None:
    """A span that was dropped alone is new when it comes mended; a body that is none leaves nothing at all."""
    lines = Lines()
    bad = model_call(1, 1)
    bad.trace_id = b"short"
    answer = await lines.send(bad, model_call(1, 2))
    assert answer.rejected_spans == 1
    assert answer.error_message
    with pytest.raises(MalformedExport):
        await lines.intake.export("default", b"\x0a\xff", encoding=Encoding.PROTOBUF, transport="grpc")
    await lines.send(model_call(1, 1))
    assert (lines.accepted, lines.duplicate) == (2, 0)


async def test_an_empty_request_costs_no_commit() -> None:
    """It is a success (OTLP spec) and makes no row, no series and no source."""
    lines = Lines()
    assert await lines.send() == Answer()
    assert lines.journal.begun == 0
    assert lines.sources.as_json() == []
    assert lines.accepted == 0


async def test_admission_is_closed_until_it_is_opened_and_again_at_the_end() -> None:
    """Refused as retryable, before the key is looked at: a client of a daemon that restarts loses nothing."""
    lines = Lines(keys=Keys([("acme", hash_key("spt_one"))]))
    for refusal in ("starting", "shutdown"):
        lines.intake.refusal = refusal
        with pytest.raises(Overloaded) as refused:
            lines.intake.admit("Bearer spt_one", transport="grpc")
        assert refused.value.reason == refusal
        assert 0 < refused.value.retry_after_seconds < 10, "within the ten seconds that SDKs retry for"
    lines.intake.refusal = None
    assert lines.intake.admit("Bearer spt_one", transport="grpc") == "acme"
    with pytest.raises(Unauthenticated):
        lines.intake.admit(None, transport="http")


async def test_others_have_their_turn_while_a_large_request_is_taken() -> None:
    """A request of 10,000 spans yields to the loop while it is decoded, read and held, a thousand spans at a time."""
    lines = Lines()
    body = request([model_call(1, number) for number in range(1, 10_001)]).SerializeToString()
    turns = 0

    async def other() -> None:
        nonlocal turns
        while not large.done():
            turns += 1
            await asyncio.sleep(0)

    large = asyncio.ensure_future(lines.intake.export("default", body, encoding=Encoding.PROTOBUF, transport="grpc"))
    await asyncio.gather(large, other())
    assert turns >= 4 + 2 * (10_000 // TURN_SPANS)
    assert lines.accepted == 10_000


async def test_a_release_between_the_parts_of_a_large_request_charges_each_span_once() -> None:
    """What of it is held already may be closed; the rest comes late to its trace, and finds its agent there."""
    lines = Lines()
    spans = [agent(1, 1), *(model_call(1, number, parent=1) for number in range(2, 3 * TURN_SPANS))]
    sending = asyncio.ensure_future(lines.send(*spans))
    closes = 0
    while not sending.done():
        closes += await lines.close_all()
        await asyncio.sleep(0)
    await sending
    await lines.close_all()
    assert closes > 0
    assert (lines.accepted, lines.duplicate) == (len(spans), 0)
    assert lines.metrics.exact("calls", agent="planner") == lines.calls == len(spans) - 1


async def test_a_source_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    """One line at the first spans of each (account, service, scope, version), and none at the next."""
    lines = Lines()
    with caplog.at_level("INFO", logger="receiver.intake"):
        for at in range(1, 4):
            await lines.send(model_call(at, 1))
        await lines.send(model_call(4, 1), service="other")
    assert [record.service for record in caplog.records] == ["app", "other"]
    [row, _] = lines.sources.as_json()
    assert (row["service"], row["spans"]) == ("app", 3)


def test_the_body_of_these_tests_is_plain_otlp() -> None:
    """The builder writes what the official classes read."""
    assert request([model_call(1, 1)]).SerializeToString() == export(model_call(1, 1))


async def test_many_large_requests_at_once_are_begun_turn_by_turn() -> None:
    """The loop has its turn after about `TURN_BYTES` of work, however many requests stand ready."""
    lines = Lines()
    spans = [model_call(trace, at) for trace in range(1, 9) for at in range(1, 65)]
    size = len(export(*spans))
    most_a_turn = TURN_BYTES // size + 1
    requests = [asyncio.ensure_future(lines.send(*spans)) for _ in range(4 * most_a_turn)]
    turns = 0
    while not all(each.done() for each in requests):
        await asyncio.sleep(0)
        turns += 1
    assert turns >= len(requests) / most_a_turn
    assert (lines.accepted, lines.duplicate) == (len(spans), (len(requests) - 1) * len(spans))
