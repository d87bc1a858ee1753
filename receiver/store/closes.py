"""The body of a close row: what a replay needs to know of it, and the counts that must survive."""

from __future__ import annotations

from typing import NamedTuple

from google.protobuf.message import DecodeError

from receiver.core.journal import Close, Lack
from receiver.store import journal_pb2 as wire
from receiver.store.records import SPAN_ID_BYTES, TRACE_ID_BYTES, Malformed


class ClosedTrace(NamedTuple):
    """One trace of a close row."""

    trace_id: bytes
    generation: int
    spans: int  #: covered beyond those of earlier closes
    trigger: str
    charged: list[bytes]


class CloseRow(NamedTuple):
    """A close row read back; its charges are in their own table."""

    traces: list[ClosedTrace]
    counters: dict[tuple[str, tuple[str, ...]], int]
    missing: list[Lack]


def body(close: Close) -> bytes:
    """The body of a close row."""
    row = wire.Closed()  # field by field: keyword arguments cost three times as much, and this runs for every trace
    row.trace_ids = b"".join([key.trace_id for key, _ in close.traces])
    row.generations.extend([generation for _, generation in close.traces])
    row.spans.extend(close.spans)
    row.triggers.extend(close.triggers)
    if close.charges:
        row.charged_span_ids = b"".join([charge.span_id for charge in close.charges])
        if len(close.traces) == 1:
            row.charged_traces.extend([0] * len(close.charges))
        else:
            places = {key.trace_id: place for place, (key, _) in enumerate(close.traces)}
            row.charged_traces.extend([places[charge.trace_id] for charge in close.charges])
    for (name, labels), amount in close.counters.items():
        counter = row.counters.add()
        counter.name, counter.amount = name, amount
        counter.labels.extend(labels)
    for lack in close.missing:
        row.missing.add(
            trace_id=lack.trace_id, span_id=lack.span_id, reason=lack.reason, model=lack.model, start_unix_nano=lack.start_unix_nano
        )
    return row.SerializeToString()


def read(raw: bytes, *, account: str) -> CloseRow:
    """A close row. Raises Malformed."""
    try:
        row = wire.Closed.FromString(raw)
    except DecodeError as broken:
        raise Malformed(str(broken)) from broken
    count = len(row.generations)
    if not (len(row.trace_ids) == TRACE_ID_BYTES * count and len(row.spans) == len(row.triggers) == count):
        raise Malformed("columns of different lengths in a close row")
    charged: list[list[bytes]] = [[] for _ in range(count)]
    for place, trace in enumerate(row.charged_traces):
        charged[trace].append(row.charged_span_ids[SPAN_ID_BYTES * place : SPAN_ID_BYTES * (place + 1)])
    return CloseRow(
        [
            ClosedTrace(
                row.trace_ids[TRACE_ID_BYTES * place : TRACE_ID_BYTES * (place + 1)],
                row.generations[place],
                row.spans[place],
                row.triggers[place],
                charged[place],
            )
            for place in range(count)
        ],
        {(counter.name, tuple(counter.labels)): counter.amount for counter in row.counters},
        [
            Lack(account, lack.trace_id, lack.span_id, lack.start_unix_nano, lack.model if lack.HasField("model") else None, lack.reason)
            for lack in row.missing
        ],
    )
