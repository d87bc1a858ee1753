"""The office of L402: it sells accounts to strangers, who become customers by paying.

Everything is kept before it is shown: the invoice's row first, then the token's. A crash in between leaves an invoice that nobody has
seen. From then on a payment is credited to the token's account whatever happens to its buyer, and the account is there in the moment of
the credit; should the process end right then, the next one finds the token and the settled row, and makes the account out of them.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Coroutine
from typing import Any

from receiver.access.l402 import Tokens, challenges, new_token, written
from receiver.admin.accounts import AccountOffice
from receiver.admin.credit import CreditOffice
from receiver.admin.strangers import Strangers
from receiver.clock import Clock
from receiver.core.accounts import L402_PREFIX, AccountBook
from receiver.core.invoices import TopUp, watched_since_unix_nano
from receiver.errors import NotFound

log = logging.getLogger(__name__)


class TokenOffice:
    """One event loop owns it."""

    def __init__(
        self,
        *,
        enabled: bool,
        credit: CreditOffice,
        people: AccountOffice,
        book: AccountBook,
        tokens: Tokens,
        strangers: Strangers,
        clock: Clock,
        entropy: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        """`enabled`: whether any are sold. What was sold before is honoured either way."""
        self.enabled = enabled
        self._credit = credit
        self._people = people
        self._book = book
        self._tokens = tokens
        self._strangers = strangers
        self._clock = clock
        self._entropy = entropy
        self._writing: set[asyncio.Task[None]] = set()
        tokens.look = credit.look

    async def buy(self, amount_msat: int, address: str) -> dict[str, Any]:
        """An invoice over `amount_msat` and the token that it pays for.

        Args:
            amount_msat: as of any top-up.
            address: who asks, for the limits on strangers.

        Returns:
            `account`: its name once it is paid; `token`; `challenges`: the values of `WWW-Authenticate`; `topup`: as `show_topup`.

        Raises:
            NotFound: none are sold.
            TooManyRequests: strangers ask too often.
            TopUpRefused, NodeUnavailable, NodeRefused, WrongInvoice: as `CreditOffice.top_up`.

        """
        if not self.enabled:
            raise NotFound("this daemon sells no accounts: ask the operator for a key")
        now_unix_nano = self._clock.unix_nano()
        self._tokens.forget_unpaid(before_unix_nano=watched_since_unix_nano(now_unix_nano=now_unix_nano))
        with self._strangers.asking(address):
            row, shown = await self._credit.sell(amount_msat)
            token = new_token(
                row.payment_hash,
                entropy=self._entropy,
                created_unix_nano=row.created_unix_nano,
                payable_until_unix_nano=row.expires_unix_nano,
            )
            assert token.account == row.account
            await self._book.put_token(token)
            self._tokens.put(token)
            self._strangers.made(row)
        text = written(token)
        return {"account": token.account, "token": text, "challenges": challenges(text, row.bolt11), "topup": shown}

    def credited(self, row: TopUp) -> None:
        """A top-up was credited just now: its account is there when this returns, and soon in the book."""
        token = self._tokens.paid(row.payment_hash)
        if token is not None:
            self._write(self._people.paid(token))
        elif row.account.startswith(L402_PREFIX):
            self._write(self._find(row.payment_hash))

    async def close(self) -> None:
        """Finish what is being written."""
        await asyncio.gather(*self._writing, return_exceptions=True)

    async def _find(self, payment_hash: bytes) -> None:
        """Paid so late that it was forgotten here, or a later top-up of an account, which has no token of its own."""
        token = await self._book.token_of(payment_hash)
        if token is not None:
            await self._people.paid(token)

    def _write(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._writing.add(task)
        task.add_done_callback(self._written)

    def _written(self, task: asyncio.Task[None]) -> None:
        self._writing.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("an account that was bought could not be written down, which is tried again at the next start: %s", error)
