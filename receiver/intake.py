"""The first straight line: a request becomes acknowledged spans.

    request -admit-> account -decode-> Spans -unseen-> new Spans -accept (one commit)-> acknowledged
                                                           `-> window

Answered OK means: the journal holds the new spans. Both transports call `export`, so there is one meaning of every answer.
Between `unseen` and the entry into `_in_flight` there is no `await`: two requests that carry the same span cannot both find
it new. A resend that meets spans whose commit is still under way waits for that commit and then looks again; if the commit
failed, nothing was marked, and the resend is new. Storing is a task of its own: a client that leaves (a deadline, a broken
connection) cannot come between a commit and the window that must know of it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Generator, Iterable
from typing import Final, Protocol

from receiver.access.keys import Keys
from receiver.clock import Clock
from receiver.core.admission import InFlight
from receiver.core.journal import Acceptance, Journal
from receiver.core.sources import Sources
from receiver.core.span import Span
from receiver.core.usage import Reader
from receiver.core.window import TraceKey, Window
from receiver.errors import Overloaded
from receiver.metrics import Metrics
from receiver.otlp.decode import Decoder
from receiver.otlp.decode import Export as Decoded
from receiver.otlp.export import Answer, Encoding

log = logging.getLogger(__name__)

_ACCEPTED = Answer()
#: Spans that are read, or held, in one go: 5 to 15 us each, so 10 ms at most (an SDK sends 512 in a request, a collector 8,192).
TURN_SPANS: Final = 1_024
#: Bytes of requests that are begun in one turn of the loop, about 10 ms of work: when many come at once, each still fits between
#: two turns, and timers, answers and scrapes have theirs.
TURN_BYTES: Final = 256 * 1024
_SECONDS_TO_RETRY = 5.0  #: hint while starting or stopping: within every SDK's ten-second budget, so a restart loses nothing


class Closing(Protocol):
    """What intake tells the other line: spans were held, look at the clock again."""

    def held(self, account: str, spans: list[Span]) -> None: ...


class Intake:
    """Takes requests of both transports. `otlp.export.Export` is the protocol that it fulfils."""

    def __init__(
        self,
        *,
        decoder: Decoder,
        reader: Reader,
        window: Window,
        journal: Journal,
        closing: Closing,
        keys: Keys,
        budget: InFlight,
        metrics: Metrics,
        sources: Sources,
        clock: Clock,
    ) -> None:
        self._decoder = decoder
        self._reader = reader
        self._window = window
        self._journal = journal
        self._closing = closing
        self._keys = keys
        self._budget = budget
        self._metrics = metrics
        self._sources = sources
        self._clock = clock
        self._in_flight: dict[TraceKey, asyncio.Task[None]] = {}
        self._begun_bytes = 0  #: of requests that this turn of the loop has begun
        self.refusal: str | None = "starting"  #: why every request is refused just now; None while open

    def admit(self, authorization: str | None, *, transport: str) -> str:  # noqa: ARG002 -- transports may differ one day; the protocol says so
        """The account that the credential names, judged on headers alone, before a byte of the body is read."""
        if self.refusal is not None:
            raise Overloaded(reason=self.refusal, retry_after_seconds=_SECONDS_TO_RETRY)
        return self._keys.account(authorization)

    def reserve(self, account: str, size: int) -> None:
        self._budget.reserve(account, size)

    def release(self, account: str, size: int) -> None:
        self._budget.release(account, size)

    async def export(self, account: str, body: bytes, *, encoding: Encoding, transport: str) -> Answer:
        """Decode, drop what was seen, store the rest. Resolves when the new spans are as durable as the journal promises."""
        received_unix_nano = self._clock.unix_nano()
        while self._begun_bytes >= TURN_BYTES:  # noqa: ASYNC110 -- the next turn is what is waited for, and that is what sleep(0) gives
            await asyncio.sleep(0)
        if not self._begun_bytes:
            asyncio.get_running_loop().call_soon(self._next_turn)
        self._begun_bytes += len(body) or 1
        decode = self._decoder.protobuf if encoding is Encoding.PROTOBUF else self._decoder.json
        decoded = await _sliced(decode(body, received_unix_nano=received_unix_nano))
        new = await self._accept(account, decoded.spans, received_unix_nano, transport)
        self._observe(account, transport, decoded, new)
        rejected = decoded.rejected.total()
        return Answer(rejected_spans=rejected, error_message=decoded.errors) if rejected else _ACCEPTED

    def _next_turn(self) -> None:
        self._begun_bytes = 0

    async def _accept(self, account: str, spans: list[Span], received_unix_nano: int, transport: str) -> list[Span]:
        if not spans:
            return []
        traces = {TraceKey(account, trace_id) for trace_id in {span.trace_id for span in spans}}
        while self._in_flight and (busy := [commit for key in traces if (commit := self._in_flight.get(key)) is not None]):
            await asyncio.wait(busy)
        new = self._window.unseen(account, spans)
        if not new:
            return new
        storing = asyncio.get_running_loop().create_task(self._store(Acceptance(account, received_unix_nano, new, transport), traces))
        self._in_flight.update(dict.fromkeys(traces, storing))
        await asyncio.shield(storing)
        return new

    async def _store(self, acceptance: Acceptance, traces: set[TraceKey]) -> None:
        try:
            await self._read(acceptance.spans)
            await self._journal.accept(acceptance)
            await self._hold(acceptance)
        finally:
            for key in traces:
                del self._in_flight[key]

    async def _read(self, spans: list[Span]) -> None:
        read = self._reader.read
        for turn in _turns(spans):
            for span in turn:
                read(span)
            if turn is not spans:
                await asyncio.sleep(0)

    async def _hold(self, acceptance: Acceptance) -> None:
        account = acceptance.account
        for turn in _turns(acceptance.spans):
            late = self._window.hold(account, turn, now=self._clock.monotonic())
            if late:
                self._metrics.late(late)
            self._closing.held(account, turn)
            if turn is not acceptance.spans:
                await asyncio.sleep(0)

    async def restore(self, acceptance: Acceptance) -> None:
        """Hold what an earlier process had accepted and not closed; its quiet time begins anew."""
        await self._read(acceptance.spans)
        await self._hold(acceptance)

    def _observe(self, account: str, transport: str, decoded: Decoded, new: list[Span]) -> None:
        metrics = self._metrics
        if new:
            self._observe_sources(account, new)
        if len(decoded.spans) > len(new):
            metrics.duplicate(transport, len(decoded.spans) - len(new))
        for reason, count in decoded.rejected.items():
            metrics.rejected(transport, reason, count)
        if decoded.sanitized:
            metrics.sanitized(decoded.sanitized)

    def _observe_sources(self, account: str, new: list[Span]) -> None:
        begin, last = 0, new[0].source
        for at, span in enumerate(new):
            if span.source is not last:  # neighbours share their source object
                self._source(account, new[begin], at - begin)
                begin, last = at, span.source
        self._source(account, new[begin], len(new) - begin)

    def _source(self, account: str, span: Span, count: int) -> None:
        source = span.source
        if self._sources.spans(account, source, count, unix_nano=span.received_unix_nano):
            log.info(
                "first spans of a source",
                extra={
                    "account": account,
                    "service": source.service,
                    "scope": source.scope,
                    "scope_version": source.scope_version,
                    "spans": count,
                },
            )


def _turns(spans: list[Span]) -> Iterable[list[Span]]:
    """The spans as they are, or the many of a large request in parts that hold the loop for a few milliseconds each."""
    if len(spans) <= TURN_SPANS:
        return (spans,)
    return (spans[begin : begin + TURN_SPANS] for begin in range(0, len(spans), TURN_SPANS))


async def _sliced(steps: Generator[None, None, Decoded]) -> Decoded:
    """Run a decode step by step, so that other requests have their turn between two steps of 2,048 spans."""
    while True:
        try:
            next(steps)
        except StopIteration as done:
            decoded: Decoded = done.value
            return decoded
        await asyncio.sleep(0)
