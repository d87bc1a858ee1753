"""Single values of OTLP/JSON: protobuf's JSON mapping, with OTLP's hex ids and numeric enums. All raise MalformedExport."""

from __future__ import annotations

import base64
import binascii
import re
from typing import Any, Final

from receiver.core.span import Value
from receiver.errors import MalformedExport

UINT32: Final = (0, 2**32 - 1)
UINT64: Final = (0, 2**64 - 1)
INT32: Final = (-(2**31), 2**31 - 1)
INT64: Final = (-(2**63), 2**63 - 1)

#: Names that the specification forbids and some senders write, in the order of their numbers.
KINDS: Final = ("UNSPECIFIED", "INTERNAL", "SERVER", "CLIENT", "PRODUCER", "CONSUMER")
STATUS_CODES: Final = ("UNSET", "OK", "ERROR")

NOT_HEX: Final = (
    "{field} {found!r} is not hex: OTLP/JSON writes trace and span ids as hex digits, not as base64 "
    "(OTLP specification, JSON Protobuf Encoding)"
)


Object = dict[str, Any]


def camel(fields: Object) -> Object:
    """The same members under lowerCamelCase names."""
    if not any("_" in name for name in fields):
        return fields
    return {re.sub("_([a-z])", lambda match: match[1].upper(), name): value for name, value in fields.items()}


def string(fields: Object, name: str) -> str:
    """A string member; "" when it is absent or null."""
    value = fields.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise MalformedExport(f"{name} is not a string")
    return value


def listed(fields: Object, name: str) -> list[Any]:
    """An array member; [] when it is absent or null."""
    value = fields.get(name)
    if value is None:
        return []
    if not isinstance(value, list):
        raise MalformedExport(f"{name} is not an array")
    return value


def number(value: Any, name: str, bounds: tuple[int, int]) -> int:
    """A protobuf integer: a JSON number or, as 64-bit ones should be, a decimal string."""
    if isinstance(value, str):
        is_whole = len(value) <= 20 and value.isascii() and value.removeprefix("-").isdigit()
    else:
        is_whole = isinstance(value, float) and value.is_integer()
    if is_whole:
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not bounds[0] <= value <= bounds[1]:
        raise MalformedExport(f"{name} {str(value)[:40]!r} is no integer between {bounds[0]} and {bounds[1]}")
    return value


def integer(fields: Object, name: str, bounds: tuple[int, int]) -> int:
    """An integer member; 0 when it is absent or null."""
    value = fields.get(name)
    return 0 if value is None else number(value, name, bounds)


def enum(fields: Object, name: str, prefix: str, names: tuple[str, ...]) -> int:
    """An enum's number; unknown ones are kept, as protobuf does."""
    value = fields.get(name)
    if isinstance(value, str) and value.removeprefix(prefix) in names:
        return names.index(value.removeprefix(prefix))
    return 0 if value is None else number(value, name, INT32)


def hex_id(fields: Object, name: str) -> bytes:
    """The bytes of an id; b"" when it is absent. Of any length: `record.fault` judges that."""
    value = string(fields, name)
    try:
        return binascii.unhexlify(value)
    except ValueError:
        raise MalformedExport(NOT_HEX.format(field=name, found=value[:48])) from None


def unbase64(value: str) -> bytes:
    """Base64, standard or URL-safe, padded or not, as protobuf's JSON mapping reads bytes."""
    try:
        raw = value.translate(str.maketrans("-_", "+/")).rstrip("=")
        return base64.b64decode(raw + "=" * (-len(raw) % 4), validate=True)
    except ValueError:
        raise MalformedExport("bytesValue is not base64") from None


TYPES: Final[dict[str, type | tuple[type, ...]]] = {
    "stringValue": str,
    "boolValue": bool,
    "intValue": (int, str, float),
    "doubleValue": (int, float, str),
    "arrayValue": dict,
    "kvlistValue": dict,
    "bytesValue": str,
}


def any_value(value: Any) -> tuple[str, Any]:
    """Which kind an AnyValue is and what it holds; ("", None) when it is empty: null, {}, or kinds that nobody knows."""
    if value is None:
        return "", None
    if not isinstance(value, dict):
        raise MalformedExport(f'an AnyValue is an object such as {{"stringValue": ...}}, not {str(value)[:40]!r}')
    for name, item in value.items():
        kind = name if name in TYPES else re.sub("_([a-z])", lambda match: match[1].upper(), name)
        if kind in TYPES and item is not None:
            if not isinstance(item, TYPES[kind]):
                raise MalformedExport(f"{kind} holds no value of its type: {str(item)[:40]!r}")
            return kind, item
    return "", None


def scalar(kind: str, item: Any) -> Value:
    """A number, a bool, or None for a value that is empty."""
    if kind == "intValue":
        return number(item, kind, INT64)
    if kind == "doubleValue":
        try:
            return float("" if isinstance(item, bool) else item)  # also "NaN", "Infinity", "-Infinity"
        except (ValueError, OverflowError):
            raise MalformedExport(f"doubleValue {str(item)[:40]!r} is no double") from None
    return item if kind == "boolValue" else None
