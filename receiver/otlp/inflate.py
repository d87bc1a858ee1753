"""What a compressed body becomes, and never more than the limit of it: the only place in the house that inflates.

A kilobyte of gzip may hold a megabyte, and a second gzip in it a gigabyte. So output is asked for in pieces, and the first byte
over the limit ends it. One layer is taken off, never two.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from typing import Any, Final

from receiver.errors import ExportTooLarge, MalformedExport

try:
    from isal import isal_zlib as fast_zlib  # extra `fast`: two to three times as quick, same interface
except ImportError:  # pragma: no cover -- the tests run with either
    import zlib as fast_zlib  # type: ignore[no-redef]  # the same two names are used of both

GZIP: Final = 16 + zlib.MAX_WBITS
ZLIB: Final = zlib.MAX_WBITS
RAW: Final = -zlib.MAX_WBITS

#: Output asked for at once: the most that is held over the limit.
PIECE: Final = 1 << 20

FOOD: Final = 1 << 16  #: input given at once, since what is left of it is copied
MAX_MEMBERS: Final = 1_024  #: gzip members in a body; some compressors write one for each mebibyte, an empty one takes 20 bytes

#: What either engine raises on damaged input.
ERRORS: Final[Any] = (zlib.error, fast_zlib.error)  # untyped: isal's stub says its exception class were an instance

WHAT: Final = "bytes after inflation"

Engine = Any  # zlib and isal_zlib have the same interface and no common type


def inflate(data: bytes | Iterable[bytes], *, limit: int) -> bytes:
    """The body behind `Content-Encoding: gzip` or `deflate`: at most `limit` bytes of it. Its first bytes tell which of the two it is.

    gzip: one member or several (RFC 1952 section 2.2). deflate: a zlib stream (RFC 1950, what HTTP means by the name), or the raw
    one (RFC 1951) that some clients send.

    Raises ExportTooLarge, and MalformedExport: neither of the two, damaged, cut short, or something stands behind its end.
    """
    body = data if isinstance(data, bytes) else b"".join(data)
    try:
        return _inflate(body, limit, fast_zlib)
    except ERRORS as broken:
        raise MalformedExport(
            f"the body is neither gzip nor deflate, or damaged, though its Content-Encoding says so: {broken}"
        ) from broken


def _inflate(body: bytes, limit: int, engine: Engine) -> bytes:
    is_gzip = body[:2] == b"\x1f\x8b"
    wbits = GZIP if is_gzip else ZLIB if _has_zlib_header(body) else RAW
    view = memoryview(body)
    pieces: list[bytes] = []
    at = total = 0  # what was taken in, what came out
    for _ in range(MAX_MEMBERS):
        member = engine.decompressobj(wbits)
        while not member.eof:
            food = view[at : at + FOOD]
            piece = member.decompress(food, min(PIECE, limit - total + 1))
            at += len(food) - len(member.unconsumed_tail) - len(member.unused_data)
            total += len(piece)
            if total > limit:
                raise ExportTooLarge(what=WHAT, found=total, limit=limit)
            pieces.append(piece)
            if not food and not piece and not member.eof:
                raise MalformedExport("the compressed body ends before its last block: it was cut short on its way")
        if at == len(body):
            return b"".join(pieces)
        if not is_gzip:
            raise MalformedExport(f"{len(body) - at} bytes stand behind the end of the deflate body")
    raise MalformedExport(f"the gzip body has more than {MAX_MEMBERS} members: send it as one")


def _has_zlib_header(body: bytes) -> bool:
    """RFC 1950 section 2.2: method 8, and the first two bytes are a multiple of 31."""
    return len(body) >= 2 and body[0] & 0x0F == 8 and (body[0] << 8 | body[1]) % 31 == 0
