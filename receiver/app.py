"""The composition root: builds every object from the configuration, starts them in order, stops them in order.

Start: TLS, listeners (a taken port ends it here), then admission opens. Stop: admission closes (UNAVAILABLE / 503, so clients
keep their data), requests in flight finish within `shutdown.drain_timeout`, then the process ends. Open traces need no release:
`shutdown.release` asks for one.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import random
import signal
import ssl
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

from receiver import __version__, tables
from receiver.access.keys import Keys
from receiver.access.tls import Tls, TlsFiles, UnusableCertificate
from receiver.clock import Clock, SystemClock
from receiver.closing import RETRY_SECONDS, Closing
from receiver.config import Config, as_table, parse_endpoint
from receiver.core.admission import InFlight
from receiver.core.attribution import AttributionRules
from receiver.core.calls import CountOptions
from receiver.core.journal import Acceptance, Journal, Progress, StoreBroken
from receiver.core.outcome import Theory
from receiver.core.prices import PriceBook, PriceOptions
from receiver.core.sources import Sources
from receiver.core.usage import Reader, Rules
from receiver.core.window import Window, WindowLimits
from receiver.errors import ConfigError, Overloaded, ReceiverError
from receiver.intake import Intake
from receiver.metrics import Metrics
from receiver.metrics.collector import MetricsOptions
from receiver.offline import Offline
from receiver.otlp.decode import Decoder
from receiver.otlp.grpc_server import GrpcOptions, GrpcServer
from receiver.otlp.http_server import HttpOptions, HttpServer
from receiver.otlp.listen import CannotListen
from receiver.otlp.status import Refusals
from receiver.store.folder import Folder
from receiver.store.journal import SqliteJournal
from receiver.store.memory import MemoryJournal
from receiver.web.customer import customer_server
from receiver.web.operator import operator_server
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
RESTORED_ROWS: Final = 256
#: After the disk has failed, how long /metrics and the health pages stay to be seen.
BROKEN_SECONDS: Final = 10.0
#: Other threads get the interpreter lock this often at least (CPython's own default of 5 ms shows in the latency of a request).
SWITCH_INTERVAL_SECONDS: Final = 0.001
#: Python's cyclic garbage collector walks all that lives whenever a quarter has come anew: with 20,000 open spans that is 10 of 33 us
#: a span and holds the loop for 0.3 s. It finds nothing there, for spans make no cycles; grpc's asyncio server makes one a request.
#: So: the young after 10,000 more objects (1 us a span while the window grows, 9 ms at most; nothing while it does not), and what
#: outlived that only after ten million: with (10_000, 10, 10) the middle generation held the loop for 54 ms again and again.
GARBAGE_THRESHOLDS: Final = (10_000, 1_000, 10)

Started = Callable[[Mapping[str, int]], None]


def run(config: Config, *, started: Started | None = None) -> int:
    """Run the daemon until it is told to stop.

    Args:
        config: the whole configuration, checked.
        started: called once everything listens, with the bound port of each listener that is on, by its section.

    Returns:
        The process's exit code: 0 told to stop, 1 it could not start or go on (the log says why).

    Raises:
        ConfigError: as `check` does.

    """
    sys.setswitchinterval(SWITCH_INTERVAL_SECONDS)
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(_serve(config, started))
    except ConfigError:
        raise
    except ReceiverError as error:
        log.error("%s", error)  # noqa: TRY400 -- the sentence is the cause
        return 1
    except ExceptionGroup:
        log.exception("a part of the daemon failed, which is a fault of ours: it ends, and what it acknowledged stays acknowledged")
        return 1
    return 0


async def _serve(config: Config, started: Started | None) -> None:
    """Build the daemon on its loop and run it."""
    with Folder(config.store.directory) as folder:
        daemon: Daemon | None = None

        def broke(error: StoreBroken) -> None:
            assert daemon is not None
            daemon.fail(error)

        clock = SystemClock()
        durable = config.store.ack == "durable"
        journal = SqliteJournal(folder.database, clock=clock, durable=durable, broke=broke)
        if not durable:
            log.warning(
                "store.ack is memory: what is acknowledged is written some milliseconds later, so a crash or a power cut loses"
                " the last of it, and nobody sends it again"
            )
        daemon = Daemon(config, clock=clock, journal=journal)
        gc.collect()
        gc.freeze()  # modules, rules and price tables live as long as the process
        gc.set_threshold(*GARBAGE_THRESHOLDS)
        await daemon.run(started)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """The loop of uvloop where that is installed (extra `fast`), else asyncio's own."""
    try:
        import uvloop  # noqa: PLC0415 -- optional
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


def check(config: Config) -> None:
    """Compile what the configuration names: its price lists, rules and certificates. Raises ConfigError for what cannot be used."""
    theory(config)
    _tls(config)


