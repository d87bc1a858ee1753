"""Inflation: what comes out is right and complete, or refused; and never more than the limit is made of it."""

from __future__ import annotations

import contextlib
import gzip
import random
import zlib
from types import ModuleType

import pytest

from receiver.errors import ExportTooLarge, MalformedExport
from receiver.otlp import inflate as subject
from receiver.otlp.inflate import FOOD, MAX_MEMBERS, PIECE, inflate
from tests.unit.wire_bodies import peak_growth_mib

ENGINES = ["zlib", "isal.isal_zlib"]
BODY = bytes(random.Random(3).choices(b"abcdefgh ", k=3 * FOOD + 17))


@pytest.fixture(params=ENGINES, autouse=True)
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Each test runs on the standard library's engine and on isal's, which must not differ."""
    module = pytest.importorskip(request.param, reason="isal is not installed (extra `fast`)")
    assert isinstance(module, ModuleType)
    monkeypatch.setattr(subject, "fast_zlib", module)
    return module


def raw_deflate(data: bytes) -> bytes:
    engine = zlib.compressobj(6, zlib.DEFLATED, -zlib.MAX_WBITS)
    return engine.compress(data) + engine.flush()


@pytest.mark.parametrize("compress", [gzip.compress, zlib.compress, raw_deflate])
@pytest.mark.parametrize("data", [b"", b"x", BODY, bytes(PIECE + 5)])
def test_what_was_compressed_comes_out(compress: object, data: bytes) -> None:
    """gzip, the deflate that HTTP means (zlib), and the raw one that some clients send for it."""
    assert callable(compress)
    body = compress(data)
    assert inflate(body, limit=len(data)) == data
    assert inflate([body[:3], body[3:10], body[10:]], limit=1 << 30) == data


def test_gzip_members_are_one_body() -> None:
    """RFC 1952 section 2.2: a gzip file is a series of members."""
    parts = [BODY[start : start + 40_000] for start in range(0, len(BODY), 40_000)]
    assert inflate(b"".join(map(gzip.compress, parts)), limit=len(BODY)) == BODY


def test_only_one_layer_is_taken_off() -> None:
    """A gzip inside a gzip is content; so a bomb in a bomb is the size of its outer layer."""
    inner = gzip.compress(bytes(100_000))
    assert inflate(gzip.compress(inner), limit=len(inner)) == inner


@pytest.mark.parametrize("compress", [gzip.compress, zlib.compress, raw_deflate])
def test_one_byte_over_the_limit_is_refused(compress: object) -> None:
    """The limit holds after inflation, to the byte, and the error tells it."""
    assert callable(compress)
    with pytest.raises(ExportTooLarge) as caught:
        inflate(compress(BODY), limit=len(BODY) - 1)
    assert caught.value.limit == len(BODY) - 1
    assert caught.value.what == "bytes after inflation"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\x1f\x8b",
        b"hello, this is no compressed body",
        gzip.compress(BODY)[:-1],
        gzip.compress(BODY)[:-8],
        gzip.compress(BODY)[:1_000],
        zlib.compress(BODY)[:-1],
        raw_deflate(BODY)[:-1],
        gzip.compress(BODY) + b"junk",
        gzip.compress(BODY) + b"junk that is longer than the header of a member",
        gzip.compress(BODY) + bytes(30),
        zlib.compress(BODY) + b"junk",
        raw_deflate(BODY) + b"\x00",
        gzip.compress(BODY)[:-8] + bytes(8),
        gzip.compress(BODY)[:-4] + bytes(4),
        zlib.compress(BODY)[:-4] + bytes(4),
        gzip.compress(b"") * (MAX_MEMBERS + 1),
    ],
)
def test_what_is_not_whole_is_malformed(body: bytes) -> None:
    """Cut short, junk behind it, a wrong check sum or length, another encoding, or thousands of members: refused, never half a body."""
    with pytest.raises(MalformedExport):
        inflate(body, limit=1 << 30)


def test_damage_anywhere_is_refused_or_harmless() -> None:
    """A flipped bit never gives another body than the one that was sent, and no other exception (header fields carry no content)."""
    body = gzip.compress(BODY[:500], mtime=0)
    for place in range(len(body) * 8):
        damaged = bytearray(body)
        damaged[place // 8] ^= 1 << place % 8
        with contextlib.suppress(MalformedExport, ExportTooLarge):
            assert inflate(bytes(damaged), limit=1 << 20) == BODY[:500]


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("1000:1", "gzip.compress(bytes(1 << 28), 9)"),
        ("1000:1 in zlib", "zlib.compress(bytes(1 << 28), 9)"),
        ("a thousand members of 256 KiB", "gzip.compress(bytes(1 << 18), 9) * 1_000"),
    ],
)
def test_a_bomb_takes_no_more_than_the_limit(engine: ModuleType, name: str, body: str) -> None:
    """A quarter of a gibibyte behind a limit of 4 MiB: refused with about the limit in memory."""
    prepare = f"""
import gzip, zlib, {engine.__name__}
import receiver.otlp.inflate as subject
subject.fast_zlib = {engine.__name__}
body = {body}"""
    grown, error = peak_growth_mib(prepare, "inflate(body, limit=4 << 20)")
    assert error == "ExportTooLarge"
    assert grown < 8, f"{name}: {grown:.1f} MiB"
