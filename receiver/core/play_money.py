"""Play money must never become money: what an account still has of it when a real wallet takes over.

The dev wallet's invoices, and those of a test network, are credited like any other, so that the whole loop can be tried out. Once a
node on Bitcoin's own network is named, what is left of such credit would be spent as if it had been paid for.

Rule: play money is spent first, from the day it came. So an account that tried the daemon out, spent a part, and then paid for more
has of it what was never spent, and nothing of what it paid is ever taken for play.
"""

from __future__ import annotations

from typing import Final, NamedTuple

#: Bitcoin's own network, whose coins alone are money.
MONEY: Final = "bitcoin"


class Played(NamedTuple):
    """What an account was credited on networks whose coins are worth nothing."""

    account: str
    networks: tuple[str, ...]
    received_msat: int
    spent_before_msat: int  #: all that the account was debited before the first of it


class Left(NamedTuple):
    """What an account still has of it."""

    account: str
    networks: tuple[str, ...]
    left_msat: int  #: > 0


def left_of(played: Played, *, debits_msat: int, posted_msat: int) -> Left | None:
    """What is left of `played`, None for nothing. `debits_msat`: all debits that there ever were; `posted_msat`: the balance."""
    spent_msat = debits_msat - played.spent_before_msat
    left_msat = min(posted_msat, played.received_msat - spent_msat)
    return Left(played.account, played.networks, left_msat) if left_msat > 0 else None
