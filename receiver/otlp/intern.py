"""Attributes that came before are not parsed again: a table from a whole serialized `KeyValue` to its shared pair.

Spans of one program repeat themselves. Most of their attributes are, byte for byte, attributes of the span before; so the decoder
asks one dict, in C, for each of them, and Python runs only on a miss. Four rules keep that honest:

1. The key of the table is the *whole* serialized KeyValue, framed by the message around it. Text that contains a serialized
   KeyValue is inside another key and forges nothing.
2. The table is bounded, in entries and in bytes an entry; it has two generations, so junk pushes out what nobody asks for.
3. An attribute that is not wanted is in it too, as None. A long one is never hashed: its key alone tells that it is skipped.
4. What is out of the ordinary (odd encoding, nesting, bad text) goes to protobuf's parser, attribute by attribute.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from receiver.otlp import wire_pb2 as wire
from receiver.otlp.anyvalue import (
    BOOL,
    DOUBLE,
    INT,
    MAX_KEY_BYTES,
    NUMBER_BYTES,
    PADDING_BYTES,
    PAIR_BYTES,
    STRING,
    TEXT_BYTES,
    Lost,
    Pair,
    Text,
    footprint,
    parse,
)

if TYPE_CHECKING:
    from receiver.core.span import Value

SHORT: Final = 256  #: bytes of a serialized KeyValue that may be in the table
MAX_KEYS: Final = 8_192  #: distinct keys whose limit is remembered; real programs have some hundreds

KEY: Final = 0x0A  #: first byte of a KeyValue as every encoder writes it: field 1, its key
VALUE: Final = 0x12  #: then field 2, its value

TEXTUAL: Final = (str, bytes, list, dict)  #: values that may hold what is not read; a number is read, or says nothing

_double: Final = struct.Struct("<d").unpack_from
_UNASKED: Final = -1


#: Cuts a value down to the parts of it that are read.
Trim = Callable[["Value"], "Value"]


class Limits:
    """`limit_of` and `trim_of`, asked once a key, with a bound on the keys that are remembered."""

    __slots__ = ("_known", "_limit_of", "_trim_of", "_trims")

    def __init__(self, limit_of: Callable[[str], int], trim_of: Callable[[str], Trim | None] = lambda _: None) -> None:
        self._limit_of = limit_of
        self._trim_of = trim_of
        self._known: dict[str, int] = {}
        self._trims: dict[str, Trim | None] = {}

    def of(self, key: str) -> int:
        """Bytes of this key's value that are worth keeping; 0: not wanted."""
        limit = self._known.get(key, _UNASKED)
        if limit == _UNASKED:
            if len(key) > MAX_KEY_BYTES:
                return 0
            if len(self._known) >= MAX_KEYS:
                self._known.clear()
            limit = self._known[key] = self._limit_of(key)
        return limit

    def trim(self, key: str) -> Trim | None:
        """What cuts the values of a wanted key down to what is read of them; None: they are kept whole."""
        found = self._trims.get(key, _trim_unasked)
        if found is _trim_unasked:
            if len(self._trims) >= MAX_KEYS:
                self._trims.clear()
            found = self._trims[key] = self._trim_of(key)
        return found


def _trim_unasked(value: Value) -> Value:
    raise AssertionError(f"stands for a key that was not asked about, and trims nothing, nor {value!r}")