def price_book(config: Config) -> PriceBook:
    """The price layers that the configuration asks for. Raises ConfigError for a list that cannot be used."""
    prices = config.prices
    litellm = _litellm_list(prices.litellm_file) if prices.litellm_file else None
    rows = as_table(prices)["override"]
    return PriceBook.build(
        tables.load_json("prices.json"),
        patch=tables.load_toml("prices-patch.toml"),
        contract=[row for row in rows if row.get("account")],  # an account's own prices go before everybody's
        overrides=[row for row in rows if not row.get("account")],
        aliases=prices.aliases,
        litellm=litellm,
        options=PriceOptions(
            accept_before=prices.accept_start_before,
            accept_after=prices.accept_start_after,
            prefer_reported=prices.prefer_reported,
            cache_write_default=prices.cache_write_default,
        ),
    )


def _litellm_list(path: str) -> dict[str, Any]:
    try:
        document = json.loads(Path(path).read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError([f"prices.litellm_file: {path} cannot be used: {error}"]) from error
    if not isinstance(document, dict):
        raise ConfigError([f"prices.litellm_file: {path} is no JSON object: it must be LiteLLM's model_prices_and_context_window.json"])
    return document


def theory(config: Config) -> Theory:
    """The rules that turn spans into charges."""
    return Theory(
        rules=Rules.from_tables(tables.load_toml("usage.toml"), as_table(config.usage)["scope"]),
        counting=CountOptions(lost_context=config.counting.join_lost_context, gateway=config.counting.join_gateways),
        book=price_book(config),
        attribution=AttributionRules.from_tables(tables.load_toml("attribution.toml"), config.attribution.keys),
    )


def decoder(config: Config, rules: Theory) -> Decoder:
    """A decoder that keeps the attributes that any rule reads."""
    usage, attribution = rules.rules.limit_of, rules.attribution.limit_of
    return Decoder(
        lambda key: max(usage(key), attribution(key)),
        max_spans=config.otlp.max_spans_per_request,
        max_attributes=config.otlp.max_attributes_per_span,
    )


def offline(config: Config) -> Offline:
    """The same lines for files."""
    rules = theory(config)
    return Offline(decoder=decoder(config, rules), reader=Reader(rules.rules), theory=rules)


@dataclass(frozen=True, slots=True)
class _Listeners:
    """What listens; a listener that is off is not in it."""

    grpc: GrpcServer | None
    http: HttpServer | None
    web: dict[str, WebServer]  #: "operator", "customer"

    @property
    def ports(self) -> dict[str, int]:
        servers: dict[str, GrpcServer | HttpServer | WebServer | None] = {"otlp.grpc": self.grpc, "otlp.http": self.http, **self.web}
        return {name: server.bound[0][1] for name, server in servers.items() if server is not None and server.bound}


class Daemon:
    """One running daemon. `Operations` of the operator's listener is fulfilled here."""

    def __init__(self, config: Config, *, clock: Clock | None = None, journal: Journal | None = None) -> None:
        """Build everything; nothing listens yet. Without a journal, what is accepted lives in memory alone. Raises ConfigError."""
        self._config = config
        self._clock = clock = clock or SystemClock()
        rules = theory(config)
        self.metrics = Metrics(_metrics_options(config), unix_nano=clock.unix_nano)
        self.journal: Journal = journal or MemoryJournal()
        self.journal.watch(self.metrics.fold)
        self.window = Window(_window_limits(config), records=self.journal.records)
        self._sources = Sources()
        self.closing = Closing(window=self.window, theory=rules, journal=self.journal, sources=self._sources, clock=clock)
        self._budget = InFlight(config.otlp.max_in_flight)
        self.intake = Intake(
            decoder=decoder(config, rules),
            reader=Reader(rules.rules),
            window=self.window,
            journal=self.journal,
            closing=self.closing,
            keys=Keys((key.account, key.sha256) for key in config.access.keys),
            budget=self._budget,
            metrics=self.metrics,
            sources=self._sources,
            clock=clock,
        )
        self._book = rules.book
        self._tls = _tls(config)
        self._stopping = asyncio.Event()
        self._failure: StoreBroken | None = None
        self._restoring = ""  #: how far, for people
        self._told_to_stop = 0.0  #: monotonic seconds of the first signal
        self._acts: set[asyncio.Task[None]] = set()  #: begun by signals; held, or the loop may forget them
        self._register_gauges()

    async def run(self, started: Started | None = None) -> None:
        """Serve until SIGTERM or SIGINT. Raises ReceiverError when it cannot start."""
        async with self.serving() as ports:
            self._handle_signals()
            if started is not None:
                started(ports)
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
        await _start(listeners)
        async with asyncio.TaskGroup() as tasks:
            background = [tasks.create_task(self.closing.run()), tasks.create_task(self._watch_stalls())]
            if self._tls is not None:
                background.append(tasks.create_task(self._watch_tls(self._tls)))
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

    async def _restore(self) -> None:
        """Go on where the last process ended: counters first, then the window. Operators see how far it is."""
        journal, metrics = self.journal, self.metrics
        metrics.restore(journal.series())
        for number, entry in enumerate(journal.unobserved(), 1):
            metrics.fold(entry)
            if number % RESTORED_ROWS == 0:
                await asyncio.sleep(0)
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

    async def _drain(self, listeners: _Listeners) -> None:
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
        with contextlib.suppress(Overloaded):  # then the next process adds up what came since the last one
            await self.journal.snapshot(self.metrics.series())
        await self.journal.stop()
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
            }
            for row in self.window.waiting(limit)
        ]

    def sources(self) -> list[dict[str, Any]]:
        return self._sources.as_json()

    # --- building ----------------------------------------------------------------------------------------------------------

    def _listeners(self) -> _Listeners:
        config, tls = self._config, self._tls
        refusals = Refusals(random.Random())  # noqa: S311 -- jitter of retry delays, not a secret
        common: dict[str, Any] = {"export": self.intake, "observer": self.metrics, "refusals": refusals, "clock": self._clock}
        otlp, grpc_, http = config.otlp, config.otlp.grpc, config.otlp.http
        grpc_server = http_server = None
        if grpc_.endpoint:
            options = GrpcOptions(
                endpoint=parse_endpoint(grpc_.endpoint),
                server=grpc_.server,
                max_request_bytes=otlp.max_request_size,
                handshake_timeout_seconds=grpc_.handshake_timeout,
                max_concurrent_streams=grpc_.max_concurrent_streams,
                max_connection_age_seconds=grpc_.max_connection_age or None,
                discard_other_signals=otlp.discard_other_signals,
            )
            credentials = tls.grpc_credentials() if tls is not None and not grpc_.insecure else None
            grpc_server = GrpcServer(options, credentials=credentials, **common)
        if http.endpoint:
            http_options = HttpOptions(
                endpoint=parse_endpoint(http.endpoint),
                traces_path=http.traces_path,
                max_request_bytes=otlp.max_request_size,
                header_timeout_seconds=http.header_timeout,
                body_window_seconds=http.body_timeout,
                body_bytes_per_second=http.min_body_rate,
                idle_timeout_seconds=http.idle_timeout,
                max_connections=http.max_connections,
                discard_other_signals=otlp.discard_other_signals,
                grpc_port=parse_endpoint(grpc_.endpoint or "localhost:4317").port,
            )
            http_server = HttpServer(http_options, ssl_context=_context(tls, insecure=http.insecure), **common)
        web: dict[str, WebServer] = {}
        if config.operator.endpoint:
            operations = _Operations(self)
            web["operator"] = operator_server(config.operator, operations, ssl_context=_context(tls, insecure=config.operator.insecure))
        if config.customer.endpoint:
            web["customer"] = customer_server(config.customer, ssl_context=_context(tls, insecure=config.customer.insecure))
        return _Listeners(grpc_server, http_server, web)

    def _register_gauges(self) -> None:
        window, clock, metrics = self.window, self._clock, self.metrics
        metrics.gauge("window_traces", lambda: window.traces)
        metrics.gauge("window_bytes", lambda: window.bytes)
        metrics.gauge("window_trace_age_seconds", lambda: window.oldest_age(now=clock.monotonic()))
        metrics.gauge("window_provisional_cost_usd", lambda: self.closing.provisional_pusd / 1e12)
        metrics.gauge("seen_horizon_seconds", lambda: window.seen_horizon_seconds(now=clock.monotonic()))
        metrics.gauge("price_snapshot_age_seconds", lambda: clock.unix_nano() / 1e9 - self._book.snapshot_unix_nano / 1e9)
        metrics.gauge("receiver_in_flight_bytes", self._budget.held)

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


