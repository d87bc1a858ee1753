"""Labels: clean, short, and never so many that a scrape breaks or money is lost."""

from __future__ import annotations

from collections import Counter

import pytest

from receiver.metrics.labels import MAX_VALUE_BYTES, OVERFLOW, UNKNOWN, Series, Values, label_value


def series(*, most_per_account: int = 8, most: int = 20) -> tuple[Series, Counter[str]]:
    folded: Counter[str] = Counter()
    made = Series(
        ("account", "agent", "model", "basis"),
        width=1,
        fixed=frozenset({"basis"}),
        most_per_account=most_per_account,
        most=most,
        overflowed=lambda label: folded.update([label]),
    )
    return made, folded


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        (None, UNKNOWN),
        ("", UNKNOWN),
        (" \n", UNKNOWN),
        ("planner", "planner"),
        ("a\nb\x00c\x1b[31m", "a b c [31m"),
        ("a\u2028b\x85c", "a b c"),
        ("\ud800x", "x"),
        ("x" * 128, "x" * 128),
        ("naïve “agent”", "naïve “agent”"),
    ],
)
def test_a_value_is_readable(raw: str | None, shown: str) -> None:
    """Control characters would forge lines in terminals and logs; surrogates are no UTF-8."""
    assert label_value(raw) == shown


@pytest.mark.parametrize("raw", ["x" * 129, "é" * 200, "🙂" * 33, "a" * 127 + "é"])
def test_a_long_value_is_cut_between_characters(raw: str) -> None:
    """Each value stands in every series of a scrape, so it is 128 bytes at most."""
    shown = label_value(raw)
    assert len(shown.encode()) <= MAX_VALUE_BYTES
    assert shown.endswith("…")
    assert raw.startswith(shown[:-1])


def test_an_account_may_have_a_limit_of_its_own() -> None:
    """Narrower or wider than everybody's, and no amount is lost; a change is in force for what comes after it."""
    limits: dict[str, int] = {"narrow": 4, "wide": 40}
    made = Series(
        ("account", "agent"), width=1, fixed=frozenset(), most_per_account=8, most=200, overflowed=lambda _: None, own_limit=limits.get
    )
    for account in ("narrow", "wide", "other"):
        for number in range(100):
            made.row((account, f"agent-{number}"), now_unix_nano=1)[0] += 1
    counts = Counter(labels[0] for labels in made.series)
    assert counts == {"narrow": 2, "wide": 11, "other": 3}  # a quarter of the limit for one label, and the overflow
    limits["narrow"] = 40
    for number in range(100, 200):
        made.row(("narrow", f"agent-{number}"), now_unix_nano=1)[0] += 1
    sums = Counter[str]()
    for labels, row in made.series.items():
        sums[labels[0]] += row[0]
    assert sums == {"narrow": 200, "wide": 100, "other": 100}
    assert Counter(labels[0] for labels in made.series)["narrow"] == 11


def test_a_label_that_explodes_leaves_the_others_readable() -> None:
    """Ten thousand agents fold into one value; the models are still told apart."""
    made, folded = series(most_per_account=8)
    for number in range(100):
        made.row(("acme", f"agent-{number}", "gpt-4o" if number % 2 else "o3", "list"), now_unix_nano=1)
    assert ("acme", OVERFLOW, "gpt-4o", "list") in made.series
    assert ("acme", OVERFLOW, "o3", "list") in made.series
    assert folded["agent"] == 98
    assert folded["model"] == 0


def test_ours_are_never_folded() -> None:
    """The basis is a closed set of ours: unpriced stays apart from priced whatever clients send."""
    made, folded = series(most_per_account=2, most=2)
    for number in range(50):
        made.row(("acme", f"a{number}", f"m{number}", "list" if number % 2 else "unpriced"), now_unix_nano=1)
    assert {labels[3] for labels in made.series} == {"list", "unpriced"}
    assert folded["basis"] == 0


def test_one_account_cannot_push_out_another() -> None:
    """An account that fills the whole table leaves the series of others alone, and room for their sums."""
    made, _ = series(most_per_account=1_000, most=20)
    mine = made.row(("quiet", "planner", "gpt-4o", "list"), now_unix_nano=1)
    for number in range(500):
        made.row(("loud", f"a{number}", f"m{number % 7}", "list"), now_unix_nano=2)
    assert made.row(("quiet", "planner", "gpt-4o", "list"), now_unix_nano=3) is mine
    late = made.row(("third", "planner", "gpt-4o", "list"), now_unix_nano=4)
    assert made.series["third", OVERFLOW, OVERFLOW, "list"] is late


def test_bounds_hold() -> None:
    """Beside the cap stand at most an account's own overflow series, one for each value of ours."""
    made, _ = series(most_per_account=8, most=20)
    for number in range(3_000):
        made.row((f"acc-{number % 5}", f"a{number}", f"m{number}", "list"), now_unix_nano=1)
    per_account = Counter(labels[0] for labels in made.series)
    assert max(per_account.values()) <= 8 + 1
    assert len(made.series) <= 20 + 5
    assert len(made.rows) <= 4 * 20


def test_accounts_without_number_share_a_row() -> None:
    """Where there are more accounts than series, the last ones are summed together rather than lost."""
    made, _ = series(most=3)
    for number in range(10):
        made.row((f"acc-{number}", "a", "m", "list"), now_unix_nano=1)[0] += 1
    assert sum(row[0] for row in made.series.values()) == 10
    assert made.series[OVERFLOW, OVERFLOW, OVERFLOW, "list"][0] == 7


def test_a_row_knows_when_it_was_born() -> None:
    """The created timestamp is that of the first value, and a row keeps it."""
    made, _ = series()
    assert made.row(("acme", "a", "m", "list"), now_unix_nano=7)[-1] == 7
    made.rows.clear()
    assert made.row(("acme", "a", "m", "list"), now_unix_nano=9)[-1] == 7


def test_values_of_a_label_without_an_account_are_capped() -> None:
    """Scopes are named by clients as well."""
    folded: list[str] = []
    values = Values("scope", most=2, overflowed=folded.append)
    assert [values.of(raw) for raw in ("a", "b", "c", "a", None, "d")] == ["a", "b", OVERFLOW, "a", OVERFLOW, OVERFLOW]
    assert folded == ["scope"] * 3
