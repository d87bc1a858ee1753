"""The demo's own judgement: what it compares, and that a wrong number cannot pass for a right one."""

from __future__ import annotations

from dataclasses import replace

import pytest

from receiver.demo.paying import books_differ
from receiver.demo.script import OUTSIDE, Row, Script, differences, distinct_spans, new_run, total


@pytest.fixture(scope="module")
def script() -> Script:
    return Script.load()


def test_the_truth_agrees_with_itself(script: Script) -> None:
    """What is shown exactly as the truth has it differs in nothing."""
    assert differences(script.truth, script.truth) == []


@pytest.mark.parametrize("name", ["calls", "input_tokens", "output_tokens"])
def test_one_more_of_anything_is_a_difference(script: Script, name: str) -> None:
    """Each number of each agent is held against the truth, and so is the total."""
    agent = next(agent for agent in script.truth if agent != OUTSIDE)
    shown = {**script.truth, agent: replace(script.truth[agent], **{name: getattr(script.truth[agent], name) + 1})}
    assert len(differences(script.truth, shown)) == 2


def test_a_cost_may_differ_by_its_rounding_alone() -> None:
    """One pico-USD a call is the rounding of the list behind the truth; two are a wrong price."""
    truth = {"a": Row(calls=1, cost_pusd=100)}
    assert differences(truth, {"a": Row(calls=1, cost_pusd=101)}) == []
    assert differences(truth, {"a": Row(calls=1, cost_pusd=102)})


def test_a_new_run_is_new_to_the_receiver(script: Script) -> None:
    """The same program run again has as many spans, none of them known, in traces of the same shape."""
    capture = script.captures[0]
    again = new_run(capture)
    spans = distinct_spans(capture, capture.exports)
    assert distinct_spans(capture, again) == spans
    assert distinct_spans(capture, [*capture.exports, *again]) == 2 * spans


def test_spans_that_were_sent_twice_are_paid_once(script: Script) -> None:
    """The captures hold resends, so what is paid is less than what is sent."""
    capture = next(each for each in script.captures if "duplicates" in each.name)
    assert distinct_spans(capture, capture.exports) < sum(distinct_spans(capture, [body]) for body in capture.exports)


@pytest.mark.parametrize(
    "wrong",
    [
        {"audit": {"balanced": True, "sum_msat": 1}},
        {"audit": {"balanced": False, "sum_msat": 0}},
        {"balance_msat": 6},
        {"state": "open"},
    ],
    ids=str,
)
def test_books_that_are_wrong_are_said_to_be(wrong: dict[str, object]) -> None:
    """A sum, a difference, a balance or an unpaid invoice is each enough."""
    right = {"audit": {"balanced": True, "sum_msat": 0}, "balance_msat": 5, "expected_msat": 5, "state": "settled"}
    assert books_differ(**right) == []  # type: ignore[arg-type]  # rows of a table
    assert len(books_differ(**{**right, **wrong})) == 1  # type: ignore[arg-type]  # the same


def test_the_total_is_the_sum_of_all_agents() -> None:
    """Nothing is left out and nothing counts twice."""
    assert total({"a": Row(1, 2, 3, 4), "b": Row(10, 20, 30, 40)}) == Row(11, 22, 33, 44)
