"""Credits what was paid: the third straight line.

    Lightning node -settlement-> Settlement -settle (one commit)-> ledger

Two tasks that know each other by one set. `_listen` keeps a subscription open and puts what it hears of into the set; `_look`
looks up what is in it and credits. Whenever a subscription has been opened, *after* it was, everything unsettled goes into the
set too: what was paid between the last look and the subscription is found by the look, what is paid later by the subscription.
A timer does the same each minute, since nodes lose events on live streams.

Rule 1: only a lookup credits; the cursor saves work and filters nothing.
Rule 2: whatever happens here, spans are accepted as ever: nothing in the request path waits for a node.
Rule 3: no failure ends the watch. What the node or the store cannot do now is tried again, later and later up to a minute, with
        jitter, so that a node that comes back is not met by all its clients at once.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final, Protocol

from receiver.clock import Clock
from receiver.core.invoices import (
    OPEN_LOOK_SECONDS,
    Credited,
    InvoiceState,
    NodeState,
    Settlement,
    TopUp,
    TopUps,
    Verdict,
    after,
    look_interval_seconds,
    watched_since_unix_nano,
)
from receiver.core.ledger import Outcome
from receiver.errors import ReceiverError
from receiver.lightning import bolt11
from receiver.lightning.client import Invoice, LightningClient, NodeUnavailable
from receiver.lightning.credential import CredentialRefused

if TYPE_CHECKING:
    import random

log = logging.getLogger(__name__)

#: Everything unsettled is read from the store and looked at again at least this often.
RECONCILE_SECONDS: Final = 60.0
#: Waits after a failure: 1, 2, 4 ... up to this, each spread by JITTER.
LONGEST_BACK_OFF_SECONDS: Final = 60.0
JITTER: Final = 0.2
#: Lookups at once: a thousand invoices that were paid during an outage are credited within seconds, a small node is not flooded.
LOOKUPS_AT_ONCE: Final = 8
#: How the descriptions of our invoices begin (`admin.credit`).
DESCRIPTION: Final = "Spantoll credit"
#: Hints that are remembered at once; above it they are dropped and everything unsettled is looked at instead.
MAX_HINTS: Final = 10_000


class Settles(Protocol):
    """The part of a Ledger that credits."""

    def settle(self, settlement: Settlement) -> Awaitable[Credited]: ...


class Watcher:
    """Watches one node. One event loop owns it."""

    def __init__(
        self,
        *,
        client: LightningClient,
        topups: TopUps,
        ledger: Settles,
        clock: Clock,
        rng: random.Random,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        on_credit: Callable[[TopUp], None] = lambda _: None,
        on_move: Callable[[InvoiceState, InvoiceState], None] = lambda _before, _after: None,
        restored: bool = False,
    ) -> None:
        """`on_credit`: told of every top-up that was credited just now, after its commit; `on_move`: of every change of a state.

        Neither may raise. `restored`: the books are those of an earlier day, so what is not in them may be of ours all the same.
        """
        self._client = client
        self._topups = topups
        self._ledger = ledger
        self._clock = clock
        self._rng = rng
        self._sleep = sleep
        self._on_credit = on_credit
        self._on_move = on_move
        self._restored = restored
        self._rows: dict[bytes, TopUp] = {}  # what was unsettled when the store was last read
        self._due: dict[bytes, float] = {}  # when each is looked up next, monotonic seconds
        self._hinted: dict[bytes, None] = {}  # not looked up since the node told of them
        self._cursor: tuple[str, str] | None = None  # (node, the last that was heard); kept once nothing is hinted any more
        self._reconcile_at = self._clock.monotonic()
        self._everything = True
        self._wake = asyncio.Event()
        self._opened = asyncio.Event()
        self._waiting: dict[bytes, set[asyncio.Event]] = {}
        self.up = False  #: whether the node answered last
        self.reconciled_at: float | None = None  #: monotonic seconds, of the last time that all that was due was looked up
        self.counts: Counter[str] = Counter()  #: by Verdict and by what a lookup found, for metrics

    async def run(self) -> None:
        """Watch until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._listen(), name="lightning-listen")
            tasks.create_task(self._look_forever(), name="lightning-look")

    def watch(self, topup: TopUp) -> None:
        """A new top-up, which the store holds already."""
        self._rows[topup.payment_hash] = topup
        self._schedule(topup)
        self._wake.set()

    def hint(self, payment_hash: bytes) -> None:
        """Somebody says that this was paid: look now. Anyone may say so; only the node is believed."""
        if len(self._hinted) >= MAX_HINTS and payment_hash not in self._hinted:
            self._everything = True
        else:
            self._hinted[payment_hash] = None
            self._due[payment_hash] = self._clock.monotonic()
        self._wake.set()

    async def wait_settled(self, payment_hash: bytes, *, seconds: float) -> TopUp | None:
        """The top-up once it is settled, or as it is after `seconds`; None when there is none. For a page that waits."""
        settled = asyncio.Event()
        waiting = self._waiting.setdefault(payment_hash, set())
        waiting.add(settled)  # before the store is asked: what is credited in between is not missed
        try:
            row = await self._topups.find(payment_hash)
            if row is None or row.state is InvoiceState.SETTLED:
                return row
            await self._first_of(settled, seconds)
            return await self._topups.find(payment_hash)
        finally:
            waiting.discard(settled)
            if not waiting:
                self._waiting.pop(payment_hash, None)

    # The subscription

    async def _listen(self) -> None:
        failures = 0
        while True:
            began = self._clock.monotonic()
            try:
                await self._subscription()
                log.info("the Lightning node ended its stream of settlements")
            except ReceiverError as error:
                log.warning("no stream of settlements from the Lightning node", extra={"error": str(error)})
            except Exception:
                log.exception("an unexpected fault in the stream of settlements; it is opened again")
            self.up = False
            # A stream that held for a while has earned a quick return; one that falls at once has not.
            failures = 1 if self._clock.monotonic() - began > LONGEST_BACK_OFF_SECONDS else failures + 1
            await self._sleep(self._back_off(failures))

    async def _subscription(self) -> None:
        node = await self._client.node()
        async with self._client.subscribe(await self._topups.cursor(node.payee)) as hints:
            self.up = True
            self._everything = True
            self._wake.set()
            self._opened.set()
            async for hint in hints:
                self.counts["hints"] += 1
                if hint.cursor is not None:
                    self._cursor = (node.payee, hint.cursor)
                self.hint(hint.payment_hash)

    # The lookups

    async def _look_forever(self) -> None:
        failures = 0
        while True:
            try:
                well = await self._pass()
            except ReceiverError as error:
                log.warning("top-ups cannot be looked at just now", extra={"error": str(error)})
                well = False
            except Exception:
                log.exception("an unexpected fault while top-ups were looked at; they are looked at again")
                well = False
            if well:
                failures = 0
                await self._first_of(self._wake, self._seconds_to_next())
                self._wake.clear()
            else:
                # A hint or a new top-up would meet the same failure, so it waits as well; a node that is back is met at once.
                failures += 1
                self._opened.clear()
                await self._first_of(self._opened, self._back_off(failures))

    async def _pass(self) -> bool:
        """Look at all that is due; whether every look ended well."""
        now = self._clock.monotonic()
        if self._everything or now >= self._reconcile_at:
            await self._read(now, everything=self._everything)
        due = [payment_hash for payment_hash, at in self._due.items() if at <= now]
        failed = False
        for begin in range(0, len(due), LOOKUPS_AT_ONCE):
            batch = due[begin : begin + LOOKUPS_AT_ONCE]
            results = await asyncio.gather(*map(self._look, batch), return_exceptions=True)
            for payment_hash, result in zip(batch, results, strict=True):
                if isinstance(result, (NodeUnavailable, CredentialRefused)):
                    self.up = False
                    raise result  # all others would fail too; everything stays due
                if isinstance(result, Exception):
                    failed = True
                    self._due[payment_hash] = now + OPEN_LOOK_SECONDS  # it must not keep the others from their turn
                    known = result if not isinstance(result, ReceiverError) else None
                    log.error("a top-up could not be looked at: %s", result, extra={"payment_hash": payment_hash.hex()}, exc_info=known)
                elif isinstance(result, BaseException):
                    raise result  # cancelled
        if not failed:
            await self._keep_cursor()
            self.reconciled_at = now
        return not failed

    async def _read(self, now: float, *, everything: bool) -> None:
        """Read the unsettled rows anew: the store is the truth, and other processes (the CLI) may have written."""
        self._everything = False
        try:
            rows = await self._topups.unsettled(watched_since_unix_nano=watched_since_unix_nano(now_unix_nano=self._clock.unix_nano()))
        except BaseException:
            self._everything |= everything
            raise
        self._rows = {row.payment_hash: row for row in rows}
        if everything:
            due = dict.fromkeys(self._rows, now)
        else:
            due = {payment_hash: self._due.get(payment_hash, now) for payment_hash in self._rows}
        self._due = {payment_hash: self._due.get(payment_hash, now) for payment_hash in self._hinted} | due
        self._reconcile_at = now + RECONCILE_SECONDS

    async def _look(self, payment_hash: bytes) -> None:
        """Look one top-up up, and do what follows."""
        row = self._rows.get(payment_hash) or await self._topups.find(payment_hash)
        if row is None:
            self.counts[Verdict.FOREIGN.value] += 1
            if self._restored:
                await self._say_lost(payment_hash)
            self._done(payment_hash)
            return
        said = await self._client.lookup(payment_hash)
        self.up = True
        self.counts[f"node_{said.state.value}"] += 1
        if said.state is NodeState.SETTLED:
            await self._settle(row, said)
            return
        state = after(row, said.state, now_unix_nano=self._clock.unix_nano())
        if state is not row.state:
            if await self._topups.move(payment_hash, before=row.state, after=state):
                self._on_move(row.state, state)
            row = row.moved(state)
        self._hinted.pop(payment_hash, None)
        if payment_hash in self._rows:
            self._rows[payment_hash] = row
            self._schedule(row)
        else:
            self._done(payment_hash)  # out of the watch window: looked at because of a hint alone

    async def _say_lost(self, payment_hash: bytes) -> None:
        """A payment that is in no books of ours may be of an invoice of ours: one that was made after the backup that was restored.

        Whose it is the invoice says, in words that anyone with an account at the node could write; so nothing is credited for it here.
        """
        said = await self._client.lookup(payment_hash)
        if said.state is not NodeState.SETTLED:
            return
        try:
            description = bolt11.decode(said.bolt11).description or ""
        except bolt11.MalformedInvoice:
            return
        if description.startswith(DESCRIPTION):
            log.error(
                "a payment for credit is not in the books, which may have been restored from a backup: give it by hand with"
                " `spantoll credit adjust ACCOUNT --msat N --id PAYMENT_HASH`",
                extra={"payment_hash": payment_hash.hex(), "received_msat": said.received_msat, "invoice_says": description},
            )

    async def _settle(self, row: TopUp, said: Invoice) -> None:
        settlement = Settlement(
            payment_hash=row.payment_hash,
            preimage=said.preimage,
            received_msat=said.received_msat,
            settled_unix_nano=said.settled_unix_nano or self._clock.unix_nano(),
        )
        credited = await self._ledger.settle(settlement)
        self.counts[credited.verdict.value] += 1
        facts = {"account": row.account, "payment_hash": row.payment_hash.hex(), "received_msat": said.received_msat}
        if credited.verdict is not Verdict.CREDIT:
            log.error("the node says that a top-up was paid, but it is not credited", extra={**facts, "why": credited.verdict.value})
            self._hinted.pop(row.payment_hash, None)
            self._due[row.payment_hash] = self._clock.monotonic() + OPEN_LOOK_SECONDS
            return
        self._done(row.payment_hash)
        match credited.outcome:
            case Outcome.CREATED:
                assert credited.topup is not None
                log.info("a top-up was credited", extra={**facts, "late": credited.topup.late})
                self._on_move(row.state, credited.topup.state)
                self._on_credit(credited.topup)
            case Outcome.EXISTS:
                pass  # told twice; credited once
            case other:
                log.error("a top-up contradicts the books and is not credited again", extra={**facts, "why": other.value if other else ""})
        for settled in self._waiting.get(row.payment_hash, ()):
            settled.set()

    def _done(self, payment_hash: bytes) -> None:
        for table in (self._rows, self._due, self._hinted):
            table.pop(payment_hash, None)

    def _schedule(self, row: TopUp) -> None:
        self._due[row.payment_hash] = self._clock.monotonic() + look_interval_seconds(row, now_unix_nano=self._clock.unix_nano())

    async def _keep_cursor(self) -> None:
        """Remember how far the node's stream was heard, once all that it told of was looked up."""
        if self._cursor is not None and not self._hinted and not self._everything:
            heard = self._cursor
            await self._topups.keep_cursor(*heard)
            if self._cursor == heard:
                self._cursor = None

    def _seconds_to_next(self) -> float:
        now = self._clock.monotonic()
        return max(0.0, min([self._reconcile_at, *self._due.values()]) - now)

    async def _first_of(self, event: asyncio.Event, seconds: float) -> None:
        """Until `event` is set, at most `seconds`."""
        tasks = {asyncio.ensure_future(event.wait()), asyncio.ensure_future(self._sleep(seconds))}
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()

    def _back_off(self, failures: int) -> float:
        seconds: float = min(LONGEST_BACK_OFF_SECONDS, 2.0 ** min(failures - 1, 16))
        return seconds * self._rng.uniform(1 - JITTER, 1 + JITTER)
