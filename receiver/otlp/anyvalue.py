"""One attribute: from a serialized `KeyValue` (opentelemetry-proto common.proto) to a `(key, value)` pair.

The rare shapes go through protobuf's own parser, message by message, so whatever it accepts we accept and what it rejects here
is a malformed export. Two things differ on purpose: text is taken as bytes and badly encoded bytes become U+FFFD (a Go receiver
accepts such text too, opentelemetry-proto#3421), and nesting has a budget of our own that costs one attribute, not the request
(protobuf's own, 100 messages, costs the request).
"""

from __future__ import annotations

from typing import Final

from receiver.core.span import Value
from receiver.otlp import wire_pb2 as wire

Pair = tuple[str, Value]

MAX_KEY_BYTES: Final = 256  #: a longer key is never wanted; label and semantic-convention names are a fifth of it
MAX_DEPTH: Final = 32  #: AnyValue in AnyValue; real nesting (tool schemas in attributes) ends at about 8

#: What a value weighs against `limit_of(key)` besides its text: so an array of a million empty values is heavy as well.
VALUE_WEIGHT: Final = 8

#: A list or map whose serialized form is longer than this many times its limit, and this many bytes more, is over the limit without
#: a look: one value weighs at least VALUE_WEIGHT and takes at most 24 bytes beside its text, unless somebody pads it.
PADDING: Final = 4
PADDING_BYTES: Final = 4_096

# First bytes of an AnyValue: field number and wire type of its members.
STRING: Final = 0x0A
BOOL: Final = 0x10
INT: Final = 0x18
DOUBLE: Final = 0x21
BYTES: Final = 0x3A

# Bytes that a value holds in memory: sys.getsizeof in CPython 3.11 on 64 bits, rounded up to the allocator's 16.
PAIR_BYTES: Final = 64  #: a tuple of two, the header of the garbage collector included
TEXT_BYTES: Final = 56  #: a str of ASCII: 49 beside its characters, and half a rounding
NUMBER_BYTES: Final = 32  #: an int up to 60 bits, a float
LIST_BYTES: Final = 64  #: an empty list; 8 for each item
DICT_BYTES: Final = 64  #: an empty dict; about 100 for each item, while it is small


class Lost(Exception):
    """The value is nested too deeply or weighs more than its limit, so its attribute is dropped alone, and counted."""


class Text:
    """Decodes text and counts what had to be mended."""

    __slots__ = ("sanitized",)

    def __init__(self) -> None:
        self.sanitized = 0  #: strings in which at least one byte was replaced by U+FFFD

    def decode(self, raw: bytes, limit: int) -> str:
        """At most `limit` bytes of UTF-8, cut between two characters, each bad byte sequence replaced by U+FFFD."""
        if len(raw) > limit:
            raw = cut(raw, limit)
        try:
            return raw.decode()
        except UnicodeDecodeError:
            self.sanitized += 1
            return raw.decode(errors="replace")

    def mend(self, text: str, limit: int) -> str:
        """The same for text that is a str already (JSON), where lone surrogates are what bad bytes are on the wire."""
        if len(text) <= limit and text.isascii():
            return text
        try:
            raw = text.encode()
        except UnicodeEncodeError:
            self.sanitized += 1
            raw = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode()
        return cut(raw, limit).decode()


def cut(raw: bytes, limit: int) -> bytes:
    """The first `limit` bytes, less the character that the cut would split."""
    if len(raw) <= limit:
        return raw
    end = limit
    while end > 0 and limit - end < 4 and raw[end] & 0xC0 == 0x80:  # a continuation byte (RFC 3629: at most three in a row)
        end -= 1
    return raw[: end if raw[end] & 0xC0 != 0x80 else limit]


def footprint(value: Value) -> int:
    """Bytes that a value holds in memory; an estimate (characters that are not ASCII count as their number)."""
    if isinstance(value, str | bytes):
        return TEXT_BYTES + len(value)
    if isinstance(value, list):
        return LIST_BYTES + sum(8 + footprint(item) for item in value)
    if isinstance(value, dict):
        return DICT_BYTES + sum(100 + TEXT_BYTES + len(key) + footprint(item) for key, item in value.items())
    return NUMBER_BYTES


def parse(raw: bytes, *, limit: int, text: Text, max_depth: int) -> Value:
    """The value of a serialized AnyValue, of whatever shape. Raises Lost, or protobuf's DecodeError.

    A string or bytes over `limit` bytes is cut; a list or map over it is Lost whole, since a part of it would tell something else.
    """
    if len(raw) > PADDING * limit + PADDING_BYTES:
        start, end = only_field(raw)
        if start == 0 or raw[0] not in (STRING, BYTES):
            raise Lost  # a list or map that cannot be within its limit: not worth materialising
        head = raw[start : min(end, start + limit + 4)]
        return text.decode(head, limit) if raw[0] == STRING else head[:limit]
    message = wire.AnyValue.FromString(raw)
    kind = message.WhichOneof("value")
    if kind == "string_value":
        return text.decode(message.string_value, limit)
    if kind == "bytes_value":
        return message.bytes_value[:limit]
    return Nested(limit, text).value(message, max_depth) if kind in ("array_value", "kvlist_value") else _scalar(message, kind)


def only_field(raw: bytes) -> tuple[int, int]:
    """Start and end of the payload, if the bytes are one length-delimited field and nothing else; else (0, 0)."""
    size, at, shift = 0, 1, 0
    for byte in raw[1:6]:  # a length is a varint of at most five bytes
        size |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return (at, at + size) if at + size == len(raw) else (0, 0)
    return 0, 0


def _scalar(message: wire.AnyValue, kind: str | None) -> Value:
    if kind == "int_value":
        return message.int_value
    if kind == "double_value":
        return message.double_value
    if kind == "bool_value":
        return message.bool_value
    return None  # no kind at all, or an index into a table that only profiles have


class Nested:
    """A list or map, with what is left of its limit. Raises Lost when there is nothing left."""

    __slots__ = ("left", "text")

    def __init__(self, limit: int, text: Text) -> None:
        self.left = limit  #: bytes of weight
        self.text = text

    def weigh(self, size: int) -> None:
        self.left -= size + VALUE_WEIGHT
        if self.left < 0:
            raise Lost

    def value(self, message: wire.AnyValue, depth: int) -> Value:
        """`depth`: how many more levels there may be, this one included."""
        if depth < 1:
            raise Lost
        kind = message.WhichOneof("value")
        if kind == "array_value":
            self.weigh(0)
            return [self.value(wire.AnyValue.FromString(raw), depth - 1) for raw in message.array_value.values]
        if kind == "kvlist_value":
            self.weigh(0)
            found: dict[str, Value] = {}
            for raw in message.kvlist_value.values:
                entry = wire.KeyValue.FromString(raw)
                self.weigh(len(entry.key))
                item = self.value(wire.AnyValue.FromString(b"".join(entry.value)), depth - 1)
                found.setdefault(self.text.decode(entry.key, len(entry.key)), item)
            return found
        if kind == "string_value":
            self.weigh(len(message.string_value))
            return self.text.decode(message.string_value, len(message.string_value))
        self.weigh(len(message.bytes_value) if kind == "bytes_value" else 0)
        return message.bytes_value if kind == "bytes_value" else _scalar(message, kind)
