"""Protobuf's wire format, on offsets: where the messages of an export request lie, before any of them is parsed or copied.

Everything here is bounded: what is found in a message, and what is stepped over in it. Legal oddities are followed as protobuf
follows them: padded varints, fields in any order, unknown fields, groups.
"""

from __future__ import annotations

from typing import Final

from receiver.errors import ExportTooLarge, MalformedExport

#: A run of spans that is parsed at once. 64-128 lean spans were fastest: a longer run leaves the processor's cache. It also bounds
#: what protobuf may make of tiny attributes: 16-48 bytes for one of two bytes.
RUN_BYTES: Final = 65_536
LONG_BYTES: Final = 16_384  #: a longer span is a run of its own, to be walked attribute by attribute

MALFORMED: Final = "the body is no ExportTraceServiceRequest in protobuf encoding: send OTLP, and name its encoding in Content-Type"

Range = tuple[int, int]
Run = tuple[int, int, bool]  #: start and end of some spans, tags included; or, with True, of one long span without its tag


def varint(data: bytes, at: int, most: int) -> tuple[int, int]:
    """The varint of at most `most` bytes at an offset, and where it ends. Raises MalformedExport."""
    value = shift = 0
    for byte in data[at : at + most]:
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise MalformedExport(MALFORMED)


def skip(data: bytes, at: int, end: int) -> tuple[int, int]:
    """The number of the field at an offset, and where it ends. Raises MalformedExport."""
    groups: list[int] = []  # numbers of the groups that are open: a form that proto3 no longer writes, and must still step over
    while True:
        tag, at = varint(data, at, 5)
        number, wire_type = tag >> 3, tag & 7
        if tag > 0xFFFFFFFF or (number == 0 and not groups):  # inside an unknown group protobuf does not look at numbers
            raise MalformedExport(MALFORMED)
        if wire_type == 0:
            _, at = varint(data, at, 10)
        elif wire_type == 1:
            at += 8
        elif wire_type == 2:
            length, at = varint(data, at, 5)
            at += length
        elif wire_type == 3:
            groups.append(number)
        elif wire_type == 5:
            at += 4
        elif wire_type != 4 or not groups or groups.pop() != number:
            raise MalformedExport(MALFORMED)
        if at > end:
            raise MalformedExport(MALFORMED)
        if not groups:
            return number, at


def split(data: bytes, within: Range, what: str, before: int, most: int) -> tuple[list[Range], list[Range]]:
    """Where the payloads of fields 1 and 2 lie in a message. Of each, with the `before` ones, at most `most`, else ExportTooLarge.

    Raises MalformedExport.
    """
    ones: list[Range] = []
    twos: list[Range] = []
    others = 0
    at, end = within
    while at < end:
        first = at
        tag, at = varint(data, at, 5)
        if tag in (0x0A, 0x12):
            length, at = varint(data, at, 5)
            if at + length > end:
                raise MalformedExport(MALFORMED)
            found = ones if tag == 0x0A else twos
            found.append((at, at + length))
            at += length
            if before + len(found) > most:
                raise ExportTooLarge(what=what, found=before + len(found), limit=most)
        else:
            _, at = skip(data, first, end)
            others += 1
            if others > most:
                raise ExportTooLarge(what="unknown fields", found=others, limit=most)
    return ones, twos


def cut_into_runs(data: bytes, within: Range, before: int, most: int) -> tuple[bytes, list[Run], int]:
    """The scope of a ScopeSpans, runs of its spans, and how many they are with the `before` ones: over `most` ExportTooLarge.

    Raises MalformedExport.
    """
    scope: list[bytes] = []
    runs: list[Run] = []
    count = before
    others = 0  # fields that are no span
    at, end = within
    begin = at  # of the run
    while at < end:
        first = at
        if data[at] == 0x12 and at + 2 < end:  # as every encoder writes a span; 0.1 us a span matter here
            tag = 0x12
            length = data[at + 1]
            more = data[at + 2]
            if length < 0x80:
                at += 2
            elif more < 0x80:
                length = length & 0x7F | more << 7
                at += 3
            else:
                length, at = varint(data, at + 1, 5)
        else:
            tag, at = varint(data, at, 5)
            length, at = varint(data, at, 5) if tag in (0x0A, 0x12) else (0, skip(data, first, end)[1])
        at += length
        if at > end:
            raise MalformedExport(MALFORMED)
        if tag == 0x12:
            count += 1
            if count > most:
                raise ExportTooLarge(what="spans", found=count, limit=most)
            if length <= LONG_BYTES:
                if at - begin >= RUN_BYTES:
                    runs.append((begin, at, False))
                    begin = at
                continue
        else:
            others += 1
            if others > most:
                raise ExportTooLarge(what="fields of a scope_spans that are no spans", found=others, limit=most)
            if tag == 0x0A:
                scope.append(data[at - length : at])
        if first > begin:
            runs.append((begin, first, False))
        if tag == 0x12:
            runs.append((at - length, at, True))
        begin = at
    if end > begin or not runs:
        runs.append((begin, end, False))
    return b"".join(scope), runs, count
