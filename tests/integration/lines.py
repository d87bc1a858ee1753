"""Both straight lines, from a request to the metrics, on a clock and a journal that a test holds in its hands."""

from __future__ import annotations

from functools import cache
from typing import Any

from receiver import app
from receiver.access.keys import Keys
from receiver.closing import Closing
from receiver.config import Config, load
from receiver.core.admission import InFlight
from receiver.core.books import MemoryLedger
from receiver.core.credit import Credit, CreditPolicy
from receiver.core.journal import Accepted, Closed
from receiver.core.ledger import usage
from receiver.core.outcome import Theory
from receiver.core.sources import Sources
from receiver.core.usage import Reader
from receiver.core.window import Window, WindowLimits
from receiver.intake import Intake
from receiver.metrics import Metrics
from receiver.otlp.export import Answer, Encoding
from tests.exports import export
from tests.fakes import ManualClock, TryingJournal

TOPUP_URL = "http://127.0.0.1:8101/"


@cache
def _theory(*assignments: str) -> tuple[Config, Theory]:
    """The price lists take a while to compile, and are immutable."""
    config = load(None, environ={}, assignments=assignments)
    return config, app.theory(config)


class Lines:
    """Intake and closing, wired as the daemon wires them."""

    def __init__(
        self,
        *assignments: str,
        keys: Keys | None = None,
        ledger: MemoryLedger | None = None,
        policy: CreditPolicy | None = None,
        max_open_spans: int | None = None,
        **limits: Any,
    ) -> None:
        config, self.theory = _theory(*assignments)
        self.clock = ManualClock()
        self.journal = TryingJournal()
        self.window = Window(WindowLimits(**limits), records=self.journal.records)
        self.metrics = Metrics(unix_nano=self.clock.unix_nano)
        self.journal.watch(self.metrics.fold)
        self.sources = Sources()
        self.ledger = ledger or MemoryLedger()
        self.policy = policy or CreditPolicy()
        self.credit = Credit(self.ledger, lambda _: self.policy)
        self.max_open_spans = max_open_spans
        self.journal.watch(self._debit)
        self.budget = InFlight(config.otlp.max_in_flight)
        self.closing = Closing(window=self.window, theory=self.theory, journal=self.journal, sources=self.sources, clock=self.clock)
        self.intake = Intake(
            decoder=app.decoder(config, self.theory),
            reader=Reader(self.theory.rules),
            window=self.window,
            journal=self.journal,
            closing=self.closing,
            credentials=keys or Keys(),
            credit=self.credit,
            budget=self.budget,
            metrics=self.metrics,
            sources=self.sources,
            clock=self.clock,
            topup_url=lambda: TOPUP_URL,
            max_open_spans=lambda _: self.max_open_spans,
        )
        self.intake.refusal = None

    def _debit(self, row: Accepted | Closed) -> None:
        """What a durable journal does in the transaction of the row."""
        if isinstance(row, Accepted) and row.debit_msat:
            self.ledger.record(usage(row.account, seq=row.seq, amount_msat=row.debit_msat, unix_nano=row.unix_nano))

    async def send(self, *spans: Any, account: str = "default", **more: str) -> Answer:
        """One request over the wire's seam."""
        return await self.intake.export(account, export(*spans, **more), encoding=Encoding.PROTOBUF, transport="grpc")

    async def close_all(self) -> int:
        """Release and close everything that is open."""
        return await self.closing.release_all(now=self.clock.monotonic())

    @property
    def accepted(self) -> int:
        return int(self.metrics.exact("receiver_accepted_spans"))

    @property
    def duplicate(self) -> int:
        return int(self.metrics.exact("receiver_duplicate_spans"))

    @property
    def calls(self) -> int:
        return int(self.metrics.exact("calls"))

    @property
    def cost_pusd(self) -> int:
        return int(self.metrics.exact("cost_usd"))
