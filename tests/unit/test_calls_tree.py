"""Trees: parents are found, repaired where they were lost, and never run in a ring."""

from __future__ import annotations

from typing import TYPE_CHECKING

from receiver.core.calls import Tree
from tests.unit.spans import Story, group, reading

if TYPE_CHECKING:
    from receiver.core.span import Span


def tree_of(story: Story) -> Tree:
    return Tree(group(story.spans))


def test_ancestors_are_the_spans_above_nearest_first() -> None:
    """`ancestors` walks to the root, in the span's own trace only."""
    story = Story()
    top = story.span(reading("A"), span_id=b"\0" * 7 + b"a")
    middle = story.span(reading("A"), under=top)
    leaf = story.span(reading("L"), under=middle)
    story.span(reading("A"), trace=2, span_id=top.span_id)
    assert list(tree_of(story).ancestors(leaf)) == [middle, top]


def test_an_orphan_is_adopted_by_the_tightest_agent_that_contains_it() -> None:
    """Of several agents around it the shortest one is nearest."""
    story = Story()
    story.span(reading("A"), at=(0, 100))
    inner = story.span(reading("A"), at=(10, 60))
    story.span(reading("A"), at=(20, 40))
    orphan = story.span(reading("L"), under=b"lostlost", at=(15, 50))
    tree = tree_of(story)
    assert tree.parent(orphan) is inner
    assert tree.adopted == 1
    assert tree.lost_its_parent(orphan)


def test_only_agents_adopt() -> None:
    """A model call or a tool around an orphan is no parent of it: two calls must not become one."""
    story = Story()
    story.span(reading("L"), at=(0, 100))
    story.span(reading("T"), at=(0, 100))
    story.span(reading("N"), at=(0, 100))
    orphan = story.span(reading("L"), under=b"lostlost", at=(15, 50))
    assert tree_of(story).parent(orphan) is None


def test_an_agent_of_the_same_service_adopts_before_a_tighter_one() -> None:
    """Spans of another process that overlap in time are no better guess than those of one's own."""
    story = Story()
    own = story.span(reading("A"), at=(0, 100))
    story.span(reading("A"), service="other", at=(10, 60))
    orphan = story.span(reading("L"), under=b"lostlost", at=(15, 50))
    assert tree_of(story).parent(orphan) is own


def test_side_by_side_an_agent_of_the_same_scope_adopts() -> None:
    """Two instrumentations tell of one run; the orphan belongs into the branch of its own."""
    story = Story()
    root = story.span(reading("N"), at=(0, 100))
    own = story.span(reading("A"), under=root, scope="gen_ai", at=(1, 90))
    story.span(reading("A"), under=root, scope="ai", at=(1, 89))
    orphan = story.span(reading("L"), under=b"lostlost", scope="gen_ai", at=(2, 80))
    assert tree_of(story).parent(orphan) is own


def test_in_one_branch_the_tighter_agent_of_another_scope_adopts() -> None:
    """Where its scope's agent stands above the tighter one, the tighter one is nearer."""
    story = Story()
    outer = story.span(reading("A"), scope="crew", at=(0, 100))
    inner = story.span(reading("A"), under=outer, scope="framework", at=(10, 90))
    orphan = story.span(reading("L"), under=b"lostlost", scope="crew", at=(20, 80))
    assert tree_of(story).parent(orphan) is inner


def test_an_agent_and_its_first_call_may_start_in_one_millisecond() -> None:
    """Coarse clocks give both one start; the agent adopts all the same, but no agent adopts its equal."""
    story = Story()
    top = story.span(reading("A"), at=(5, 90))
    call = story.span(reading("L"), under=b"lostlost", at=(5, 80))
    twin = story.span(reading("A"), under=b"lostlost", at=(5, 90))
    tree = tree_of(story)
    assert tree.parent(call) is top or tree.parent(call) is twin
    assert tree.parent(twin) is None


def test_rings_of_parents_are_opened() -> None:
    """A span that is its own ancestor, directly or around a ring, ends every walk upward."""
    story = Story()
    own = story.span(reading("A"), under=b"\0" * 7 + b"\1")
    ring = [story.span(reading("A"), under=bytes(7) + bytes([3 + place % 3]), at=(place, 100)) for place in range(3)]
    below = story.span(reading("L"), under=ring[0], at=(50, 60))
    tree = tree_of(story)
    assert own.parent_span_id == own.span_id
    assert list(tree.ancestors(own)) == []
    for span in (*ring, below):
        assert len(list(tree.ancestors(span))) <= 3


def test_an_adoption_never_closes_a_ring() -> None:
    """An orphan above the agent that contains it in time stays above it."""
    story = Story()
    orphan = story.span(reading("N"), under=b"lostlost", at=(10, 20))
    agent = story.span(reading("A"), under=orphan, at=(0, 100))
    call = story.span(reading("L"), under=agent, at=(12, 18))
    tree = tree_of(story)
    assert list(tree.ancestors(call)) == [agent, orphan]
    assert tree.adopted == 0


def test_a_chain_of_ten_thousand_spans_is_walked() -> None:
    """Depth is the client's choice: nothing recurses."""
    story = Story()
    above: Span | None = None
    for place in range(10_000):
        above = story.span(reading("L" if place % 2 else "N"), under=above, at=(place / 1000, 100))
    tree = tree_of(story)
    assert above is not None
    assert sum(1 for _ in tree.ancestors(above)) == 9_999
    assert next(iter(tree.leaves_first(above.trace_id))) is above


def test_a_span_id_that_comes_twice_is_one_span() -> None:
    """The first counts, as at intake."""
    story = Story()
    first = story.span(reading("A"), span_id=b"samesame")
    story.span(reading("L"), span_id=b"samesame")
    tree = tree_of(story)
    tree.index(first.trace_id)
    assert tree.trace_spans(first.trace_id) == (first,)
