"""Exports out of files: what is in a file is told by its first bytes, not by its name.

    gzip                      unpacked on the way, whatever is in it
    OTLP protobuf             one export: ExportTraceServiceRequest or TracesData, the same bytes
    OTLP protobuf, framed     the collector's file exporter with `format: proto`: a 4-byte length before each export
    OTLP/JSON                 one export, or several behind one another
    JSON lines                the collector's file exporter: one export a line

A file of lines is read line by line and may be of any size; a line that is broken (the last one of a collector that was killed)
spoils no other. The daemon's own inflation has a limit for one request; here the file is the user's own, and a stream.
"""

from __future__ import annotations

import gzip
import io
import json
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final

from receiver.errors import ReceiverError
from receiver.otlp.export import Encoding

#: Protobuf messages end at 2 GiB; JSON of that size is no single export either.
MAX_DOCUMENT_BYTES: Final = 2 << 30
_SNIFFED_BYTES: Final = 1_024
_GZIP: Final = b"\x1f\x8b"
_ZSTD: Final = b"\x28\xb5\x2f\xfd"
_BOM: Final = b"\xef\xbb\xbf"
#: An object that is empty or begins with a key. Protobuf may begin with a line feed (field 1) and a brace (its length), but never
#: with a whole key after them.
_JSON_OBJECT: Final = re.compile(rb'(?:\xef\xbb\xbf)?\s*\{\s*(?:"[^"\x00-\x1f]*"\s*:|\})')
_JSON_ARRAY: Final = re.compile(rb"(?:\xef\xbb\xbf)?\s*\[\s*[\]\{]")
_FIELD_1: Final = b"\x0a"  #: tag of `resource_spans`
_FRAME: Final = b"\x00"  #: a length below 16 MiB, big endian; no protobuf message begins so
_MAX_LAYERS: Final = 2  #: gzip in gzip happens (a .gz sent with Content-Encoding), more is a mistake or malice


class UnreadableFile(ReceiverError):
    """A file, or the rest of it, that is no export; the sentence says where, why, and what to do."""


@dataclass(frozen=True, slots=True)
class Document:
    """One export as it stood in a file."""

    body: bytes
    encoding: Encoding
    where: str  #: for messages: "traces.jsonl, line 3"


def documents(stream: BinaryIO, name: str) -> Iterator[Document]:
    """The exports of a file, in order. Nothing of an empty file.

    Raises:
        UnreadableFile: from here on nothing more can be read.

    """
    try:
        yield from _sniffed(stream, name, layers=0)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UnreadableFile(f"{name}: the gzip data is damaged or cut off ({error})") from error
    except OSError as error:
        raise UnreadableFile(f"{name}: cannot be read ({error.strerror or error})") from error


def _sniffed(stream: BinaryIO, name: str, *, layers: int) -> Iterator[Document]:
    head = stream.read(_SNIFFED_BYTES)
    whole = io.BufferedReader(_Rejoined(head, stream), 1 << 20)
    if not head.strip():
        if stream.read(1):
            raise UnreadableFile(f"{name}: begins with more than {_SNIFFED_BYTES} blanks; it is no export")
    elif head.startswith(_GZIP):
        if layers == _MAX_LAYERS:
            raise UnreadableFile(f"{name}: is packed more than {_MAX_LAYERS} times; unpack it first")
        with gzip.GzipFile(fileobj=whole, mode="rb") as unpacked:
            yield from _sniffed(unpacked, name, layers=layers + 1)  # type: ignore[arg-type]  # GzipFile has what BinaryIO has of reading
    elif _JSON_OBJECT.match(head):
        yield from _json(whole, name)
    elif head.startswith(_FIELD_1):
        yield Document(_read_all(whole, name), Encoding.PROTOBUF, name)
    elif head.startswith(_FRAME):
        yield from _frames(whole, name)
    elif head.startswith(_ZSTD):
        raise UnreadableFile(f"{name}: is packed with zstd; unpack it first: zstd -d {name}")
    elif _JSON_ARRAY.match(head):
        raise UnreadableFile(f"{name}: is a JSON array; write one export a line: jq -c '.[]' {name}")
    else:
        raise UnreadableFile(f"{name}: is neither OTLP protobuf, nor OTLP/JSON, nor JSON lines of it, nor one of these in gzip")


