"""The first straight line: a request becomes acknowledged spans.

    request -admit-> account -decode-> Spans -unseen-> new Spans -reserve-> paid Spans -accept (one commit)-> acknowledged
                                                                                `-> window

Answered OK means: the journal holds the new spans, and the ledger their debit. Both transports call `export`, so there is one
meaning of every answer. Between `unseen`, the price that is held and the entry into `_in_flight` there is no `await`: two
requests that carry the same span cannot both find it new, and two that come at the last credit cannot both spend it. A resend
that meets spans whose commit is still under way waits for that commit and then looks again; if the commit failed, nothing was
marked and the price was given back, and the resend is new. Storing is a task of its own: a client that leaves (a deadline, a
broken connection) cannot come between a commit and the window and the balance that must know of it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Generator, Iterable
from typing import Final, NamedTuple, Protocol

from receiver.clock import Clock
from receiver.core.admission import InFlight
from receiver.core.credit import Answer as Judgement
from receiver.core.credit import Credit, Grant, LowBalance, explain, explain_low, refusal
from receiver.core.journal import Acceptance, Journal
from receiver.core.sources import Sources
from receiver.core.span import Span
from receiver.core.usage import Reader
from receiver.core.window import TraceKey, Window
from receiver.errors import Overloaded, ReceiverError
from receiver.metrics import Metrics
from receiver.otlp.decode import Decoder
from receiver.otlp.decode import Export as Decoded
from receiver.otlp.export import Answer, Encoding
from receiver.otlp.status import reason_of

log = logging.getLogger(__name__)

_ACCEPTED = Answer()
#: Spans that are read, or held, in one go: 5 to 15 us each, so 10 ms at most (an SDK sends 512 in a request, a collector 8,192).
TURN_SPANS: Final = 1_024
#: Bytes of requests that are begun in one turn of the loop, about 10 ms of work: when many come at once, each still fits between
#: two turns, and timers, answers and scrapes have theirs.
TURN_BYTES: Final = 256 * 1024
_SECONDS_TO_RETRY = 5.0  #: hint while starting or stopping: within every SDK's ten-second budget, so a restart loses nothing
#: Hint where an account has as many open spans as it may: the shortest wait of the window, after which some of them are closed.
_SPANS_RETRY_SECONDS: Final = 6.0
_NOT_PAID: Final = "credit_exhausted"  #: the `reason` of new spans that were rejected alone, as that of whole requests


class Credentials(Protocol):
    """Who sends."""

    def account(self, authorization: str | None) -> str:
        """The account that an `Authorization` header names; raises Unauthenticated."""


class Closing(Protocol):
    """What intake tells the other line: spans were held, look at the clock again."""

    def held(self, account: str, spans: list[Span]) -> None: ...


class _Taken(NamedTuple):
    """What became of a request's spans; those that are neither new nor unpaid are duplicates."""

    new: list[Span]  #: stored
    unpaid: int = 0  #: new, and not stored, for credit did not cover them
    says: str = ""  #: what its client should know of its credit


