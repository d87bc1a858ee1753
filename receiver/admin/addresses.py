"""The office of Lightning Addresses: each account as ACCOUNT@HOST, which any wallet can pay to again and again (LNURL-pay).

Sources: LUD-06 (payRequest), LUD-16 (the address), LUD-21 (verify), github.com/lnurl/luds. An invoice says the hash of what the payer was
told, so a wallet knows that it pays for that and nothing else. Amounts are millisatoshi, in whole satoshis as all top-ups.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, Protocol
from urllib.parse import quote, urlsplit

from receiver.admin.credit import CreditOffice
from receiver.admin.strangers import Strangers
from receiver.core.accounts import Account
from receiver.core.invoices import InvoiceState, TopUp
from receiver.errors import NotFound
from receiver.lightning.topups import by_stranger

#: What an address can be (LUD-16); an account of another name can be paid to by the URL alone.
_USERNAME: Final = re.compile(r"[a-z0-9._+-]+")
CALLBACK: Final = "/api/v1/lnurlp"


class Register(Protocol):
    """The accounts (`access.accounts.Accounts`)."""

    def find(self, name: str) -> Account | None: ...


class AddressOffice:
    """One event loop owns it."""

    def __init__(self, *, enabled: bool, credit: CreditOffice, register: Register, strangers: Strangers, origin: Callable[[], str]) -> None:
        """`origin`: scheme and host under which wallets reach the customers' listener."""
        self._enabled = enabled
        self._credit = credit
        self._register = register
        self._strangers = strangers
        self._origin = origin

    def pay_request(self, account: str) -> dict[str, Any]:
        """What a wallet is told first (LUD-06). Raises NotFound."""
        self._check(account)
        least_msat, most_msat = self._credit.topup_limits
        return {
            "tag": "payRequest",
            "callback": self._url(account),
            "minSendable": least_msat,
            "maxSendable": most_msat,
            "metadata": self._metadata(account),
        }

    async def invoice(self, account: str, amount_msat: int, address: str) -> dict[str, Any]:
        """An invoice over what the payer chose.

        Raises:
            NotFound: there is no such account, or it takes none.
            TooManyRequests: strangers ask too often.
            TopUpRefused, NodeUnavailable, NodeRefused, WrongInvoice: as `CreditOffice.top_up`.
        """
        self._check(account)
        description_hash = hashlib.sha256(self._metadata(account).encode()).digest()
        with self._strangers.asking(address):
            row = await self._credit.top_up_by_stranger(account, amount_msat, description_hash=description_hash)
            self._strangers.made(row)
        return {"pr": row.bolt11, "routes": [], "verify": f"{self._url(account)}/{row.payment_hash.hex()}"}

    async def settlement(self, account: str, payment_hash: str) -> dict[str, Any]:
        """Whether an invoice of `invoice` was paid, with its preimage once it was (LUD-21). Raises NotFound, also for other top-ups."""
        self._check(account)
        row: TopUp | None = None
        if len(payment_hash) == 64:
            with suppress(ValueError):
                row = await self._credit.find(bytes.fromhex(payment_hash))
        if row is None or row.account != account or not by_stranger(row.bolt11):  # the receipt of any other is its account's alone
            raise NotFound("there is no such invoice")
        settled = row.state is InvoiceState.SETTLED
        return {"status": "OK", "settled": settled, "preimage": row.preimage.hex() if settled else None, "pr": row.bolt11}

    def _check(self, account: str) -> None:
        found = self._register.find(account) if self._enabled else None
        if found is None or not found.enabled:  # a disabled one is not to be paid to by those who cannot know
            raise NotFound("there is no such Lightning address here")

    def _metadata(self, account: str) -> str:
        """To the letter the same whenever it is asked for: invoices hold its hash."""
        entries = [["text/plain", f"Spantoll credit for {account}"]]
        if _USERNAME.fullmatch(account):
            entries.append(["text/identifier", f"{account}@{urlsplit(self._origin()).netloc}"])
        return json.dumps(entries)

    def _url(self, account: str) -> str:
        return f"{self._origin()}{CALLBACK}/{quote(account, safe='')}"
