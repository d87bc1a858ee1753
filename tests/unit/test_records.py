"""The body of a journal row: small, exact, and refused when it is none."""

from __future__ import annotations

from typing import Any

import pytest

from receiver.core.span import Source, Span
from receiver.core.window.group import TraceKey
from receiver.store import closes
from receiver.store.index import RowIndex
from receiver.store.records import Decoder, Encoder, Malformed, trace_ids_of
from tests.integration.store_helpers import charge_of, close, lack, span, span_id, trace_id


def body(*spans: Span) -> bytes:
    return Encoder().body(spans, transport="grpc", begins=[True] * len(trace_ids_of(spans)))


def back(*spans: Span) -> list[Span]:
    return Decoder().row(body(*spans)).spans(received_unix_nano=77)


def nested(levels: int) -> Any:
    value: Any = "end"
    for level in range(levels):
        value = {"k": value} if level % 2 else [value]
    return value


def test_what_spans_share_stands_once() -> None:
    """A hundred spans of one source with the same attributes take a few bytes each beside their ids."""
    shared = (("model", "gpt-4o-with-a-long-name-2026-01-01"), ("user", "somebody-with-a-long-name@example.org"))
    spans = [span(number, source=span(1).source, name="chat", attributes=shared) for number in range(1, 101)]
    assert len(body(*spans)) - len(body(spans[0])) < 99 * (8 + 14)


def test_what_was_shared_is_shared_again() -> None:
    """A restored window is as small as it was: one source, one trace id, one pair for all spans of a row."""
    first, second = back(span(2), span(4))
    assert first.source is second.source
    assert first.trace_id is second.trace_id
    assert first.attributes[0] is second.attributes[0]


def test_sources_are_shared_between_rows() -> None:
    """Each row names its source; equal ones become one object."""
    decoder, encoder = Decoder(), Encoder()
    rows = [decoder.row(encoder.body([span(number)], transport="", begins=[True])) for number in (2, 4)]
    (one,), (other,) = (row.spans(received_unix_nano=1) for row in rows)
    assert one.source is other.source
    assert one.source.resource == span(2).source.resource


@pytest.mark.parametrize("levels", [1, 32])
def test_nested_values_come_back(levels: int) -> None:
    """As deep as the wire lets them in (32), in spans and in resources."""
    source = Source(resource={"deep": nested(levels)}, scope="s", scope_version="", dropped_attributes=3)
    (found,) = back(span(1, attributes=(("deep", nested(levels)),), source=source))
    assert found.attributes == (("deep", nested(levels)),)
    assert found.source.resource == {"deep": nested(levels)}
    assert found.source.dropped_attributes == 3


def test_repeated_keys_stay_in_their_order() -> None:
    """Of a repeated key the first counts, so order is meaning."""
    attributes = (("k", 1), ("k", True), ("k", 1.0), ("k", 1))
    (found,) = back(span(1, attributes=attributes))
    assert [(key, type(value), value) for key, value in found.attributes] == [(key, type(value), value) for key, value in attributes]


def test_parents_come_back_wherever_they_are() -> None:
    """In the row, before or behind; in another row; nowhere."""
    spans = [span(1, parent=span_id(2)), span(2), span(3, parent=span_id(99)), span(4, parent=span_id(3))]
    assert [one.parent_span_id for one in back(*spans)] == [span_id(2), b"", span_id(99), span_id(3)]
    assert Decoder().row(body(*spans)).is_root == [False, True, False, False]


@pytest.mark.parametrize("raw", [b"\xff", body(span(1))[:-3], b"\x0a\xff"])
def test_what_is_no_row_is_refused(raw: bytes) -> None:
    """Protobuf's errors do not leave the store."""
    with pytest.raises(Malformed):
        Decoder().row(raw)
    with pytest.raises(Malformed):
        closes.read(raw, account="acme")


def test_a_close_row_comes_back() -> None:
    """Traces with what they cover and what paid in them, counters, and what is missing."""
    written = close((1, 0, 2), (2, 3, 0), charges=[charge_of(1), charge_of(2, trace=2), charge_of(3)], counters={("n", ("a",)): 2**40})
    written = close((1, 0, 2), (2, 3, 0), charges=written.charges, counters=written.counters, missing=[lack(1), lack(2, model=None)])
    row = closes.read(closes.body(written), account="acme")
    assert [(one.trace_id, one.generation, one.spans, one.trigger, one.charged) for one in row.traces] == [
        (trace_id(1), 0, 2, "root", [span_id(1), span_id(3)]),
        (trace_id(2), 3, 0, "root", [span_id(2)]),
    ]
    assert row.counters == {("n", ("a",)): 2**40}
    assert row.missing == [lack(1), lack(2, model=None)]


def test_the_index_knows_rows_by_trace_and_when_they_are_needless() -> None:
    """A row is needed while one of its traces is; what failed leaves no mark."""
    index = RowIndex()
    a, b = trace_id(1), trace_id(2)
    assert index.add("acme", [a, b], 10) == [True, True]
    assert index.add("acme", [b], 12) == [False]
    assert index.add("other", [b], 13) == [True]
    index.add("acme", [a, b], 15)
    index.undo("acme", [a, b], 15)
    assert list(index.rows(TraceKey("acme", a))) == [10]
    assert list(index.rows(TraceKey("acme", b))) == [10, 12]
    assert len(index) == 3
    assert index.forget(TraceKey("acme", a)) == []
    assert index.low_water == 10
    assert index.forget(TraceKey("acme", b)) == [10, 12]
    assert index.low_water == 13
    assert index.forget(TraceKey("acme", b)) == []
    assert index.add("acme", [b], 100_000) == [True]
    assert index.forget(TraceKey("other", b)) == [13]
    assert index.low_water == 100_000
    assert index.add("acme", [a], 200_000) == [True]
    assert index.forget(TraceKey("acme", b)) == [100_000]
    assert index.low_water == 200_000
    assert index.forget(TraceKey("acme", a)) == [200_000]
    assert index.low_water > 200_000
