"""The queue of deadlines and the queue of arrivals, told the time."""

from __future__ import annotations

from receiver.core.window.arrivals import Arrivals
from receiver.core.window.deadlines import Deadlines


class Member:
    """Something that can stand in a queue."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.queued = False


def test_nothing_is_due_in_an_empty_queue() -> None:
    """A timer that comes for nothing does no harm."""
    deadlines: Deadlines[str] = Deadlines()
    assert deadlines.next() is None
    assert deadlines.pop_due(1e9) is None


def test_deadlines_come_up_earliest_first_and_equal_ones_in_the_order_of_setting() -> None:
    """The order depends on moments and on the order of calls, never on keys or addresses."""
    deadlines: Deadlines[str] = Deadlines()
    for key, due in (("z", 2.0), ("b", 1.0), ("a", 2.0), ("c", 3.0)):
        deadlines.set(key, due)
    assert [deadlines.pop_due(2.0) for _ in range(4)] == [("b", 1.0), ("z", 2.0), ("a", 2.0), None]
    assert deadlines.next() == 3.0


def test_a_deadline_at_now_is_due_and_one_after_it_is_not() -> None:
    """Due means at or before."""
    deadlines: Deadlines[str] = Deadlines()
    deadlines.set("a", 5.0)
    assert deadlines.pop_due(4.999) is None
    assert deadlines.pop_due(5.0) == ("a", 5.0)


def test_setting_again_replaces_whether_earlier_or_later() -> None:
    """A key has one moment, the last that it was given; also when it is given the same one twice."""
    deadlines: Deadlines[str] = Deadlines()
    for due in (5.0, 9.0, 5.0, 7.0):
        deadlines.set("a", due)
    assert len(deadlines) == 1
    assert deadlines.get("a") == 7.0
    assert deadlines.pop_due(6.0) is None
    assert deadlines.pop_due(100.0) == ("a", 7.0)
    assert deadlines.pop_due(100.0) is None


def test_a_removed_key_never_comes_up() -> None:
    """A deadline lives and dies with what it is for; removing what is not there does no harm."""
    deadlines: Deadlines[str] = Deadlines()
    deadlines.set("a", 1.0)
    deadlines.set("b", 2.0)
    deadlines.remove("a")
    deadlines.remove("a")
    assert deadlines.next() == 2.0
    assert deadlines.get("a") is None


def test_stale_entries_never_outgrow_what_counts() -> None:
    """A trace whose deadline moves a million times costs one entry, not a million."""
    deadlines: Deadlines[int] = Deadlines()
    for turn in range(10_000):
        deadlines.set(turn % 10, float(20_000 - turn))
    assert len(deadlines) == 10
    assert len(deadlines._heap) <= 2 * 10 + 64
    for key in range(10):
        deadlines.remove(key)
    assert len(deadlines._heap) <= 64
    assert deadlines.next() is None


def test_arrivals_keep_their_order_when_members_leave() -> None:
    """The first is the one that came first among those that are still there."""
    arrivals: Arrivals[Member] = Arrivals()
    members = [Member(name) for name in "abcd"]
    for member in members:
        arrivals.join(member)
    arrivals.leave(members[0])
    arrivals.leave(members[2])
    first = arrivals.first()
    assert first is members[1]
    assert [member.name for member in arrivals] == ["b", "d"]
    assert len(arrivals) == 2


def test_members_that_left_take_no_room_for_long() -> None:
    """One old trace that stays open does not keep the places of all that passed behind it."""
    arrivals: Arrivals[Member] = Arrivals()
    stays = Member("old")
    arrivals.join(stays)
    for number in range(10_000):
        member = Member(str(number))
        arrivals.join(member)
        arrivals.leave(member)
    assert len(arrivals) == 1
    assert len(arrivals._queue) <= 1 + 64 + 2
    assert arrivals.first() is stays
