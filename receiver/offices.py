"""What stands beside the two lines while the books are open: accounts, credit, reports, upkeep, and what serves them on the web.

The daemon has it, and `app.office` has it without a daemon, for `spantoll account`, `credit` and the like: so each act has one code path.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from operator import attrgetter
from typing import Any, Final
from urllib.parse import urlsplit

from receiver.access.accounts import Accounts
from receiver.access.privacy_key import ensure_key
from receiver.admin.accounts import AccountOffice
from receiver.admin.addresses import AddressOffice
from receiver.admin.credit import CreditOffice
from receiver.admin.reports import ReportOffice
from receiver.admin.strangers import Strangers
from receiver.admin.tokens import TokenOffice
from receiver.admin.upkeep import UpkeepOffice
from receiver.admin.webhook import Webhook, read_secret
from receiver.building import listening_hosts
from receiver.clock import Clock
from receiver.config import Config, base_url, parse_endpoint
from receiver.core.books import Balances
from receiver.core.credit import Credit, LowBalance
from receiver.core.invoices import TopUp
from receiver.core.ledger import Ledger, Totals, customer
from receiver.core.privacy import Privacy
from receiver.errors import ReceiverError
from receiver.metrics import Metrics
from receiver.store.books import SqliteBooks
from receiver.store.folder import Folder
from receiver.web import accounts as accounts_web
from receiver.web import credit as credit_web
from receiver.web import lnurl as lnurl_web
from receiver.web import reports as reports_web
from receiver.web import upkeep as upkeep_web
from receiver.web.pages import qr
from receiver.web.pages.customer import Welcome
from receiver.web.server import Route

log = logging.getLogger(__name__)

#: How often the ledger is added up from its transfers, beside the look at the start: it reads all of them, on a thread of its own.
AUDIT_SECONDS: Final = 3_600.0
#: After a failure (a full disk, as a rule) it is tried again this much later.
AUDIT_RETRY_SECONDS: Final = 60.0


class Offices:
    """Accounts and credit over one set of books. One event loop owns it."""

    def __init__(self, config: Config, *, ledger: Balances, clock: Clock) -> None:
        """Without a store: accounts and terms as configured, balances as `ledger` has them, and nothing to administer.

        Raises:
            ConfigError: see `CreditOffice.open`.
        """
        self._config = config
        self._clock = clock
        self._born_unix_nano = clock.unix_nano()
        self._audited: tuple[bool, int] | None = None  #: whether the books added up at the last audit, and its Unix nanoseconds
        self._low_balance: Callable[[str], None] = lambda _: None
        self.customer_port = 0  #: once the customers' listener is bound
        self.ledger = ledger
        static = [(key.account, key.sha256) for key in config.access.keys]
        self.register = Accounts(config.credit, clock=clock, static=static, required=config.access.required or config.l402.enabled)
        self.credit = Credit(ledger, self.register.policy)
        self.privacy = Privacy()
        self.books: SqliteBooks | None = None
        self.desk: CreditOffice | None = None
        self.reports: ReportOffice | None = None
        self.tokens: TokenOffice | None = None
        self.webhook: Webhook | None = None
        self.strangers = Strangers(max_unpaid=config.lightning.public_max_unpaid, per_hour=config.lightning.public_per_hour, clock=clock)
        self._operator_routes: list[Route] = []
        self._customer_routes: list[Route] = []

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, config: Config, folder: Folder, books: SqliteBooks, *, clock: Clock) -> AsyncIterator[Offices]:
        """The offices of a data folder, which is ours; they close before its books do.

        Raises:
            ConfigError: the wallet that is named cannot be used, or would serve play money to other machines.
            ReceiverError: the folder or the books cannot be read.
        """
        offices = cls(config, ledger=books.ledger, clock=clock)
        offices.books = books
        people = AccountOffice(
            book=books.accounts,
            register=offices.register,
            ledger=books.ledger,
            clock=clock,
            start_balance_msat=config.credit.start_balance_msat,
            max_request_bytes=config.otlp.max_request_size,
        )
        await people.begin()
        async with contextlib.AsyncExitStack() as closing:
            desk = offices.desk = await CreditOffice.open(
                ledger=books.ledger,
                topups=books.topups,
                shelf=books.shelf,
                credit=offices.credit,
                register=offices.register,
                lightning=config.lightning,
                topup_url=offices.topup_url,
                clock=clock,
                rng=random.Random(),  # noqa: S311 -- jitter of retry delays, not a secret
                hosts=listening_hosts(config),
                on_low=offices.warn,
                on_credit=offices._credited,
                restored=bool(books.counted_since),
            )
            closing.push_async_callback(desk.close)
            offices.privacy = Privacy(config.privacy.hash, key=ensure_key(folder.directory))
            reports = offices.reports = ReportOffice(
                folder.database,
                writer=books.journal.writer,
                reports=books.reports,
                privacy=offices.privacy,
                settings=config.privacy,
                journal_keeps=config.window.decision_wait + config.window.seen_horizon,
                clock=clock,
            )
            tokens = offices.tokens = offices._token_office(people, desk, books)
            closing.push_async_callback(tokens.close)
            addresses = AddressOffice(
                enabled=config.lightning.address,
                credit=desk,
                register=offices.register,
                strangers=offices.strangers,
                origin=offices.origin,
            )
            upkeep = UpkeepOffice(folder.database, clock=clock)
            closing.push_async_callback(upkeep.close)
            offices._operator_routes += [
                *accounts_web.routes(people),
                *credit_web.operator_routes(desk, clock=clock),
                *reports_web.operator_routes(reports),
                *upkeep_web.routes(upkeep),
            ]
            offices._customer_routes += [
                *credit_web.customer_routes(desk, clock=clock, sales=tokens if tokens.enabled else None),
                *lnurl_web.routes(addresses),
                qr.route(desk),
                *reports_web.customer_routes(reports),
            ]
            yield offices

    # --- what the lines ask ------------------------------------------------------------------------------------------------

    def max_in_flight(self, account: str) -> int | None:
        return self.register.limits(account).max_in_flight

    def max_open_spans(self, account: str) -> int | None:
        return self.register.limits(account).max_open_spans

    def max_series(self, account: str) -> int | None:
        return self.register.limits(account).max_series

    def topup_url(self) -> str:
        """Where refusals send people; "" when there is no such place."""
        configured, endpoint = self._config.credit.topup_url, self._config.customer.endpoint
        if configured or not endpoint:
            return configured
        port = self.customer_port or parse_endpoint(endpoint).port
        return base_url(self._config, "customer", port) + "/topup" if port else ""

    def origin(self) -> str:
        """Scheme and host of the customers' listener as its customers see it, without a path: that of `topup_url`."""
        at = urlsplit(self.topup_url())
        return f"{at.scheme}://{at.netloc}"

    def welcome(self, ports: Mapping[str, int]) -> Welcome:
        """What the customers' front page tells everybody. `ports`: of the listeners that are on."""
        config = self._config
        terms, http, grpc = self.register.policy(""), config.otlp.http, config.otlp.grpc
        lightning = config.lightning
        return Welcome(
            price_per_span_msat=terms.price_per_span_msat,
            enforce=terms.enforce,
            key_required=self.register.required,
            topups=(lightning.topup_min_sat, lightning.topup_max_sat) if self.desk is not None and self.desk.up is not None else None,
            http=(_scheme(config, insecure=http.insecure), ports["otlp.http"], http.traces_path) if "otlp.http" in ports else None,
            grpc=(_scheme(config, insecure=grpc.insecure), ports["otlp.grpc"]) if "otlp.grpc" in ports else None,
        )

    def exhausted(self, account: str) -> None:
        """An account is refused for want of credit, for the first time since money last came in; the log has it."""
        if self.webhook is not None:
            self.webhook.exhausted(account, self.ledger.balance(account))

    def warn(self, low: LowBalance) -> None:
        """A balance fell below a mark: the log, the metrics and the operator's webhook have it."""
        facts = {"account": low.account, "mark_msat": low.mark_msat, "balance_msat": low.balance_msat, "topup_url": self.topup_url()}
        log.warning("the credit of an account is low", extra=facts)
        self._low_balance(low.account)
        if self.webhook is not None:
            self.webhook.low(low, self.ledger.balance(low.account))

    # --- what the daemon asks ----------------------------------------------------------------------------------------------

    def operator_routes(self) -> Sequence[Route]:
        return self._operator_routes

    def customer_routes(self) -> Sequence[Route]:
        return self._customer_routes

    def accounts(self) -> Mapping[str, int]:
        """Every account, and since when it is one."""
        known = {account.name: account.created_unix_nano or self._born_unix_nano for account in self.register.known()}
        return {**dict.fromkeys(self.ledger.accounts(), self._born_unix_nano), **known}

    @property
    def audited(self) -> tuple[bool, int] | None:
        """Whether the books added up at the last audit, and when that was (Unix nanoseconds); None before the first."""
        return self._audited

    def jobs(self) -> Iterator[Coroutine[Any, Any, None]]:
        """What runs beside everything else until it is cancelled. None of it may end by itself, whatever fails."""
        if self.desk is not None:
            yield self.desk.run()
        if self.webhook is not None:
            self.webhook.begin((name, self.ledger.balance(name), self.register.policy(name)) for name in self.accounts())
            yield self.webhook.run()
        if self.reports is not None:
            yield self.reports.run()
        if self.books is not None:
            yield self._audits(self.books.ledger)

    def show(self, metrics: Metrics, snapshot: Callable[[], Awaitable[None]], whole: Callable[[], bool] = lambda: True) -> None:
        """From now on `metrics` has the credit families. What is a total comes from the ledger, so it survives by itself.

        `snapshot` writes the metrics down, once they are `whole`. Only a daemon shows metrics, and so only a daemon tells the webhook.

        Raises:
            ConfigError: see `webhook.read_secret`.
        """
        self._low_balance = metrics.low_balance
        self.webhook = self._open_webhook()
        if self.webhook is not None:
            self.webhook.count = metrics.webhook
        if self.reports is not None:
            self.reports.show(metrics, snapshot, whole)
        ledger, credit, clock = self.ledger, self.credit, self._clock
        metrics.gauge("credit_balance_msat", lambda: {(name,): ledger.balance(name).posted_msat for name in self.accounts()})
        metrics.gauge(
            "credit_runway_seconds", lambda: {(name,): credit.runway_seconds(name, now=clock.monotonic()) for name in self.accounts()}
        )
        since, before = (0, {}) if self.books is None else (self.books.counted_since, self.books.uncounted)
        nothing = Totals()

        def total(field: str) -> Callable[[], dict[tuple[str, ...], tuple[int, int]]]:
            """Of each account: msat since counting began, and when that was."""
            told = attrgetter(field)
            return lambda: {
                (name,): (told(ledger.balance(name)) - told(before.get(customer(name), nothing)), max(born, since))
                for name, born in self.accounts().items()
            }

        metrics.total("credit_debited_msat", total("debits_msat"))
        metrics.total("credit_topped_up_msat", total("credits_msat"))
        metrics.gauge("books_unbalanced", lambda: {} if self._audited is None else int(not self._audited[0]))
        desk = self.desk
        if desk is not None:
            metrics.gauge("invoices", lambda: {(state,): number for state, number in desk.invoices().items()})
            metrics.gauge("lightning_up", lambda: {} if desk.up is None else int(desk.up))

    def _open_webhook(self) -> Webhook | None:
        credit = self._config.credit
        if not credit.webhook_url:
            return None
        return Webhook(
            credit.webhook_url,
            read_secret(credit.webhook_secret_file),
            topup_url=self.topup_url,
            clock=self._clock,
            rng=random.Random(),  # noqa: S311 -- jitter of retry delays, not a secret
        )

    def _token_office(self, people: AccountOffice, desk: CreditOffice, books: SqliteBooks) -> TokenOffice:
        for payment_hash, expires_unix_nano in self.register.tokens.unpaid():
            self.strangers.waits(payment_hash, expires_unix_nano)
        return TokenOffice(
            enabled=self._config.l402.enabled,
            credit=desk,
            people=people,
            book=books.accounts,
            tokens=self.register.tokens,
            strangers=self.strangers,
            clock=self._clock,
        )

    def _credited(self, row: TopUp) -> None:
        self.strangers.paid(row.payment_hash)
        if self.tokens is not None:  # nothing is credited before the watch begins
            self.tokens.credited(row)

    # --- the inside --------------------------------------------------------------------------------------------------------

    async def _audits(self, ledger: Ledger) -> None:
        while True:
            try:
                found = await ledger.audit()
            except ReceiverError as error:
                log.warning("the books could not be audited now, which is tried again in %g s: %s", AUDIT_RETRY_SECONDS, error)
                await asyncio.sleep(AUDIT_RETRY_SECONDS)
            else:
                if not found.balanced and (self._audited is None or self._audited[0]):
                    log.critical(
                        "the books do not add up: see GET /api/v1/audit",
                        extra={"sum_msat": found.sum_msat, "differences": len(found.differences)},
                    )
                self._audited = found.balanced, self._clock.unix_nano()
                await asyncio.sleep(AUDIT_SECONDS)


def _scheme(config: Config, *, insecure: bool) -> str:
    return "https" if config.tls.cert_file and not insecure else "http"