async def _start(listeners: _Listeners) -> None:
    """Start every listener; when one cannot, those before it are stopped again. Raises CannotListen, which names the key."""
    begun: list[GrpcServer | HttpServer | WebServer] = []
    try:
        for name, server in (*listeners.web.items(), ("otlp.http", listeners.http), ("otlp.grpc", listeners.grpc)):
            if server is not None:
                begun.append(server)
                try:
                    await server.start()
                except CannotListen as error:
                    raise CannotListen(f"{name}.endpoint: {error}") from error
    except BaseException:
        for server in reversed(begun):
            await server.stop(0)
        raise


def _tls(config: Config) -> Tls | None:
    """The certificates of all listeners, None for plain text. Raises ConfigError when they cannot be used."""
    tls = config.tls
    if not tls.cert_file:
        return None
    client_ca = Path(tls.client_ca_file) if tls.client_ca_file else None
    try:
        return Tls(TlsFiles(Path(tls.cert_file), Path(tls.key_file), client_ca))
    except UnusableCertificate as error:
        raise ConfigError([f"tls: {error}"]) from error


def _context(tls: Tls | None, *, insecure: bool) -> ssl.SSLContext | None:
    return None if tls is None or insecure else tls.ssl_context


def _window_limits(config: Config) -> WindowLimits:
    window = config.window
    return WindowLimits(**{each.name: getattr(window, each.name) for each in fields(window)})


def _metrics_options(config: Config) -> MetricsOptions:
    metrics = config.metrics
    return MetricsOptions(**{each.name: getattr(metrics, each.name) for each in fields(metrics)})
