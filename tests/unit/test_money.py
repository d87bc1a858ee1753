"""Money: exact, never lost in a division."""

from __future__ import annotations

from decimal import Decimal

import pytest

from receiver.core.money import as_usd, divide_half_even, format_usd, parse_usd, split

USD = 10**12


@pytest.mark.parametrize(
    ("numerator", "denominator", "result"),
    [
        (0, 3, 0),
        (1, 2, 0),
        (3, 2, 2),
        (5, 2, 2),
        (7, 2, 4),
        (2, 3, 1),
        (1, 3, 0),
        (-1, 2, 0),
        (-3, 2, -2),
        (-5, 2, -2),
        (10**30 + 1, 2, 5 * 10**29),
    ],
)
def test_division_is_half_even(numerator: int, denominator: int, result: int) -> None:
    """Ties go to the even neighbour, on both sides of zero, at any size."""
    assert divide_half_even(numerator, denominator) == result


@pytest.mark.parametrize(
    ("usd", "pusd"),
    [
        ("0.0075", 7_500_000_000),
        (0.1, 100_000_000_000),
        (1e-12, 1),
        ("0.0000000000005", 0),
        ("0.0000000000015", 2),
        (Decimal("-2.5"), -25 * USD // 10),
        (3, 3 * USD),
        (" 4.2e-3 ", 4_200_000_000),
    ],
)
def test_an_amount_in_usd_is_read_exactly(usd: Decimal | float | str, pusd: int) -> None:
    """A float counts as what it prints as; what is finer than a pico-USD is rounded half-even."""
    assert parse_usd(usd) == pusd


@pytest.mark.parametrize("junk", ["", "abc", "nan", "inf", "-inf", "1e400", 1e300, "0x10"])
def test_what_is_no_amount_is_refused(junk: str | float) -> None:
    """Neither infinities nor absurd numbers become money, whatever a client sends."""
    with pytest.raises(ValueError, match="is no amount"):
        parse_usd(junk)


@pytest.mark.parametrize(
    ("pusd", "text"), [(0, "0"), (1, "0.000000000001"), (7_500_000_000, "0.0075"), (USD, "1"), (-USD // 2, "-0.5"), (12_345 * USD, "12345")]
)
def test_an_amount_is_written_exactly(pusd: int, text: str) -> None:
    """All digits, no exponent, nothing behind the last one that counts; and it reads back the same."""
    assert format_usd(pusd) == text
    assert parse_usd(text) == pusd


def test_usd_for_metrics_is_the_nearest_float() -> None:
    """The one place where an amount leaves the integers."""
    assert as_usd(7_500_000_000) == 0.0075


def test_a_split_gives_the_rest_to_the_largest_remainders() -> None:
    """0.02 USD over A 0.06, B 0.03, C 0.01; 0.02 USD and 100 pUSD evenly over three: no unit is lost, ties go by key."""
    assert split(2 * USD // 100, {"a": 6, "b": 3, "c": 1}) == {"a": 12 * 10**9, "b": 6 * 10**9, "c": 2 * 10**9}
    assert split(2 * USD // 100, {"a": 0, "b": 0, "c": 0}) == {"a": 6_666_666_667, "b": 6_666_666_667, "c": 6_666_666_666}
    assert split(100, {"b": 1, "c": 1, "a": 1}) == {"a": 34, "b": 33, "c": 33}
    assert split(-100, {"b": 1, "c": 1, "a": 1}) == {"a": -34, "b": -33, "c": -33}


def test_a_split_among_nobody_is_refused() -> None:
    """An amount does not vanish because there is nobody to give it to, and no weight is negative."""
    assert split(0, {}) == {}
    with pytest.raises(ValueError, match="nobody"):
        split(1, {})
    with pytest.raises(ValueError, match="negative"):
        split(1, {"a": -1, "b": 3})