_NOTHING_TAKEN: Final = _Taken([])


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
        credentials: Credentials,
        credit: Credit,
        budget: InFlight,
        metrics: Metrics,
        sources: Sources,
        clock: Clock,
        topup_url: Callable[[], str],
        on_low: Callable[[LowBalance], None] = lambda _: None,
        on_exhausted: Callable[[str], None] = lambda _: None,
        max_open_spans: Callable[[str], int | None] = lambda _: None,
    ) -> None:
        """Open when `refusal` is None.

        `topup_url`: where refusals send people. `on_low`: told when a debit took a balance below a mark, whether or not its client
        still listens; `on_exhausted`: when an account is refused for want of credit, once until money comes in. `max_open_spans`: of
        an account, None: as many as the window holds.
        """
        self._decoder = decoder
        self._reader = reader
        self._window = window
        self._journal = journal
        self._closing = closing
        self._credentials = credentials
        self._credit = credit
        self._budget = budget
        self._metrics = metrics
        self._sources = sources
        self._clock = clock
        self._topup_url = topup_url
        self._on_low = on_low
        self._on_exhausted = on_exhausted
        self._max_open_spans = max_open_spans
        self._storing: dict[str, int] = {}  #: spans on their way into the window, of accounts that have a limit on open spans
        self._in_flight: dict[TraceKey, asyncio.Task[LowBalance | None]] = {}
        self._begun_bytes = 0  #: of requests that this turn of the loop has begun
        self.refusal: str | None = "starting"  #: why every request is refused just now; None while open

    def admit(self, authorization: str | None, *, transport: str) -> str:  # noqa: ARG002 -- transports may differ one day; the protocol says so
        """The account that the credential names, judged on headers alone, before a byte of the body is read."""
        if self.refusal is not None:
            raise Overloaded(reason=self.refusal, retry_after_seconds=_SECONDS_TO_RETRY)
        account = self._credentials.account(authorization)
        refused = self._credit.admit(account)
        if refused is not None:
            raise self._refused(refused)
        return account

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
        try:
            taken = await self._accept(account, decoded.spans, received_unix_nano, transport)
        except Exception as error:
            self._metrics.refused(transport, reason_of(error), len(decoded.spans))
            raise
        self._observe(account, transport, decoded, taken)
        rejected = decoded.rejected.total() + taken.unpaid
        if not rejected and not taken.says:
            return _ACCEPTED
        return Answer(rejected_spans=rejected, error_message="; ".join(filter(None, (decoded.errors, taken.says))))

    def _next_turn(self) -> None:
        self._begun_bytes = 0

    async def _accept(self, account: str, spans: list[Span], received_unix_nano: int, transport: str) -> _Taken:
        if not spans:
            return _NOTHING_TAKEN
        traces = {TraceKey(account, trace_id) for trace_id in {span.trace_id for span in spans}}
        while self._in_flight and (busy := [commit for key in traces if (commit := self._in_flight.get(key)) is not None]):
            await asyncio.wait(busy)
        new = self._window.unseen(account, spans)
        if not new:
            return _NOTHING_TAKEN
        limited = self._max_open_spans(account)
        if limited is not None:
            self._make_room(account, len(new), limited)
        grant = self._credit.reserve(account, len(new))
        unpaid, says = 0, ""
        if grant.answer is not Judgement.ACCEPTED:
            if grant.answer.refusal:
                raise self._refused(grant)
            unpaid = len(new) - grant.spans
            says = explain(grant, topup_url=self._topup_url(), rejected=unpaid)
            new = new[: grant.spans]
        if limited is not None:
            self._storing[account] = self._storing.get(account, 0) + len(new)
        acceptance = Acceptance(account, received_unix_nano, new, transport, grant.amount_msat)
        storing = asyncio.get_running_loop().create_task(self._store(acceptance, traces, grant, limited=limited is not None))
        self._in_flight.update(dict.fromkeys(traces, storing))
        low = await asyncio.shield(storing)
        if low is not None:
            says = "; ".join(filter(None, (says, explain_low(low, topup_url=self._topup_url()))))
        return _Taken(new, unpaid, says)

    def _make_room(self, account: str, spans: int, limit: int) -> None:
        """Raises Overloaded where the account would have too many open spans. A request that is larger than that comes in alone."""
        waiting = self._window.open_spans(account) + self._storing.get(account, 0)
        if waiting and waiting + spans > limit:
            raise Overloaded(
                reason="account_spans",
                retry_after_seconds=_SPANS_RETRY_SECONDS,
                detail=f"account {account!r} has {waiting:,} spans in open traces and may have {limit:,}: send again in"
                f" {_SPANS_RETRY_SECONDS:g} s, when some of them are closed",
            )

    def _refused(self, grant: Grant) -> ReceiverError:
        """The error for a request that the account's credit does not allow; the log has it once until money comes in."""
        url = self._topup_url()
        if self._credit.first_refusal(grant.account):
            facts = {"account": grant.account, "why": grant.answer.value, "balance_msat": grant.balance_msat, "topup_url": url}
            log.warning("spans of an account are refused from now on", extra=facts)
            if grant.answer in (Judgement.EXHAUSTED, Judgement.HELD):
                self._on_exhausted(grant.account)
        return refusal(grant, topup_url=url)

    async def _store(self, acceptance: Acceptance, traces: set[TraceKey], grant: Grant, *, limited: bool) -> LowBalance | None:
        """Store and debit, or neither. Returns the low mark that the balance has passed with it."""
        asked = False
        try:
            await self._read(acceptance.spans)
            asked = True
            await self._journal.accept(acceptance)
        except BaseException as error:
            # Cancelled while the journal works, which only the end of the loop does: its row may stand, and the hold dies with the process.
            if not asked or not isinstance(error, asyncio.CancelledError):
                self._credit.release(grant)
            raise
        else:
            low = self._credit.commit(grant, now=self._clock.monotonic())
            if low is not None:
                self._on_low(low)
            await self._hold(acceptance)
            return low
        finally:
            for key in traces:
                del self._in_flight[key]
            if limited:
                self._leave(acceptance.account, len(acceptance.spans))

    def _leave(self, account: str, spans: int) -> None:
        self._storing[account] -= spans
        if not self._storing[account]:
            del self._storing[account]

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

    def _observe(self, account: str, transport: str, decoded: Decoded, taken: _Taken) -> None:
        metrics, new = self._metrics, taken.new
        if new:
            self._observe_sources(account, new)
        if len(decoded.spans) > len(new) + taken.unpaid:
            metrics.duplicate(transport, len(decoded.spans) - len(new) - taken.unpaid)
        if taken.unpaid:
            metrics.rejected(transport, _NOT_PAID, taken.unpaid)
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
