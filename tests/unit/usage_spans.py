"""A span of nothing but scope, name and attributes, read by the packaged rules."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from receiver.core.span import Source, Span, Value
from receiver.core.usage import Reader, Reading, Rules, Tokens
from receiver.tables import load_toml

if TYPE_CHECKING:
    from collections.abc import Mapping


@cache
def rules() -> Rules:
    """The packaged tables."""
    return Rules.from_tables(load_toml("usage.toml"))


@cache
def reader() -> Reader:
    """One for all tests: what it remembers must never change what it says."""
    return Reader(rules())


def span(
    attributes: Mapping[str, Value] | tuple[tuple[str, Value], ...], *, scope: str = "", version: str = "", name: str = "span"
) -> Span:
    """A span as the decoder makes it."""
    pairs = attributes if isinstance(attributes, tuple) else tuple(attributes.items())
    source = Source(resource={}, scope=scope, scope_version=version)
    return Span(source, b"t" * 16, b"s" * 8, b"", name, 3, 0, 1, pairs, 0, 0, 0, False, 0, 0)


def read(attributes: Mapping[str, Any], *, scope: str = "", version: str = "", name: str = "span", by: Reader | None = None) -> Reading:
    """What a span with these attributes says."""
    return (by or reader()).read(span(attributes, scope=scope, version=version, name=name))


def usage(reading: Reading) -> Tokens:
    """Its tokens, which must be there and add up."""
    found = reading.tokens
    assert found is not None
    assert found.input_total == found.uncached + found.cache_read + found.cache_write
    assert min(found) >= 0
    return found


def buckets(reading: Reading) -> tuple[int, int, int, int]:
    """(uncached, cache read, cache write, output)."""
    found = usage(reading)
    return found.uncached, found.cache_read, found.cache_write, found.output_total
