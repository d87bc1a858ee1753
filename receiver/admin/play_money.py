"""At the start: no play money in books that a real wallet pays into, unless the operator says so (`lightning.play_money`)."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Sequence
from typing import Final, Protocol

from receiver.clock import Clock
from receiver.config import Lightning
from receiver.core.credit import format_sat
from receiver.core.ledger import Balance, Outcome, Terms, Transfer, adjust
from receiver.core.play_money import MONEY, Left, Played, left_of
from receiver.errors import ReceiverError
from receiver.lightning.backends import DEV, OFF

log = logging.getLogger(__name__)

#: What the ids of transfers that take it back begin with; nobody else may choose such a one.
RESERVED_ID: Final = "play:"
#: Accounts that are named in one sentence.
_NAMED: Final = 5


class PlayMoneyLeft(ReceiverError):
    """Accounts have credit that was never paid, and a real wallet takes over."""


class Ledger(Protocol):
    """What is asked of `core.ledger.Ledger`."""

    def balance(self, account: str) -> Balance: ...
    async def post(self, transfer: Transfer, terms: Terms) -> Outcome: ...


class Receipts(Protocol):
    """What is asked of the store."""

    def played(self) -> Awaitable[Sequence[Played]]:
        """What each account was credited on other networks than Bitcoin's own."""

    def is_money_in(self) -> Awaitable[bool]:
        """Whether anything was ever credited on Bitcoin's own."""


async def check(*, ledger: Ledger, receipts: Receipts, lightning: Lightning, clock: Clock) -> None:
    """Look at the books before anything is taken.

    Raises:
        PlayMoneyLeft: accounts would spend play money as money, and nobody said what is to become of it.
        StoreFull, StoreBroken: the disk.
    """
    is_real = lightning.backend not in (DEV, OFF) and lightning.network == MONEY
    if not is_real:
        if lightning.backend != OFF and await receipts.is_money_in():
            log.warning(
                "these books hold credit that was paid in bitcoin, but what is paid from now on is play money: name the node in"
                " [lightning], or use another store.directory to try things out",
                extra={"backend": lightning.backend, "network": "regtest" if lightning.backend == DEV else lightning.network},
            )
        return
    left = await _left(ledger, receipts)
    if not left:
        return
    if lightning.play_money == "refuse":
        raise PlayMoneyLeft(_refusal(left))
    for each in left:
        facts = {"account": each.account, "amount_msat": each.left_msat, "networks": ", ".join(each.networks)}
        if lightning.play_money == "keep":
            log.warning("play money of an account is spent as money, because lightning.play_money says so", extra=facts)
        else:
            await ledger.post(_taken_back(each, ledger.balance(each.account), clock), Terms(None))
            log.warning("play money of an account was taken back", extra=facts)


async def _left(ledger: Ledger, receipts: Receipts) -> list[Left]:
    found = []
    for played in await receipts.played():
        balance = ledger.balance(played.account)
        left = left_of(played, debits_msat=balance.debits_msat, posted_msat=balance.posted_msat)
        if left is not None:
            found.append(left)
    return found


def _taken_back(left: Left, balance: Balance, clock: Clock) -> Transfer:
    """Its id has what the account was ever debited, which this adds to: the same moment is one transfer, a later one is another."""
    return adjust(
        left.account,
        client_id=f"{RESERVED_ID}{left.account}:{balance.debits_msat}",
        amount_msat=-left.left_msat,
        unix_nano=clock.unix_nano(),
        note=f"play money taken back ({', '.join(left.networks)})",
    )


def _refusal(left: Sequence[Left]) -> str:
    named = ", ".join(f"{each.account} {format_sat(each.left_msat)} sat ({', '.join(each.networks)})" for each in left[:_NAMED])
    more = f" and {len(left) - _NAMED:,} more" if len(left) > _NAMED else ""
    return (
        f"lightning.play_money: accounts have credit that was never paid for, and would spend it as money: {named}{more}; say"
        ' "take_back" and it is taken from them at the start, "keep" and it counts as money, or use another store.directory'
    )