def _json(stream: BinaryIO, name: str) -> Iterator[Document]:
    """Lines where the first line is a whole document, else documents behind one another, laid out as they like."""
    before = b""
    for number, line in enumerate(_lines(stream, name), 1):
        text = line.removeprefix(_BOM).strip() if number == 1 else line.strip()
        if not text:
            before += b"\n"  # kept, so that line numbers stay right
            continue
        if not _is_document(text):
            yield from _concatenated(before + line.removeprefix(_BOM) + _read_all(stream, name), name)
            return
        yield Document(text, Encoding.JSON, f"{name}, line {number}")
        for later, further in enumerate(_lines(stream, name), number + 1):
            if text := further.strip():
                yield Document(text, Encoding.JSON, f"{name}, line {later}")
        return


def _concatenated(text: bytes, name: str) -> Iterator[Document]:
    try:
        decoded = text.decode()
    except (
        UnicodeDecodeError
    ):  # bad bytes in a string are the decoder's business, which keeps the span; only a document's end is looked for here
        decoded = text.decode("utf-8", "surrogateescape")
    decoder = json.JSONDecoder()
    at = _after_blanks(decoded, 0)
    while at < len(decoded):
        try:
            _, end = decoder.raw_decode(decoded, at)
        except (ValueError, RecursionError) as error:
            line = decoded.count("\n", 0, getattr(error, "pos", at)) + 1
            raise UnreadableFile(f"{name}, line {line}: is no JSON ({getattr(error, 'msg', 'nested too deeply')})") from error
        where = name if at == 0 and not decoded[end:].strip() else f"{name}, line {decoded.count(chr(10), 0, at) + 1}"
        yield Document(decoded[at:end].encode("utf-8", "surrogateescape"), Encoding.JSON, where)
        at = _after_blanks(decoded, end)


def _frames(stream: BinaryIO, name: str) -> Iterator[Document]:
    number = 0
    while prefix := stream.read(4):
        number += 1
        length = int.from_bytes(prefix, "big")
        body = stream.read(length) if len(prefix) == 4 and length <= MAX_DOCUMENT_BYTES else b""
        if len(prefix) < 4 or len(body) < length:
            raise UnreadableFile(f"{name}, export {number}: is cut off; was the collector still writing?")
        yield Document(body, Encoding.PROTOBUF, f"{name}, export {number}")


def _lines(stream: BinaryIO, name: str) -> Iterator[bytes]:
    while line := stream.readline(MAX_DOCUMENT_BYTES + 1):
        if len(line) > MAX_DOCUMENT_BYTES:
            raise UnreadableFile(f"{name}: a line is longer than {MAX_DOCUMENT_BYTES:,} bytes; it is no single export")
        yield line


def _read_all(stream: BinaryIO, name: str) -> bytes:
    body = stream.read(MAX_DOCUMENT_BYTES + 1)
    if len(body) > MAX_DOCUMENT_BYTES:
        raise UnreadableFile(f"{name}: is larger than {MAX_DOCUMENT_BYTES:,} bytes; it is no single export")
    return body


def _is_document(line: bytes) -> bool:
    if not line.endswith(b"}"):
        return False
    try:
        json.loads(line.decode("utf-8", "surrogateescape"))
    except (ValueError, RecursionError):
        return False
    return True


def _after_blanks(text: str, at: int) -> int:
    while at < len(text) and text[at] in " \t\r\n":
        at += 1
    return at


class _Rejoined(io.RawIOBase):
    """A stream whose first bytes were taken off to look at them: pipes cannot be rewound."""

    def __init__(self, head: bytes, rest: BinaryIO) -> None:
        super().__init__()
        self._head = head
        self._rest = rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # typeshed's WriteableBuffer is wider; io hands in memoryviews
        part = self._head[: len(buffer)] or self._rest.read(len(buffer))
        self._head = self._head[len(part) :]
        buffer[: len(part)] = part
        return len(part)
