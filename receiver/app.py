"""The composition root: what can be begun, and in which order its objects come to life.

`run` is the daemon, `office` its books without it, `offline` its two lines for files, `check` what all of them would need.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import sys
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

from receiver.access.operator_token import ensure_token
from receiver.access.operator_url import remove_url, write_url
from receiver.admin import play_money
from receiver.admin.webhook import read_secret
from receiver.building import Listeners, certificates, decoder, listening_hosts, price_book, theory
from receiver.clock import Clock, SystemClock
from receiver.config import Config, Operator
from receiver.core.journal import StoreBroken
from receiver.core.usage import Reader
from receiver.daemon import Daemon, Started
from receiver.errors import ConfigError, Overloaded, ReceiverError
from receiver.lightning.backends import DEV
from receiver.lightning.dev import check_exposure
from receiver.offices import Offices
from receiver.offline import Offline
from receiver.store.books import SqliteBooks
from receiver.store.folder import Folder, FolderInUse
from receiver.web.operator import operator_server

__all__ = ["Daemon", "check", "decoder", "office", "offline", "price_book", "run", "theory"]

log = logging.getLogger(__name__)

#: Other threads get the interpreter lock this often at least (CPython's own default of 5 ms shows in the latency of a request).
SWITCH_INTERVAL_SECONDS: Final = 0.001
#: Python's cyclic garbage collector walks all that lives whenever a quarter has come anew: with 20,000 open spans that is 10 of 33 us
#: a span and holds the loop for 0.3 s. It finds nothing there, for spans make no cycles; grpc's asyncio server makes one a request.
#: So: the young after 10,000 more objects (1 us a span while the window grows, 9 ms at most; nothing while it does not), and what
#: outlived that only after ten million: with (10_000, 10, 10) the middle generation held the loop for 54 ms again and again.
GARBAGE_THRESHOLDS: Final = (10_000, 1_000, 10)

#: How soon a command asks again whether a daemon has been started meanwhile.
NO_DAEMON_RETRY_SECONDS: Final = 5.0

#: How long a daemon that starts waits for the folder: as long as a command needs that found no daemon. Another daemon stays.
COMMAND_SECONDS: Final = 2.0
LOOK_SECONDS: Final = 0.05
#: Between "nobody is to come any more" and the end of an office: whoever had read before where it is has asked by then.
LAST_CALL_SECONDS: Final = 0.1


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
    async with _held(config) as folder:
        daemon: Daemon | None = None

        def broke(error: StoreBroken) -> None:
            assert daemon is not None
            daemon.fail(error)

        clock = SystemClock()
        durable = config.store.ack == "durable"
        async with _books(folder, clock=clock, durable=durable, broke=broke) as books:
            if not durable:
                log.warning(
                    "store.ack is memory: what is acknowledged is written some milliseconds later, so a crash or a power cut loses"
                    " the last of it, and nobody sends it again"
                )
            async with Offices.open(config, folder, books, clock=clock) as offices:
                await play_money.check(ledger=books.ledger, receipts=books.topups, lightning=config.lightning, clock=clock)
                daemon = Daemon(
                    config,
                    clock=clock,
                    offices=offices,
                    operator_token=ensure_token(folder.directory),
                    listening=lambda found: _say_where(config, folder, found),
                )
                gc.collect()
                gc.freeze()  # modules, rules and price tables live as long as the process
                gc.set_threshold(*GARBAGE_THRESHOLDS)
                try:
                    await daemon.run(started)
                finally:
                    remove_url(folder.directory)


@contextlib.asynccontextmanager
async def _held(config: Config) -> AsyncIterator[Folder]:
    """The data folder, locked. A command that looks who holds it, or works on it for want of a daemon, is waited for."""
    folder = Folder(config.store.directory)
    ends = time.monotonic() + COMMAND_SECONDS
    while True:
        try:
            folder.open()
        except FolderInUse:
            if time.monotonic() >= ends:
                raise
            await asyncio.sleep(LOOK_SECONDS)
        else:
            break
    with contextlib.closing(folder):
        yield folder


def _say_where(config: Config, folder: Folder, found: Listeners) -> None:
    """Let commands find the operator's listener on any port."""
    remove_url(folder.directory)  # what a crash left behind
    operator = found.web.get("operator")
    if operator is not None:
        write_url(folder.directory, operator.bound[0], tls=bool(config.tls.cert_file) and not config.operator.insecure)


@contextlib.asynccontextmanager
async def office(config: Config) -> AsyncIterator[tuple[str, str]]:
    """The books of a data folder without a daemon: its operator's listener on a free port of this machine, as (URL, token).

    Payments are watched meanwhile; spans are not taken, and what is open stays as it is. Other commands find it as they find a daemon: a
    top-up that waits here is paid by one of them.

    Raises:
        FolderInUse: a daemon runs, so ask that one.
        ConfigError: as `check` does, of the wallet.
        ReceiverError: the folder or the books cannot be used, or no port is free.
    """
    clock = SystemClock()
    with Folder(config.store.directory) as folder:
        async with _books(folder, clock=clock) as books, Offices.open(config, folder, books, clock=clock) as offices:
            token = ensure_token(folder.directory)
            server = operator_server(Operator(endpoint="127.0.0.1:0"), _NoDaemon(), token=token, more=offices.operator_routes())
            await server.start()
            write_url(folder.directory, server.bound[0], tls=False)
            jobs = [asyncio.ensure_future(job) for job in offices.jobs()]
            try:
                host, port = server.bound[0]
                yield f"http://{host}:{port}", token
            finally:
                remove_url(folder.directory)
                await asyncio.sleep(LAST_CALL_SECONDS)
                await server.stop()
                for job in jobs:
                    job.cancel()
                await asyncio.gather(*jobs, return_exceptions=True)


@contextlib.asynccontextmanager
async def _books(
    folder: Folder, *, clock: Clock, durable: bool = True, broke: Callable[[StoreBroken], None] = lambda _: None
) -> AsyncIterator[SqliteBooks]:
    books = SqliteBooks(folder.database, clock=clock, durable=durable, broke=broke)
    try:
        yield books
    finally:
        await books.stop()


class _NoDaemon:
    """What an operator's listener without a daemon behind it says of the daemon."""

    async def exposition(self, accept: str) -> tuple[str, bytes]:  # noqa: ARG002 -- the protocol's
        raise _nothing_runs()

    def ready(self) -> tuple[bool, str]:
        return False, str(_nothing_runs())

    async def release(self) -> int:
        raise _nothing_runs()

    def window(self, *, limit: int) -> list[dict[str, Any]]:  # noqa: ARG002 -- the protocol's
        raise _nothing_runs()

    def sources(self) -> list[dict[str, Any]]:
        raise _nothing_runs()

    async def overview(self) -> dict[str, Any]:
        raise _nothing_runs()


def _nothing_runs() -> Overloaded:
    detail = "no daemon runs on this data folder: start one with `spantoll serve`"
    return Overloaded(reason="no_daemon", retry_after_seconds=NO_DAEMON_RETRY_SECONDS, detail=detail)


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
    certificates(config)
    if config.lightning.backend == DEV:
        check_exposure(listening_hosts(config), allow_off_loopback=config.lightning.dev.allow_off_loopback)
    if config.credit.webhook_url:
        read_secret(config.credit.webhook_secret_file)


def offline(config: Config) -> Offline:
    """The same lines for files."""
    rules = theory(config)
    return Offline(decoder=decoder(config, rules), reader=Reader(rules.rules), theory=rules)
