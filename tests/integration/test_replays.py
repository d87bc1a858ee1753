"""However often a batch is sent, it counts and costs once: repeated, split, merged, reordered, in flight together, over restarts."""

from __future__ import annotations

import asyncio
import tempfile
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from receiver.app import Daemon
from receiver.config import Config, load
from receiver.offices import Offices
from receiver.otlp.export import Encoding
from receiver.store.books import SqliteBooks
from receiver.store.folder import Folder
from tests.exports import CALL_PUSD, agent, export, model_call
from tests.fakes import ManualClock
from tests.otlp_json import as_otlp_json
from tests.sampling import often

PRICE_MSAT = 10
START_MSAT = 1_000_000
Span = tuple[int, int]  #: trace, number in it; number 1 is the agent's span, the others are its calls


@dataclass(frozen=True)
class Request:
    """One request of a plan."""

    spans: tuple[Span, ...]
    transport: str  #: "grpc", "http" or "json"


#: What happens one after the other: requests that are in flight together, or an act.
Plan = list["tuple[Request, ...] | str"]


@st.composite
def plans(draw: st.DrawFn) -> tuple[set[Span], Plan]:
    """All spans there are, and a plan that sends each batch 1 to 5 times in some shape."""
    spans = [(trace, number) for trace in range(1, draw(st.integers(1, 4)) + 1) for number in range(1, draw(st.integers(1, 6)) + 1)]
    order = draw(st.permutations(spans))
    size = draw(st.integers(1, 8))
    batches = [tuple(order[at : at + size]) for at in range(0, len(order), size)]
    pieces: list[tuple[Span, ...]] = []
    for batch in batches:
        for time in range(draw(st.integers(1, 5))):
            again = batch if not time else tuple(draw(st.permutations(batch)))
            cut = draw(st.integers(0, len(again)))
            pieces += [part for part in (again[:cut], again[cut:]) if part]
    pieces = draw(st.permutations(pieces))
    requests: list[Request] = []
    while pieces:
        merged = draw(st.integers(1, 3))
        spans_of = tuple(span for piece in pieces[:merged] for span in piece)
        requests.append(Request(spans_of, draw(st.sampled_from(("grpc", "http", "json")))))
        pieces = pieces[merged:]
    plan: Plan = []
    while requests:
        together = draw(st.integers(1, 5))
        plan.append(tuple(requests[:together]))
        requests = requests[together:]
        plan += draw(st.lists(st.sampled_from(("close", "snapshot", "restart")), max_size=2))
    return set(spans), plan


def wire(span: Span) -> Any:
    trace, number = span
    return agent(trace, 1) if number == 1 else model_call(trace, number, parent=1)


class House:
    """Lives of one daemon over one folder; a life ends as by `kill -9`: what is committed is all that stays."""

    def __init__(self, folder: Path, config: Config) -> None:
        self._folder = folder
        self._config = config
        self._clock = ManualClock()
        self.duplicates = 0  #: of the lives that have ended

    async def begin(self) -> None:
        self.mine = Folder(self._folder)
        self.mine.open()
        self.books = SqliteBooks(self.mine.database, clock=self._clock)
        self._stack = AsyncExitStack()
        self.offices = await self._stack.enter_async_context(Offices.open(self._config, self.mine, self.books, clock=self._clock))
        self.daemon = Daemon(self._config, clock=self._clock, offices=self.offices)
        await self.daemon._restore()
        self.daemon.intake.refusal = None

    async def end(self) -> None:
        self.duplicates += int(self.daemon.metrics.exact("receiver_duplicate_spans"))
        await self._stack.aclose()
        await self.books.stop()
        self.mine.close()
        self._clock.advance(60)

    async def send(self, request: Request) -> None:
        body = export(*map(wire, request.spans))
        json = request.transport == "json"
        answer = await self.daemon.intake.export(
            "default",
            as_otlp_json(body) if json else body,
            encoding=Encoding.JSON if json else Encoding.PROTOBUF,
            transport="grpc" if request.transport == "grpc" else "http",
        )
        assert (answer.rejected_spans, answer.error_message) == (0, "")

    async def close(self) -> None:
        await self.daemon.closing.release_all(now=self._clock.monotonic())


async def played(folder: Path, config: Config, spans: set[Span], plan: Plan) -> None:
    house = House(folder, config)
    await house.begin()
    sent = 0
    for step in plan:
        if isinstance(step, tuple):
            sent += sum(len(request.spans) for request in step)
            await asyncio.gather(*map(house.send, step))
        elif step == "close":
            await house.close()
        elif step == "snapshot":
            await house.daemon.journal.snapshot(house.daemon.metrics.series())
        else:
            await house.end()
            await house.begin()
    await house.close()
    calls = sum(number > 1 for _, number in spans)
    exact, balance = house.daemon.metrics.exact, house.offices.ledger.balance("default")
    audit = await house.books.ledger.audit()
    shown = (exact("receiver_accepted_spans"), exact("calls"), exact("cost_usd"), exact("credit_debited_msat"))
    await house.end()
    assert shown == (len(spans), calls, calls * CALL_PUSD, PRICE_MSAT * len(spans))
    assert (balance.posted_msat, balance.held_msat) == (START_MSAT - PRICE_MSAT * len(spans), 0)
    assert house.duplicates == sent - len(spans)
    assert audit.balanced


@settings(max_examples=often(15, 40), deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
@given(plans())
def test_however_batches_come_they_count_and_cost_once(drawn: tuple[set[Span], Plan]) -> None:
    """Accepted spans, calls, cost and debits are those of a single pass, and the duplicates are exactly the surplus."""
    config = load(None, environ={}, assignments=("credit.enforce=true", f"credit.start_balance_msat={START_MSAT}"))
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(played(Path(folder), config, *drawn))
