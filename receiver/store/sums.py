"""Columns of the books that reports and roll-ups add up, in SQL. Amounts are added as whole USD and the rest, for `sum` ends at 64 bits.

An amount of one charge has 63 bits, so nine million of them fit into either sum.
"""

from __future__ import annotations

from typing import Final

from receiver.core.money import PUSD_PER_USD

#: When a call was, as the index `charges_by_moment` has it.
MOMENT: Final = "iif(at_receive_time, closed_unix_nano, start_unix_nano)"

DAY_NANO: Final = 86_400 * 10**9

#: Dimensions that stay in a roll-up, with the account.
KEPT: Final = (
    "account", "model", "provider", "agent", "workflow", "task", "feature", "route", "tenant", "prompt_version", "tool",
)  # fmt: skip

#: Amounts of a charge, and what they are called in `daily` (`_usd` and `_rest_pusd`).
AMOUNTS: Final = (("cost_pusd", "cost"), ("cache_savings_pusd", "savings"), ("cache_premium_pusd", "premium"))
#: Token counts that are in both tables.
TOKENS: Final = ("uncached", "cache_read", "cache_write_5m", "cache_write_1h", "cache_write_unknown", "output_total", "reasoning")

#: NULL where a call has a price.
UNPRICED_REASON: Final = "iif(cost_pusd IS NULL, unpriced_reason, NULL)"


def rest(amount: str) -> str:
    """The part of an amount below a whole USD: 0 to PUSD_PER_USD - 1, also of a negative one."""
    return f"(({amount} % {PUSD_PER_USD} + {PUSD_PER_USD}) % {PUSD_PER_USD})"


def whole(amount: str) -> str:
    """The whole USD of an amount, rounded down."""
    return f"(({amount} - {rest(amount)}) / {PUSD_PER_USD})"


def amount_sums(amounts: tuple[str, ...]) -> tuple[str, ...]:
    """For each amount the sum of its whole USD, and that of the rests."""
    return tuple(f"ifnull(sum({part(amount)}), 0)" for amount in amounts for part in (whole, rest))
