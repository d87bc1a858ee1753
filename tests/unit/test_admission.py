"""The in-flight byte budget."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receiver.core.admission import InFlight
from receiver.errors import Overloaded


def test_what_does_not_fit_is_refused_and_holds_nothing() -> None:
    """A refusal changes nothing, so it needs no release."""
    budget = InFlight(100)
    budget.reserve("a", 60)
    with pytest.raises(Overloaded) as refused:
        budget.reserve("b", 41)
    assert refused.value.reason == "memory"
    assert refused.value.retry_after_seconds >= 1
    assert "60 of 100 bytes" in str(refused.value)
    assert (budget.held(), budget.held("b")) == (60, 0)
    budget.reserve("b", 40)
    assert budget.peak == 100


def test_what_was_given_back_can_be_held_again() -> None:
    """The budget is of what is in flight now, not of what ever was."""
    budget = InFlight(100)
    for _ in range(10):
        budget.reserve("a", 100)
        budget.release("a", 100)
    assert (budget.held(), budget.peak) == (0, 100)


def test_one_account_cannot_fill_what_is_for_all() -> None:
    """With a limit of its own, a flood of one account leaves room for the others."""
    budget = InFlight(100, account_limit_bytes=lambda account: 50 if account == "flood" else None)
    budget.reserve("flood", 50)
    with pytest.raises(Overloaded, match="account 'flood'"):
        budget.reserve("flood", 1)
    budget.reserve("other", 50)


def test_more_given_back_than_held_is_our_own_bug() -> None:
    """It would let memory grow beyond the limit in silence."""
    budget = InFlight(100)
    budget.reserve("a", 1)
    with pytest.raises(AssertionError):
        budget.release("a", 2)
    with pytest.raises(AssertionError):
        budget.release("b", 1)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 60)), max_size=60), st.data())
def test_held_bytes_are_the_sum_of_reservations_and_never_over_a_limit(steps: list[tuple[str, int]], data: st.DataObject) -> None:
    """Model: a list of open reservations; whatever the order of reserve and release, totals agree and limits hold."""
    budget = InFlight(100, account_limit_bytes=lambda _: 70)
    open_: list[tuple[str, int]] = []
    for account, size in steps:
        if open_ and data.draw(st.booleans()):
            budget.release(*open_.pop(data.draw(st.integers(0, len(open_) - 1))))
        mine = sum(s for a, s in open_ if a == account)
        fits = sum(s for _, s in open_) + size <= 100 and mine + size <= 70
        if fits:
            budget.reserve(account, size)
            open_.append((account, size))
        else:
            with pytest.raises(Overloaded):
                budget.reserve(account, size)
        assert budget.held() == sum(s for _, s in open_) <= 100
        assert budget.held(account) == sum(s for a, s in open_ if a == account) <= 70
    for each in open_:
        budget.release(*each)
    assert budget.held() == 0
