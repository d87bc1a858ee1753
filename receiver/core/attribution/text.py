"""Attribute values as names: what is a usable text, and what only stands in for one."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from receiver.core.span import Value

#: Whole values that pipelines put where they removed something (Logfire, Sentry, Claude Code), and empty ones.
_SCRUBBED: Final = re.compile(r"\[Scrubbed due to .*|\[Filtered\]|\[REDACTED\]|<REDACTED>|\*{3,}", re.IGNORECASE | re.DOTALL)

#: Random ids that are no name: UUIDs, and 12 or more hex digits (a shorter word may be a name: "facade", "decade").
_ID: Final = re.compile(r"[0-9a-f]{12,}|[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.IGNORECASE)

#: Text that programs write for "nothing"; compared without case.
_NOTHING: Final = frozenset({"", "none", "null", "undefined", "nan"})
_LONGEST_NOTHING: Final = max(map(len, _NOTHING))


def text_of(value: Value) -> str | None:
    """A value as the text of a dimension; None where it says nothing.

    Quotes of strings that were encoded as JSON (MLflow and Langfuse do that) are taken off; whole numbers become digits.
    """
    if isinstance(value, str):
        if value and value[0].isalnum() and value[-1].isalnum():  # the usual case
            return None if len(value) <= _LONGEST_NOTHING and value.lower() in _NOTHING else value
        text = value.strip()
        if len(text) >= 2 and text[0] == text[-1] == '"':
            text = text[1:-1].strip()
        if text.lower() in _NOTHING or _SCRUBBED.fullmatch(text):
            return None
        return text
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:  # whole numbers that a pipeline made doubles
        return str(int(value))
    return None


def is_random_id(text: str) -> bool:
    """Whether it is a UUID or a long hex number: an id of one run or one object, not the name of anybody."""
    return _ID.fullmatch(text) is not None


def tags_of(value: Value) -> Iterator[str]:
    """The tags of a list, of a JSON list in a string, or of a string with commas."""
    if isinstance(value, str):
        listed = parse_json(value) if value.lstrip()[:1] == "[" else None
        value = listed if isinstance(listed, list) else list(value.split(","))
    if isinstance(value, list):
        for item in value:
            text = text_of(item)
            if text is not None:
                yield text


def parse_json(text: str) -> Value:
    """A JSON document, None where it is none (too deep, an absurd number)."""
    try:
        document: Value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return document


def flatten(prefix: str, value: Value, *, depth: int, most: int) -> Iterable[tuple[str, Value]]:
    """Scalars of a nested object as (dotted key, value), at most `most`; of a list only its first item, as `.0`."""
    found: list[tuple[str, Value]] = []
    _flatten(found, prefix, value, depth, most)
    return found


def _flatten(found: list[tuple[str, Value]], prefix: str, value: Value, depth: int, most: int) -> None:
    if len(found) >= most:
        return
    if isinstance(value, dict):
        if depth > 0:
            for key, inner in value.items():
                _flatten(found, f"{prefix}.{key}", inner, depth - 1, most)
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        _flatten(found, f"{prefix}.0", value[0], depth, most)
    else:
        found.append((prefix, value))


#: What `prune` makes of a value of which nothing is kept; compared by identity.
NOTHING: Final[Value] = "(nothing)"


def prune(prefix: str, value: Value, *, depth: int, most: int, kept: Callable[[str, Value], Value]) -> Value:
    """A nested object with nothing in it but what `kept` keeps of the scalars that `flatten` finds; NOTHING where that is nothing.

    `kept(dotted key, scalar)` gives what is to stand there, or NOTHING.
    """
    left = most

    def pruned(key: str, inner: Value, depth: int) -> Value:
        nonlocal left
        if left <= 0:
            return NOTHING
        if isinstance(inner, dict):
            parts = {name: pruned(f"{key}.{name}", part, depth - 1) for name, part in inner.items()} if depth > 0 else {}
            return {name: part for name, part in parts.items() if part is not NOTHING} or NOTHING
        if isinstance(inner, list) and inner and isinstance(inner[0], dict):
            first = pruned(f"{key}.0", inner[0], depth)
            return NOTHING if first is NOTHING else [first]
        left -= 1
        return kept(key, inner)

    return pruned(prefix, value, depth)
