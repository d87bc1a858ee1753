"""What a value on the wire means, whatever type its emitter gave it.

Counts arrive as integers, as doubles (re-encoded by collectors and JavaScript), as strings of digits (Spring AI, Codex through
tracing layers) and as strings in quotes (MLflow, Langfuse). A count is believed only when it is a whole number within bounds:
NaN and scrubbed text are *missing*, everything else that is no such number is *rejected*, which is missing plus a flag.
"""

from __future__ import annotations

import ast
import json
import math
import re
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from receiver.core.span import Value

#: Largest believable count on one span, tokens. A hundred times the largest context window, and small enough that any list
#: price (< 1e9 pico-USD a token) times it stays within a signed 64-bit column.
MAX_COUNT: Final = 1_000_000_000
#: Largest believable cost on one span, USD: 1e18 pico-USD, within a signed 64-bit column.
MAX_COST_USD: Final = 1_000_000
#: What `count` answers for a value that is there but is no believable count.
REJECTED: Final = -1

PUSD_PER_USD: Final = 1_000_000_000_000
#: Bytes of a JSON container or a Python repr that are parsed; longer ones are missing.
MAX_JSON_BYTES: Final = 65_536
MAX_REPR_BYTES: Final = 16_384
#: Levels of a container that are looked into: usage objects have three.
MAX_DEPTH: Final = 6

#: Logfire, Sentry, Claude Code and home-made scrubbers put these where a value was.
_SCRUBBED: Final = re.compile(r"\[(scrubbed|filtered|redacted)|<\s*(redacted|masked|scrubbed)|\*{3,}\s*$", re.IGNORECASE)
_LONGEST_NUMBER: Final = 40  # characters: 1e9 in any spelling is far shorter
#: A chain of unary operators makes a deep syntax tree out of few brackets.
_OPERATORS: Final = re.compile(r"(?:[-+~]\s*){8}")


def count(value: Value) -> int | None:
    """A token count: a whole number of 0 to `MAX_COUNT`, None when missing, `REJECTED` when it is something else."""
    kind = type(value)
    if kind is int:
        return value if 0 <= value <= MAX_COUNT else REJECTED  # type: ignore[operator,return-value]  # kind is int: a bool has its own type
    if kind is float:
        return _whole(value)  # type: ignore[arg-type]  # kind is float
    if kind is str:
        return _count_in_text(value)  # type: ignore[arg-type]  # kind is str
    return None  # bool, bytes, list, dict, None: no count, and nobody means one by them


def _whole(value: float) -> int | None:
    if not math.isfinite(value):
        return None  # the AI SDK writes NaN for "not told"
    if 0 <= value <= MAX_COUNT and value == int(value):
        return int(value)
    return REJECTED


def _count_in_text(value: str) -> int | None:
    text = unquoted(value)
    if not text or is_scrubbed(text):
        return None
    if text.isascii() and text.isdigit() and len(text) <= _LONGEST_NUMBER:
        number = int(text)
        return number if number <= MAX_COUNT else REJECTED
    if len(text) > _LONGEST_NUMBER or "_" in text:  # float() takes "1_000", no emitter means it
        return REJECTED
    try:
        return _whole(float(text))
    except ValueError:
        return None if text.lower() in ("none", "null", "undefined") else REJECTED


def unquoted(text: str) -> str:
    """`text` without blanks and without the JSON quotes that MLflow and Langfuse put around every value."""
    text = text.strip()
    while len(text) >= 2 and text[0] == text[-1] and text[0] in "\"'":
        text = text[1:-1].strip()
    if len(text) >= 4 and text[:2] == '\\"' and text[-2:] == '\\"':  # quoted twice
        text = text[2:-2].strip()
    return text


def is_scrubbed(text: str) -> bool:
    """Whether a scrubber has put this text where a value was."""
    return text[:1] in "[<*" and bool(text) and _SCRUBBED.match(text) is not None


def text(value: Value) -> str | None:
    """A name or an id: None when it is missing, empty or scrubbed."""
    if type(value) is not str:
        return None
    found = value
    if not found or found[0] in " \"'\\[<*\t\n" or found[-1] in " \t\n":  # most values need none of this
        found = unquoted(found)
        if not found or is_scrubbed(found):
            return None
    return found


def flag(value: Value) -> bool:
    """A boolean, or LiteLLM's string of one in any case."""
    return value is True or (type(value) is str and unquoted(value).lower() == "true")


def pusd(value: Value) -> int | None:
    """A cost in USD as integer pico-USD, rounded half to even; None when it is no finite amount of 0 to `MAX_COST_USD`."""
    kind = type(value)
    if kind is str:
        written = unquoted(value)  # type: ignore[arg-type]  # kind is str
        if not written or len(written) > _LONGEST_NUMBER or "_" in written:
            return None
    elif kind is int or kind is float:
        written = repr(value)  # the shortest decimal that is this double: what the emitter meant
    else:
        return None
    try:
        usd = Decimal(written)
    except InvalidOperation:
        return None
    if not usd.is_finite() or not 0 <= usd <= MAX_COST_USD:
        return None
    return int((usd * PUSD_PER_USD).to_integral_value())  # the default context rounds half to even


def container(value: Value) -> dict[str, Any] | None:
    """A JSON object, a Python repr of a dict, or a kvlist; None when it is none of these, or too big or too deep to be a usage object."""
    if type(value) is dict:
        return value
    if type(value) is not str or len(value) > MAX_JSON_BYTES:
        return None
    found = value.strip()
    if found[:1] == '"':  # JSON within a JSON string
        try:
            inner = json.loads(found)
        except (ValueError, RecursionError):
            return None
        if not isinstance(inner, str):
            return None
        found = inner.strip()
    if found[:1] != "{":
        return None
    try:
        parsed = json.loads(found)
    except (ValueError, RecursionError):
        parsed = _python_repr(found)
    return parsed if isinstance(parsed, dict) else None


def is_cut(value: Value) -> bool:
    """Whether a text that `container` made nothing of began as an object: an attribute length limit (or ours) took its end."""
    return type(value) is str and value.lstrip()[:1] == "{"


def _python_repr(found: str) -> object:
    """`str(some_dict)`, as LangSmith and LiteLLM write it. Never eval: JSON's words first (ten times faster), then a literal."""
    if len(found) > MAX_REPR_BYTES:
        return None
    try:
        return json.loads(found.replace("'", '"').replace("None", "null").replace("True", "true").replace("False", "false"))
    except (ValueError, RecursionError):
        pass
    if _nesting(found) > MAX_DEPTH or _OPERATORS.search(found):
        return None
    try:
        parsed: object = ast.literal_eval(found)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None
    return parsed


def _nesting(found: str) -> int:
    depth = deepest = 0
    for letter in found:
        if letter in "{[(":
            depth += 1
            deepest = max(deepest, depth)
        elif letter in "}])":
            depth -= 1
    return deepest
