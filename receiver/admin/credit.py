"""Everything that is asked and done about credit: balances, statements, adjustments, top-ups and their payment.

The office owns the wallet, the desk that asks it for invoices, and the watcher that credits what was paid. It answers with the plain
dicts of `credit_shown`, which the operator's listener, the customers' and the command line show as they are. Who asks is judged
before: an `account` here is one whose credit the caller may see.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Protocol

from receiver.access.l402 import account_name
from receiver.admin.credit_shown import in_sat, show_audit, show_balance, show_line, show_topup
from receiver.admin.play_money import RESERVED_ID
from receiver.clock import Clock
from receiver.config import Lightning
from receiver.core.accounts import Account
from receiver.core.credit import Credit, CreditPolicy, LowBalance, format_sat
from receiver.core.invoices import MSAT_PER_SAT, InvoiceState, TopUp, TopUps
from receiver.core.ledger import MAX_TRANSFER_MSAT, Code, Ledger, Line, Outcome, adjust
from receiver.core.moments import rfc3339
from receiver.errors import Conflict, InvalidValue, NotFound
from receiver.lightning import bolt11
from receiver.lightning.backends import open_client
from receiver.lightning.client import LightningClient, NodeRefused
from receiver.lightning.dev import DevWallet, Shelf, check_exposure
from receiver.lightning.topups import TopUpDesk, TopUpLimits, TopUpRefused
from receiver.lightning.watcher import Watcher

if TYPE_CHECKING:
    import random

log = logging.getLogger(__name__)

#: The longest that a question after a payment waits for it: proxies and browsers give up on a silent answer soon after.
MAX_WAIT_SECONDS: Final = 60.0
#: Questions of one account that wait at once; more are answered without waiting, so that nobody holds all connections.
MAX_WAITING: Final = 8
#: The credit of what the dev wallet paid takes one commit; who paid is told of it when it comes within this time.
DEV_CREDIT_SECONDS: Final = 5.0
#: Top-ups in one list, newest first.
LISTED: Final = 100
#: An id that a client chose, and a note: as long as anyone writes them by hand or by UUID.
_MAX_ID: Final = 128
_MAX_NOTE: Final = 500
#: Ids of what the daemon itself gives and takes: start balances, play money.
_RESERVED_IDS: Final = ("start:", RESERVED_ID)


class Register(Protocol):
    """The accounts, and what was decided for each (`access.accounts.Accounts`)."""

    def policy(self, name: str) -> CreditPolicy: ...
    def find(self, name: str) -> Account | None: ...


class CreditOffice:
    """One event loop owns it. `open` makes it, `run` watches for payments until cancelled."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        topups: TopUps,
        credit: Credit,
        register: Register,
        client: LightningClient | None,
        lightning: Lightning,
        topup_url: Callable[[], str],
        clock: Clock,
        rng: random.Random,
        counts: Mapping[InvoiceState, int],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        on_low: Callable[[LowBalance], None] = lambda _: None,
        on_credit: Callable[[TopUp], None] = lambda _: None,
        restored: bool = False,
    ) -> None:
        """Use `open`."""
        self._ledger = ledger
        self._topups = topups
        self._credit = credit
        self._register = register
        self._client = client
        self._lightning = lightning
        self._topup_url = topup_url
        self._clock = clock
        self._on_low = on_low
        self._on_credit = on_credit
        self._counts = Counter(dict(counts))
        self._waiting: Counter[str] = Counter()
        self._watcher: Watcher | None = None
        self._desk: TopUpDesk | None = None
        if client is not None:
            self._watcher = Watcher(
                client=client,
                topups=topups,
                ledger=ledger,
                clock=clock,
                rng=rng,
                sleep=sleep,
                on_credit=self._credited,
                on_move=self._moved,
                restored=restored,
            )
            limits = TopUpLimits(
                least_msat=lightning.topup_min_sat * MSAT_PER_SAT,
                most_msat=lightning.topup_max_sat * MSAT_PER_SAT,
                expiry_seconds=math.ceil(lightning.invoice_expiry),
                max_payable=lightning.max_unpaid,
            )
            self._desk = TopUpDesk(client=client, topups=topups, clock=clock, watch=self._made, limits=limits)

    @classmethod
    async def open(
        cls,
        *,
        ledger: Ledger,
        topups: TopUps,
        shelf: Shelf,
        credit: Credit,
        register: Register,
        lightning: Lightning,
        topup_url: Callable[[], str],
        clock: Clock,
        rng: random.Random,
        hosts: Iterable[str] = (),
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        on_low: Callable[[LowBalance], None] = lambda _: None,
        on_credit: Callable[[TopUp], None] = lambda _: None,
        restored: bool = False,
    ) -> CreditOffice:
        """The office with the wallet that `[lightning]` names.

        Args:
            ledger: where money is.
            topups: where invoices are kept; of the same store, since a settlement writes both in one commit.
            shelf: where the dev wallet keeps its key and its invoices.
            credit: told of balances that rose or fell, and asked for the runway.
            register: the accounts.
            lightning: the section.
            topup_url: where people top up.
            clock: tells the time.
            rng: spreads retries.
            hosts: the addresses that the daemon listens on: play money is not served to other machines unless that is allowed.
            sleep: waits.
            on_low: told when an adjustment took a balance below a mark.
            on_credit: told of each top-up in the moment after its commit, before anyone who waits for it.
            restored: the books are a copy of an earlier day: payments that they do not know are said.

        Raises:
            ConfigError: the dev wallet would serve other machines, or the wallet that is named cannot be used.

        """
        client = await open_client(lightning, shelf=shelf, clock=clock)
        if isinstance(client, DevWallet):
            warning = check_exposure(hosts, allow_off_loopback=lightning.dev.allow_off_loopback)
            if warning is not None:
                log.warning(warning)
        return cls(
            ledger=ledger,
            topups=topups,
            credit=credit,
            register=register,
            client=client,
            lightning=lightning,
            topup_url=topup_url,
            clock=clock,
            rng=rng,
            counts=await topups.counts(),
            sleep=sleep,
            on_low=on_low,
            on_credit=on_credit,
            restored=restored,
        )

    async def run(self) -> None:
        """Watch for payments until cancelled; no failure of the node or the store ends it. Without a wallet it returns at once."""
        if self._watcher is not None:
            await self._watcher.run()

    async def close(self) -> None:
        """Give back the wallet's connections."""
        if self._client is not None:
            await self._client.close()

    @property
    def up(self) -> bool | None:
        """Whether the wallet answered last; None where there is none."""
        return None if self._watcher is None else self._watcher.up

    def invoices(self) -> dict[str, int]:
        """How many top-ups are in each state, by its name."""
        return {state.value: self._counts[state] for state in InvoiceState}

    # What an account has

    def balance(self, account: str) -> dict[str, Any]:
        """An account's money and what was decided for it.

        Returns:
            As `show_balance`, and `topup_url`; `lightning`: {`backend`, `up`: null without a wallet, `play_money`}.

        Raises:
            NotFound: there is no such account.

        """
        self._check_known(account)
        shown = show_balance(
            account,
            self._ledger.balance(account),
            self._register.policy(account),
            runway_seconds=self._credit.runway_seconds(account, now=self._clock.monotonic()),
        )
        wallet = {"backend": self._lightning.backend, "up": self.up, "play_money": isinstance(self._client, DevWallet)}
        return {**shown, "topup_url": self._topup_url(), "lightning": wallet}

    async def statement(self, account: str, since_unix_nano: int, until_unix_nano: int) -> dict[str, Any]:
        """An account's movements in [since, until), oldest first.

        Returns:
            `account`, `since`, `until`; `opening_msat`, `closing_msat`: the balance before and after; `lines`: each as `show_line`.

        Raises:
            NotFound: there is no such account.

        """
        self._check_known(account)
        lines = await self._ledger.statement(account, since_unix_nano=since_unix_nano, until_unix_nano=until_unix_nano)
        if lines:
            opening_msat, closing_msat = lines[0].balance_msat - lines[0].amount_msat, lines[-1].balance_msat
        else:
            earlier = await self._ledger.statement(account, since_unix_nano=0, until_unix_nano=since_unix_nano)
            opening_msat = closing_msat = earlier[-1].balance_msat if earlier else 0
        return {
            "account": account,
            "since": rfc3339(since_unix_nano),
            "until": rfc3339(until_unix_nano),
            "opening_msat": opening_msat,
            "closing_msat": closing_msat,
            "lines": await self._lines(lines),
        }

    async def _lines(self, lines: Sequence[Line]) -> list[dict[str, Any]]:
        hashes = {line.id: bytes.fromhex(line.id.removeprefix("ln:")) for line in lines if line.code is Code.TOPUP}
        found = await self._topups.find_all(hashes.values()) if hashes else {}
        receipts = {name: self._shown(found[payment_hash]) for name, payment_hash in hashes.items() if payment_hash in found}
        return [show_line(line, receipts.get(line.id)) for line in lines]

    # What the operator does

    async def adjust(self, account: str, amount_msat: int, client_id: str, note: str = "") -> dict[str, Any]:
        """Give (`amount_msat` > 0) or take; asked again with the same `client_id`, the same is answered and nothing moves.

        Returns:
            `id`: the transfer's; `outcome`: "created" or "exists"; `amount_msat`, `amount_sat`; `balance`: as `balance`.

        Raises:
            NotFound: there is no such account.
            InvalidValue: the amount, the id or the note is none.
            Conflict: the id was used for something else, or the account has less than is taken.

        """
        self._check_known(account)
        if not 0 < abs(amount_msat) <= MAX_TRANSFER_MSAT:
            raise InvalidValue(f"an adjustment moves 1 to {MAX_TRANSFER_MSAT:,} msat, or takes as many; {amount_msat:,} is neither")
        if not 0 < len(client_id) <= _MAX_ID or not client_id.isprintable() or client_id.startswith(_RESERVED_IDS):
            raise InvalidValue(f"an id has 1 to {_MAX_ID} printable characters and begins with none of {', '.join(_RESERVED_IDS)}")
        if len(note) > _MAX_NOTE or not note.isprintable():
            raise InvalidValue(f"a note has at most {_MAX_NOTE} printable characters")
        transfer = adjust(account, client_id=client_id, amount_msat=amount_msat, unix_nano=self._clock.unix_nano(), note=note)
        outcome = await self._ledger.post(transfer, self._register.policy(account).terms)
        match outcome:
            case Outcome.CREATED:
                log.info("an account was adjusted", extra={"account": account, "amount_msat": amount_msat, "id": client_id, "note": note})
                self._observe(account)
            case Outcome.EXISTS:
                pass  # asked twice, moved once
            case Outcome.EXISTS_WITH_DIFFERENT_CONTENT:
                raise Conflict(f"the id {client_id!r} is that of another adjustment: repeat that one exactly, or choose another id")
            case Outcome.EXCEEDS_CREDITS:
                available = format_sat(self._ledger.balance(account).available_msat)
                raise Conflict(f"account {account!r} has {available} sat, which is less than is to be taken")
            case other:
                raise InvalidValue(f"the adjustment cannot be made: {other.value}")
        return {
            "id": transfer.id,
            "outcome": outcome.value,
            "amount_msat": amount_msat,
            "amount_sat": in_sat(amount_msat),
            "balance": self.balance(account),
        }

    async def audit(self) -> dict[str, Any]:
        """Whether the books add up, as `show_audit`."""
        return show_audit(await self._ledger.audit())

    # Top-ups

    async def top_up(self, account: str, amount_msat: int) -> dict[str, Any]:
        """An invoice over `amount_msat` for the account: the open one of that amount while it has life left, else a new one.

        Returns:
            As `topup`.

        Raises:
            NotFound: there is no such account.
            TopUpRefused: the amount is not allowed, too many are unpaid, or there is no wallet.
            NodeUnavailable, NodeRefused, WrongInvoice: the wallet; nothing was made that can be paid.

        """
        self._check_known(account)
        return self._shown(await self._open_desk().request(account, amount_msat))

    async def top_up_by_stranger(self, account: str, amount_msat: int, *, description_hash: bytes) -> TopUp:
        """An invoice for the account that somebody else may have asked for. Raises as `top_up`."""
        self._check_known(account)
        description = f"Spantoll credit for {account}"
        return await self._open_desk().request_by_stranger(account, amount_msat, description=description, description_hash=description_hash)

    async def sell(self, amount_msat: int) -> tuple[TopUp, dict[str, Any]]:
        """An invoice for an account that there is not yet, which is named after it; also as `topup`. Raises as `top_up`."""
        row = await self._open_desk().request_for_new(amount_msat, account_name, description="Spantoll credit")
        return row, self._shown(row)

    @property
    def topup_limits(self) -> tuple[int, int]:
        """The least and the most of a top-up, in msat."""
        return self._lightning.topup_min_sat * MSAT_PER_SAT, self._lightning.topup_max_sat * MSAT_PER_SAT

    def look(self, payment_hash: bytes) -> None:
        """Somebody has reason to think that this was paid: ask the node now."""
        if self._watcher is not None:
            self._watcher.hint(payment_hash)

    async def find(self, payment_hash: bytes) -> TopUp | None:
        """A top-up's row, whoever's it is."""
        return await self._topups.find(payment_hash)

    def _open_desk(self) -> TopUpDesk:
        if self._desk is None:
            raise TopUpRefused("off", 'this daemon takes no top-ups, since lightning.backend is "off": ask the operator for credit')
        return self._desk

    async def topup(self, payment_hash: str, account: str | None = None, wait_seconds: float = 0.0) -> dict[str, Any]:
        """One top-up, and its receipt once it is settled.

        Args:
            payment_hash: its id, in hex.
            account: whose it must be; None for an operator, who sees everyone's.
            wait_seconds: how long an answer may wait for the payment, at most MAX_WAIT_SECONDS. It comes at once where MAX_WAITING wait.

        Returns:
            As `show_topup`.

        Raises:
            NotFound: there is none, or it is another account's.

        """
        row = await self._find(payment_hash, account)
        wait_seconds = min(wait_seconds, MAX_WAIT_SECONDS)
        if row.state is InvoiceState.SETTLED or not wait_seconds > 0 or self._watcher is None or self._waiting[row.account] >= MAX_WAITING:
            return self._shown(row)
        self._waiting[row.account] += 1
        try:
            row = await self._watcher.wait_settled(row.payment_hash, seconds=wait_seconds) or row
        finally:
            self._waiting[row.account] -= 1
            self._waiting += Counter()  # forgets those at 0
        return self._shown(row)

    async def list_topups(self, account: str) -> dict[str, Any]:
        """An account's newest LISTED top-ups, newest first: `account`, `topups`, each as `topup`. Raises NotFound."""
        self._check_known(account)
        return {"account": account, "topups": [self._shown(row) for row in await self._topups.of_account(account, limit=LISTED)]}

    async def dev_pay(self, invoice: str, amount_msat: int | None = None) -> dict[str, Any]:
        """Pay an invoice of the dev wallet, as its payer would.

        Args:
            invoice: BOLT-11, with or without `lightning:`.
            amount_msat: more than it asks for; None for just that.

        Returns:
            `payment_hash`, `preimage`; `paid_msat`, `paid_sat`; `topup`: as `topup`, null when no account asked for the invoice;
            `balance`: of its account, as `balance`, null likewise.

        Raises:
            TopUpRefused: the wallet is a real one, or there is none.
            InvalidValue: it is no invoice.
            Conflict: it is not of this wallet, was paid before, has expired, or the amount is too small.

        """
        if not isinstance(self._client, DevWallet):
            backend = self._lightning.backend
            raise TopUpRefused("not_dev", f'lightning.backend is "{backend}": only invoices of the dev wallet are paid by a command')
        assert self._watcher is not None
        try:
            preimage = await self._client.pay(invoice, amount_msat=amount_msat)
        except bolt11.MalformedInvoice as error:
            raise InvalidValue(str(error)) from error
        except NodeRefused as error:
            raise Conflict(str(error)) from error
        payment_hash = bolt11.decode(invoice).payment_hash
        row = await self._watcher.wait_settled(payment_hash, seconds=DEV_CREDIT_SECONDS)
        paid = await self._client.lookup(payment_hash)
        known = None
        if row is not None:
            with suppress(NotFound):  # an account that is only in the books of old
                known = self.balance(row.account)
        return {
            "payment_hash": payment_hash.hex(),
            "preimage": preimage.hex(),
            "paid_msat": paid.received_msat,
            "paid_sat": in_sat(paid.received_msat),
            "topup": None if row is None else self._shown(row),
            "balance": known,
        }

    async def _find(self, payment_hash: str, account: str | None) -> TopUp:
        row = None
        if len(payment_hash) == 64:
            with suppress(ValueError):
                row = await self._topups.find(bytes.fromhex(payment_hash))
        if row is None or (account is not None and row.account != account):  # another's is not told from none
            raise NotFound("there is no top-up with this payment hash")
        return row

    def _shown(self, row: TopUp) -> dict[str, Any]:
        return show_topup(row, now_unix_nano=self._clock.unix_nano())

    def _check_known(self, account: str) -> None:
        if self._register.find(account) is None:
            raise NotFound(f"there is no account {account!r}")

    # What the desk and the watcher tell

    def _made(self, row: TopUp) -> None:
        assert self._watcher is not None
        facts = {"account": row.account, "amount_msat": row.amount_msat, "payment_hash": row.payment_hash.hex()}
        log.info("an account asked for an invoice", extra=facts)
        self._counts[row.state] += 1
        self._watcher.watch(row)

    def _moved(self, before: InvoiceState, after: InvoiceState) -> None:
        self._counts[before] -= 1
        self._counts[after] += 1

    def _credited(self, row: TopUp) -> None:
        self._on_credit(row)
        self._observe(row.account)

    def _observe(self, account: str) -> None:
        low = self._credit.observe(account)
        if low is not None:
            self._on_low(low)
