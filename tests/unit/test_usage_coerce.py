"""What values mean, whatever their type on the wire."""

from __future__ import annotations

import math
from typing import Any

import pytest

from receiver.core.usage.coerce import MAX_COUNT, MAX_JSON_BYTES, REJECTED, container, count, flag, pusd, text


@pytest.mark.parametrize(
    ("value", "means"),
    [
        (0, 0),
        (17, 17),
        (MAX_COUNT, MAX_COUNT),
        (MAX_COUNT + 1, REJECTED),
        (2**63, REJECTED),
        (-1, REJECTED),
        (12.0, 12),
        (12.5, REJECTED),
        (-3.0, REJECTED),
        (1e300, REJECTED),
        (math.nan, None),
        (math.inf, None),
        ("46", 46),
        (' "46" ', 46),
        ("'46'", 46),
        ('"\\"46\\""', 46),
        ("46.0", 46),
        ("46.5", REJECTED),
        ("-5", REJECTED),
        ("1_000", REJECTED),
        ("9" * 30, REJECTED),
        ("9" * 5_000, REJECTED),
        ("NaN", None),
        ("Infinity", None),
        ("None", None),
        ("", None),
        ("many", REJECTED),
        ("[Filtered]", None),
        ("<REDACTED>", None),
        ("***", None),
        ("[Scrubbed due to 'session']", None),
        (True, None),
        (False, None),
        (None, None),
        (b"12", None),
        ([12], None),
        ({"a": 1}, None),
    ],
)
def test_a_count_is_a_whole_number_within_bounds(value: Any, means: int | None) -> None:
    """Missing is None; a value that is there but is no believable count is rejected; a bool is never a count."""
    found = count(value)
    assert found == means
    assert found is None or type(found) is int


@pytest.mark.parametrize(
    ("value", "means"),
    [
        ("gpt-4o", "gpt-4o"),
        ('"gpt-4o"', "gpt-4o"),
        (" gpt-4o ", "gpt-4o"),
        ("", None),
        ('""', None),
        ("[Scrubbed due to 'auth']", None),
        ("<REDACTED>", None),
        ("****", None),
        (4, None),
        (True, None),
        (["gpt-4o"], None),
    ],
)
def test_a_name_is_text_without_quotes(value: Any, means: str | None) -> None:
    """MLflow and Langfuse write JSON strings where others write text; a scrubber's mark is no name."""
    assert text(value) == means


@pytest.mark.parametrize(
    ("value", "means"), [(True, True), ("True", True), ("true", True), ("TRUE", True), (False, False), ("no", False), (1, False)]
)
def test_a_flag_may_be_text(value: Any, means: bool) -> None:
    """LiteLLM writes booleans as text."""
    assert flag(value) is means


@pytest.mark.parametrize(
    ("value", "means"),
    [
        (0.015905000000000002, 15_905_000_000),
        (0.1, 100_000_000_000),
        ("0.25", 250_000_000_000),
        (3, 3_000_000_000_000),
        (0.0, 0),
        (5e-13, 0),
        (1.5e-12, 2),
        (2.5e-12, 2),
        (-0.1, None),
        (math.nan, None),
        (math.inf, None),
        (1e9, None),
        ("1e400", None),
        ("free", None),
        (True, None),
        (None, None),
    ],
)
def test_a_cost_is_rounded_half_to_even_to_pico_usd(value: Any, means: int | None) -> None:
    """A double is taken as the shortest decimal that it prints as: what its emitter meant."""
    assert pusd(value) == means


def test_a_container_may_be_json_a_repr_or_a_kvlist() -> None:
    """One usage object has four forms on the wire."""
    usage = {"input_tokens": 3, "details": {"cached": None, "ok": True}}
    assert container(usage) == usage
    assert container('{"input_tokens": 3, "details": {"cached": null, "ok": true}}') == usage
    assert container("{'input_tokens': 3, 'details': {'cached': None, 'ok': True}}") == usage
    assert container('"{\\"input_tokens\\": 3}"') == {"input_tokens": 3}
    assert container("{'note': \"it's\", 'input_tokens': 3}") == {"note": "it's", "input_tokens": 3}


@pytest.mark.parametrize(
    "value",
    [
        "",
        "[1, 2]",
        "{",
        "{1: 2",
        "{'a': __import__('os')}",
        "{'a': " + "(" * 50 + ")" * 50 + "}",
        "{'a': " + "-" * 5_000 + "1}",
        '{"a":' * 20_000,
        "{'a': 1}" + " " * MAX_JSON_BYTES,
        '{"a": ' + "9" * 10_000 + "}",
        7,
        None,
        ["a"],
    ],
)
def test_what_is_no_usage_object_is_missing(value: Any) -> None:
    """Nothing is ever evaluated, and nothing that is too big, too deep or broken is an error."""
    assert container(value) is None