class Interned(dict[bytes, Pair | None]):
    """Serialized KeyValue -> its pair, or None when it is not wanted (or Lost). Ask with `[]`; never with `get`.

    Raises protobuf's DecodeError for a KeyValue that is none. The counters are added up until the caller resets them.
    """

    __slots__ = ("_keys", "_limits", "_max_depth", "_old", "_room", "fresh", "lost", "mended", "text")

    def __init__(self, limits: Limits, *, entries: int, max_depth: int) -> None:
        super().__init__()
        self._limits = limits
        self._keys: dict[bytes, tuple[str, int] | None] = {}  # serialized key field -> key and limit; None: not wanted
        self._old: dict[bytes, Pair | None] = {}  # the generation before
        self._room = max(1, entries // 2)  # entries of one generation
        self._max_depth = max_depth
        self.fresh = 0  #: bytes of memory that new pairs hold
        self.lost = 0  #: wanted attributes that were dropped
        self.mended = False  #: the last one was mended or lost, so it is not remembered: each one is counted
        self.text = Text()

    def age(self) -> None:
        """Make the full generation the old one. To be called between batches: within one a full table just takes no more."""
        if len(self) >= self._room:
            self._old = dict(self)
            self.clear()

    def __missing__(self, raw: bytes) -> Pair | None:
        if len(raw) >= SHORT:
            return self.parse(raw)
        self.mended = False
        pair = self._old[raw] if raw in self._old else self.parse(raw)
        if len(self) < self._room and not self.mended:
            self[raw] = pair
        return pair

    def ask(self, raw: bytes) -> Pair | None:
        """`[]`, but a long KeyValue is not hashed."""
        return self[raw] if len(raw) < SHORT else self.parse(raw)

    def parse(self, raw: bytes) -> Pair | None:
        """What `[]` gives, without looking it up or remembering it: for a long KeyValue, of which only the key is looked at.

        The common shapes by hand, as every encoder writes them: the key field, then a value field up to the end that holds one
        string, number or bool. Whatever differs by one byte goes to protobuf's parser.
        """
        try:
            at = raw[1] + 2
            entry = self._keys[raw[:at]]
            if raw[at] != VALUE:
                return self._odd(raw)
            length = raw[at + 1]
            at += 2
            if length >= 0x80:
                length = length & 0x7F | raw[at] << 7
                at += 1
                if length >= 0x4000:
                    length = length & 0x3FFF | raw[at] << 14
                    at += 1
            size = len(raw)
            if at + length != size or length >= 0x200000:
                return self._odd(raw)
            if entry is None:
                return None
            key, limit = entry
            kind = raw[at]
            at += 1
            if kind == STRING:
                length = raw[at]
                at += 1
                if length >= 0x80:
                    length = length & 0x7F | raw[at] << 7
                    at += 1
                if at + length == size and length <= limit and length < 0x4000:
                    pair = (key, raw[at:].decode())
                    self.fresh += PAIR_BYTES + TEXT_BYTES + length
                    return pair
            elif kind == INT:
                number = shift = 0
                while (byte := raw[at]) >= 0x80 and shift < 56:
                    number |= (byte & 0x7F) << shift
                    at += 1
                    shift += 7
                if at + 1 == size and byte < 0x80:  # at most nine bytes: not negative
                    self.fresh += PAIR_BYTES + NUMBER_BYTES
                    return key, number | byte << shift
            elif kind == BOOL:
                if at + 1 == size and raw[at] <= 1:
                    self.fresh += PAIR_BYTES
                    return key, raw[at] == 1
            elif kind == DOUBLE and at + 8 == size:
                self.fresh += PAIR_BYTES + NUMBER_BYTES
                return key, _double(raw, at)[0]
        except (KeyError, IndexError, UnicodeDecodeError):
            pass  # a key that was not met before, bytes that end too early, bad text
        return self._odd(raw)

    def _odd(self, raw: bytes) -> Pair | None:
        """A key that was not met before, or any shape but the common one: protobuf's parser judges it."""
        if len(raw) > PADDING_BYTES and not _two_fields(raw):
            self.lost += 1  # no encoder writes it so: not worth materialising, whatever it holds
            return None
        message = wire.KeyValue.FromString(raw)
        key = message.key.decode(errors="replace")
        limit = self._limits.of(key)
        if len(message.key) < 0x80 and raw[: (at := 2 + len(message.key))] == bytes((KEY, len(message.key))) + message.key:
            if len(self._keys) >= MAX_KEYS:
                self._keys.clear()
            # what is trimmed comes here each time: no text is within a limit of 0
            self._keys[raw[:at]] = (key, limit if self._limits.trim(key) is None else 0) if limit else None
        if not limit:
            return None
        before = self.text.sanitized
        try:
            value: Value = parse(b"".join(message.value), limit=limit, text=self.text, max_depth=self._max_depth)
        except Lost:
            self.lost += 1
            self.mended = True
            return None
        self.mended = self.text.sanitized != before
        trim = self._limits.trim(key)
        if trim is not None and isinstance(value, TEXTUAL):
            value = trim(value)
        self.fresh += PAIR_BYTES + footprint(value)
        return key, value


def _two_fields(raw: bytes) -> bool:
    """Whether a long KeyValue is a key field of at most 127 bytes and one value field up to the end."""
    if raw[0] != KEY or raw[1] >= 0x80:
        return False
    at = 2 + raw[1]
    length = shift = 0
    for byte in raw[at + 1 : at + 6]:
        length |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return raw[at] == VALUE and at + 1 + shift // 7 + length == len(raw)
    return False
