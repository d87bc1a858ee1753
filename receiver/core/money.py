"""Amounts of money as integers, and the only places where one is rounded.

Rule 1: a cost is an integer of pico-USD (1e-12 USD). List prices per token are whole numbers in it, so products and sums are exact.
Rule 2: where a division cannot be avoided it is half-even, once per component, before anything is added.
Rule 3: a split always sums to the whole: largest remainder, ties by key.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import ROUND_HALF_EVEN, Context, Decimal, InvalidOperation
from typing import Any, Final, Protocol, TypeVar

PUSD_PER_USD: Final = 10**12

#: No sum of costs comes near this (1e15 USD); what claims to be larger is a mistake of its sender, and int() of it could be huge.
MAX_USD: Final = Decimal(10**15)

_CONTEXT: Final = Context(prec=60, rounding=ROUND_HALF_EVEN)  # 15 digits before the point, 12 after it, and room for long inputs


def divide_half_even(numerator: int, denominator: int) -> int:
    """`numerator / denominator` to the nearest integer, ties to the even one. `denominator` > 0."""
    quotient, rest = divmod(numerator, denominator)
    twice = 2 * rest
    return quotient + (twice > denominator or (twice == denominator and quotient & 1 == 1))


def parse_usd(amount: Decimal | float | str) -> int:
    """Pico-USD for an amount in USD, half-even. A float counts as what it prints as, so 0.1 is a tenth.

    Raises:
        ValueError: it is no finite number, or larger than `MAX_USD`.
    """
    try:
        exact = amount if isinstance(amount, Decimal) else Decimal(str(amount).strip())
    except InvalidOperation as error:
        raise ValueError(f"{amount!r} is no amount in USD") from error
    if not exact.is_finite() or abs(exact) > MAX_USD:
        raise ValueError(f"{amount!r} is no amount in USD")
    return int(_CONTEXT.to_integral_value(_CONTEXT.multiply(exact, PUSD_PER_USD)))


def format_usd(pusd: int) -> str:
    """The exact amount in USD as a decimal string, without exponent and trailing zeros: `7500000000` is "0.0075"."""
    whole, part = divmod(abs(pusd), PUSD_PER_USD)
    digits = f"{whole}.{part:012d}".rstrip("0").rstrip(".")
    return f"-{digits}" if pusd < 0 else digits


def as_usd(pusd: int) -> float:
    """USD as the nearest float, for metrics and shares: the last thing that is done to an amount."""
    return pusd / PUSD_PER_USD


class _Ordered(Protocol):
    def __lt__(self, other: Any, /) -> bool: ...


Key = TypeVar("Key", bound=_Ordered)


def split(total: int, weights: Mapping[Key, int]) -> dict[Key, int]:
    """Parts of `total` in proportion to `weights`; they sum to `total` exactly.

    Each part is rounded down, then the units that are left go to the largest remainders, ties to the smaller key. All weights
    0: evenly. Weights are >= 0; keys of one call must be comparable. A negative total is split as its opposite.
    No keys: only a total of 0 can be split, into nothing.

    Raises:
        ValueError: a weight is negative, or there is something to split and nobody to give it to.
    """
    if not weights:
        if total:
            raise ValueError(f"{total} cannot be split among nobody")
        return {}
    if total < 0:
        return {key: -part for key, part in split(-total, weights).items()}
    whole = sum(weights.values())
    if any(weight < 0 for weight in weights.values()):
        raise ValueError("a weight is negative")
    shares: Mapping[Key, int] = weights if whole else dict.fromkeys(weights, 1)
    whole = whole or len(weights)
    parts: dict[Key, int] = {}
    remainders: list[tuple[int, Key]] = []
    for key, share in shares.items():
        parts[key], rest = divmod(total * share, whole)
        remainders.append((-rest, key))
    remainders.sort()
    for _, key in remainders[: total - sum(parts.values())]:
        parts[key] += 1
    return parts
