"""One running daemon: started, restored, serving, drained, in this order.

Start: listeners (a taken port ends it here), then what the last process left is read back, then admission opens. Stop: admission
closes (UNAVAILABLE / 503, so clients keep their data), requests in flight finish within `shutdown.drain_timeout`, then the process
ends. Open traces need no release: `shutdown.release` asks for one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from typing import Any, Final

from receiver import __version__
from receiver.access.keys import KeyNeed
from receiver.access.tls import Tls
from receiver.building import Listeners, certificates, decoder, metrics_options, otlp_servers, theory, tls_context, window_limits
from receiver.clock import Clock, SystemClock
from receiver.closing import RETRY_SECONDS, Closing
from receiver.config import Config
from receiver.core.admission import InFlight
from receiver.core.books import Balances
from receiver.core.journal import Acceptance, Journal, Progress, StoreBroken
from receiver.core.money import format_usd
from receiver.core.sources import Sources
from receiver.core.usage import Reader
from receiver.core.window import Window
from receiver.errors import Overloaded
from receiver.intake import Intake
from receiver.metrics import Metrics
from receiver.offices import Offices
from receiver.store.memory import MemoryJournal
from receiver.web.customer import customer_server
from receiver.web.operator import operator_server
from receiver.web.overview import Overview
from receiver.web.server import WebServer

log = logging.getLogger(__name__)

#: How often certificates are looked at for a change: a few stat calls, and a renewal is days ahead of the expiry.
TLS_LOOK_SECONDS: Final = 5.0
#: How often the event loop's punctuality is measured; a stall longer than this is seen whole.
STALL_LOOK_SECONDS: Final = 0.1
#: Process managers may signal the process and its group: what comes so soon after the first signal is its echo, no second thought.
STOP_ECHO_SECONDS: Final = 0.5
#: How often the metrics are written down. What is in the journal since is added up at the next start: at most so long a stretch.
SNAPSHOT_SECONDS: Final = 30.0
#: Rows that are added up in one go at the start: a few milliseconds.
RESTORED_ROWS: Final = 64
#: After the disk has failed, how long /metrics and the health pages stay to be seen.
BROKEN_SECONDS: Final = 10.0

Started = Callable[[Mapping[str, int], KeyNeed], None]


class Daemon:
    """One running daemon. `Operations` of the operator's listener is fulfilled here."""

    def __init__(
        self,
        config: Config,
        *,
        clock: Clock | None = None,
        journal: Journal | None = None,
        offices: Offices | None = None,
        operator_token: str = "",
        listening: Callable[[Listeners], None] = lambda _: None,
    ) -> None:
        """Build everything; nothing listens yet.

        Args:
            config: the whole configuration, checked.
            clock: tells the time.
            journal: where spans are kept; by default the offices' own, or memory alone.
            offices: accounts and credit over the books of a data folder; by default without any.
            operator_token: what opens the operator's acts.
            listening: told once everything listens, before what the last process left is read back.

        Raises:
            ConfigError: a list, a rule or a certificate that the configuration names cannot be used.
        """
        self._config = config
        self._clock = clock = clock or SystemClock()
        rules = theory(config)
        self._operator_token = operator_token
        self._listening = listening
        self.offices = offices = offices or Offices(config, ledger=Balances(), clock=clock)
        self.metrics = Metrics(metrics_options(config), unix_nano=clock.unix_nano, max_series_of=offices.max_series)
        if journal is None:
            journal = MemoryJournal() if offices.books is None else offices.books.journal
        self.journal: Journal = journal
        self.journal.watch(self.metrics.fold)
        self.window = Window(window_limits(config), records=self.journal.records)
        self._sources = Sources()
        self.closing = Closing(
            window=self.window, theory=rules, journal=self.journal, sources=self._sources, clock=clock, privacy=offices.privacy
        )
        self._budget = InFlight(config.otlp.max_in_flight, account_limit_bytes=offices.max_in_flight)
        self.intake = Intake(
            decoder=decoder(config, rules),
            reader=Reader(rules.rules),
            window=self.window,
            journal=self.journal,
            closing=self.closing,
            credentials=offices.register,
            credit=offices.credit,
            budget=self._budget,
            metrics=self.metrics,
            sources=self._sources,
            clock=clock,
            topup_url=offices.topup_url,
            on_low=offices.warn,
            on_exhausted=offices.exhausted,
            max_open_spans=offices.max_open_spans,
        )
        self._book = rules.book
        self._tls = certificates(config)
        self._stopping = asyncio.Event()
        self._failure: StoreBroken | None = None
        self._restoring = ""  #: how far, for people
        self._restored = False  #: the counters are whole
        self._told_to_stop = 0.0  #: monotonic seconds of the first signal
        self._acts: set[asyncio.Task[None]] = set()  #: begun by signals; held, or the loop may forget them
        self._overview = Overview(
            ready=self.ready,
            waiting=lambda limit: self.waiting(limit=limit),
            window=self.window,
            provisional_pusd=lambda: self.closing.provisional_pusd,
            metrics=self.metrics,
            sources=self._sources,
            money=offices,
            backend=config.lightning.backend,
            clock=clock,
        )
        self._register_gauges()

    async def run(self, started: Started | None = None) -> None:
        """Serve until SIGTERM or SIGINT. Raises ReceiverError when it cannot start."""
        async with self.serving() as ports:
            self._handle_signals()
            if started is not None:
                started(ports, self.offices.register.asked)
            log.info("ready", extra={"version": __version__})
            await self._stopping.wait()
        if self._failure is not None:
            raise self._failure

    def fail(self, error: StoreBroken) -> None:
        """The disk has failed: nothing is taken any more. What operators see stays for a while, then the process ends, and not with 0."""
        log.critical("%s", error)
        self._failure = error
        self.intake.refusal = error.reason
        asyncio.get_running_loop().call_later(BROKEN_SECONDS, self._stopping.set)

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[Mapping[str, int]]:
        """Everything listens inside; yields the bound ports. On the way out requests in flight are finished."""
        listeners = self._listeners()
        await listeners.start()
        self.offices.customer_port = listeners.ports.get("customer", 0)
        self._listening(listeners)
        async with asyncio.TaskGroup() as tasks:
            background = [tasks.create_task(self.closing.run()), tasks.create_task(self._watch_stalls())]
            if self._tls is not None:
                background.append(tasks.create_task(self._watch_tls(self._tls)))
            background += map(tasks.create_task, self.offices.jobs())
            try:
                await self._restore()
                background.append(tasks.create_task(self._snapshots()))
                self.intake.refusal = None
                if listeners.grpc is not None:
                    await listeners.grpc.set_serving(True)
                yield listeners.ports
            finally:
                await self._drain(listeners)
                for task in background:
                    task.cancel()
                await asyncio.wait(background)  # before the books go: whoever they were for must have let go of them
                if self.offices.books is None:
                    await self.journal.stop()

    async def _restore(self) -> None:
        """Go on where the last process ended: counters first, then the window. Operators see how far it is."""
        journal, metrics = self.journal, self.metrics
        metrics.restore(journal.series())
        for number, entry in enumerate(journal.unobserved(), 1):
            metrics.fold(entry)
            if number % RESTORED_ROWS == 0:
                await asyncio.sleep(0)
        self._restored = True
        begun = self._clock.monotonic()
        remembered = opened = 0
        for step in journal.replay():
            if isinstance(step, Progress):
                self._restoring = f", {step.done} of {step.total} rows of the journal are read"
                await asyncio.sleep(0)
            elif isinstance(step, Acceptance):
                await self.intake.restore(step)
                opened += len(step.spans)
                await asyncio.sleep(0)
            else:
                self.window.remember(step, now=self._clock.monotonic())
                remembered += len(step)
        self.closing.remembered()
        with contextlib.suppress(Overloaded):  # the next one is in half a minute
            await journal.snapshot(metrics.series())  # without what an orderly stop handed on: from here on there is more of it
        self._restoring = ""
        if remembered or opened:
            took = round(self._clock.monotonic() - begun, 3)
            log.info("went on from the journal", extra={"open_spans": opened, "remembered_traces": remembered, "seconds": took})

    async def _snapshots(self) -> None:
        while True:
            await asyncio.sleep(SNAPSHOT_SECONDS)
            try:
                await self.journal.snapshot(self.metrics.series())
            except Overloaded as error:
                log.warning("the metrics could not be written down, which is tried again in %g s: %s", SNAPSHOT_SECONDS, error)

    async def _drain(self, listeners: Listeners) -> None:
        """Stop taking, finish what is under way, release if asked, and only then take the operator's view away."""
        self.intake.refusal = "shutdown"
        grace = self._config.shutdown.drain_timeout
        receivers: list[Coroutine[Any, Any, None]] = []
        if listeners.grpc is not None:
            await listeners.grpc.set_serving(False)
            receivers.append(listeners.grpc.stop(grace))
        if listeners.http is not None:
            receivers.append(listeners.http.stop(grace))
        await asyncio.gather(*receivers)
        if self._config.shutdown.release:
            try:
                closed = await self.closing.release_all(now=self._clock.monotonic())
            except Exception:
                log.exception("open traces could not be closed on the way out")
            else:
                log.info("open traces were closed on the way out", extra={"traces": closed})
        if not await self.closing.stop(grace):
            log.warning("a close was not committed within shutdown.drain_timeout; the next start finds its traces open, or closed")
        with contextlib.suppress(Overloaded):  # then the next process adds up what came since the last one
            await self.journal.snapshot(self.metrics.series(orderly=True))
        await asyncio.gather(*(server.stop() for server in listeners.web.values()))

    # --- what the operator's listener asks ---------------------------------------------------------------------------------

    async def exposition(self, accept: str) -> tuple[str, bytes]:
        return await self.metrics.exposition(accept)

    def ready(self) -> tuple[bool, str]:
        refusal = self.intake.refusal
        return refusal is None, "" if refusal is None else f"exports are refused just now: {refusal}{self._restoring}"

    async def release(self) -> int:
        try:
            closed = await self.closing.release_all(now=self._clock.monotonic())
        except Exception as error:
            log.exception("open traces could not be closed; the same ones are tried again in %g s", RETRY_SECONDS)
            raise Overloaded(reason="internal", retry_after_seconds=RETRY_SECONDS, detail="the close failed, and is tried again") from error
        log.info("open traces were closed because the operator asked", extra={"traces": closed})
        return closed

    def waiting(self, *, limit: int) -> list[dict[str, Any]]:
        now = self._clock.monotonic()
        return [
            {
                "account": row.key.account,
                "trace_id": row.key.trace_id.hex(),
                "spans": row.spans,
                "bytes": row.bytes,
                "age_seconds": round(now - row.first_held, 3),
                "quiet_seconds": round(now - row.last_held, 3),
                "root_seen": row.root_seen,
                "reopened": row.generation > 0,
                "waits_for": row.trigger.value,
                "closes_in_seconds": round(max(0.0, row.deadline - now), 3),
                "provisional_pusd": (pusd := self.closing.provisional_of(row.key)),
                "provisional_usd": format_usd(pusd),
            }
            for row in self.window.waiting(limit)
        ]

    def sources(self) -> list[dict[str, Any]]:
        return self._sources.as_json()

    async def overview(self) -> dict[str, Any]:
        return await self._overview.shown()

    # --- building ----------------------------------------------------------------------------------------------------------

    def _listeners(self) -> Listeners:
        config, tls, offices = self._config, self._tls, self.offices
        grpc, http = otlp_servers(config, export=self.intake, observer=self.metrics, clock=self._clock, tls=tls)
        web: dict[str, WebServer] = {}
        listeners = Listeners(grpc, http, web)
        if config.operator.endpoint:
            context = tls_context(tls, insecure=config.operator.insecure)
            more = offices.operator_routes()
            web["operator"] = operator_server(
                config.operator, _Operations(self), token=self._operator_token, more=more, ssl_context=context
            )
        if config.customer.endpoint:
            context = tls_context(tls, insecure=config.customer.insecure)
            web["customer"] = customer_server(
                config.customer,
                offices.register,
                more=offices.customer_routes(),
                welcome=lambda: offices.welcome(listeners.ports),
                ssl_context=context,
            )
        return listeners

    def _register_gauges(self) -> None:
        window, clock, metrics = self.window, self._clock, self.metrics
        metrics.gauge("window_traces", lambda: window.traces)
        metrics.gauge("window_bytes", lambda: window.bytes + window.seen_bytes)
        metrics.gauge("window_trace_age_seconds", lambda: window.oldest_age(now=clock.monotonic()))
        metrics.gauge("window_provisional_cost_usd", lambda: self.closing.provisional_pusd / 1e12)
        metrics.gauge("seen_horizon_seconds", lambda: window.seen_horizon_seconds(now=clock.monotonic()))
        metrics.gauge("price_snapshot_age_seconds", lambda: clock.unix_nano() / 1e9 - self._book.snapshot_unix_nano / 1e9)
        metrics.gauge("receiver_in_flight_bytes", self._budget.held)
        if self.offices.books is not None:
            journal = self.offices.books.journal
            metrics.gauge("journal_bytes", lambda: journal.bytes)
            metrics.gauge("journal_unreleased_rows", lambda: journal.unreleased_rows)
            journal.writer.on_commit = metrics.commit
        self.offices.show(metrics, lambda: self.journal.snapshot(metrics.series()), lambda: self._restored)

    # --- while it runs -----------------------------------------------------------------------------------------------------

    def _handle_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)
        loop.add_signal_handler(signal.SIGUSR1, self._release_on_signal)
        if self._tls is not None:
            loop.add_signal_handler(signal.SIGHUP, self._tls.reload)
        else:
            loop.add_signal_handler(signal.SIGHUP, lambda: log.info("SIGHUP: no certificates to read again"))

    def _stop(self) -> None:
        """The first signal stops in order; a second one ends the process at once."""
        if self._stopping.is_set():
            if self._clock.monotonic() < self._told_to_stop + STOP_ECHO_SECONDS:
                return
            log.warning("told to stop a second time: ending at once")
            sys.stderr.flush()
            signal.raise_signal(signal.SIGKILL)
        self._told_to_stop = self._clock.monotonic()
        log.info("told to stop: finishing what is in flight")
        self._stopping.set()

    def _release_on_signal(self) -> None:
        task = asyncio.get_running_loop().create_task(self._release_quietly())
        self._acts.add(task)
        task.add_done_callback(self._acts.discard)

    async def _release_quietly(self) -> None:
        with contextlib.suppress(Overloaded):  # the log has it
            await self.release()

    async def _watch_tls(self, tls: Tls) -> None:
        while True:
            await asyncio.sleep(TLS_LOOK_SECONDS)
            tls.reload_if_changed()

    async def _watch_stalls(self) -> None:
        """How late the loop wakes us is how long somebody held it."""
        monotonic = self._clock.monotonic
        while True:
            due = monotonic() + STALL_LOOK_SECONDS
            await asyncio.sleep(STALL_LOOK_SECONDS)
            self.metrics.loop_stall(max(0.0, monotonic() - due))


class _Operations:
    """The daemon as the operator's listener sees it."""

    def __init__(self, daemon: Daemon) -> None:
        self.exposition = daemon.exposition
        self.ready = daemon.ready
        self.release = daemon.release
        self.window = daemon.waiting
        self.sources = daemon.sources
        self.overview = daemon.overview
