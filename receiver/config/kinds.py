"""What a configuration key may hold: one small class a kind, which reads a value, says what is allowed, and writes it back as TOML.

A value comes from TOML with its type, or from the environment and `--set` as text (`Raw`), which is taken as a TOML value where
it is one and as a bare string elsewhere, so that nobody has to quote twice in a shell.
"""

from __future__ import annotations

import datetime as dt
import json
import math
import re
import tomllib
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

from receiver.config.endpoint import parse_endpoint
from receiver.config.units import format_duration, format_size, parse_duration, parse_size


class Raw(str):
    """A value that came as text, from the environment or from `--set`."""

    __slots__ = ()


class Wrong(Exception):
    """The value is not of the kind; `args` may hold what is wrong with it, where "allowed" alone would not say it."""


class Kind:
    """Base of the kinds. `allowed` ends the sentence "found X, allowed: …"."""

    allowed: str = "any value"
    #: Free text: what looks like a TOML number or date stays text when it came from the environment or `--set`.
    is_text: bool = False

    def read(self, found: Any) -> Any:
        """The value in its unit.

        Raises:
            Wrong: it is not of this kind.

        """
        return self.check(self._from_text(found) if isinstance(found, Raw) else found)

    def check(self, found: Any) -> Any:
        """`read` of a value that has its TOML type."""
        raise NotImplementedError

    def show(self, value: Any) -> str:
        """The value as TOML."""
        return toml(value)

    def _from_text(self, text: str) -> Any:
        value = parse_toml_value(text)
        return text if value is None or (self.is_text and not isinstance(value, str)) else value


class Flag(Kind):
    """True or false."""

    allowed = "true or false"

    def check(self, found: Any) -> bool:
        if isinstance(found, bool):
            return found
        raise Wrong


class Count(Kind):
    """An integer within limits."""

    def __init__(self, least: int, most: int) -> None:
        self._least, self._most = least, most
        self.allowed = f"a whole number from {least:,} to {most:,}"

    def check(self, found: Any) -> int:
        if isinstance(found, int) and not isinstance(found, bool) and self._least <= found <= self._most:
            return found
        raise Wrong


class Counts(Kind):
    """A list of distinct whole numbers within limits, largest first once read."""

    def __init__(self, least: int, most: int) -> None:
        self._each = Count(least, most)
        self.allowed = f"a list of whole numbers from {least:,} to {most:,}"

    def check(self, found: Any) -> tuple[int, ...]:
        if not isinstance(found, list):
            raise Wrong
        numbers = [self._each.check(number) for number in found]
        if len(set(numbers)) != len(numbers):
            raise Wrong("a number stands twice")
        return tuple(sorted(numbers, reverse=True))


class Duration(Kind):
    """Seconds as float, from Prometheus notation."""

    def __init__(self, least: str, most: str) -> None:
        self._least, self._most = parse_duration(least), parse_duration(most)
        self.allowed = f'a duration such as "6s", "10m" or "1h30m", from {least} to {most}'

    def check(self, found: Any) -> float:
        if not isinstance(found, str):
            raise Wrong("a duration needs its unit") if isinstance(found, (int, float, Decimal)) else Wrong
        try:
            seconds = parse_duration(found)
        except ValueError:
            raise Wrong from None
        if self._least <= seconds <= self._most:
            return seconds
        raise Wrong

    def show(self, value: float) -> str:
        return toml(format_duration(value))


class Size(Kind):
    """Bytes as int, from "64MiB" or a plain number of bytes."""

    def __init__(self, least: str, most: str) -> None:
        self._least, self._most = parse_size(least), parse_size(most)
        self.allowed = f'a size such as "256KiB" or "64MiB", or a number of bytes, from {least} to {most}'

    def check(self, found: Any) -> int:
        if isinstance(found, bool):
            raise Wrong
        try:
            count = parse_size(found) if isinstance(found, str) else found
        except ValueError:
            raise Wrong from None
        if isinstance(count, int) and self._least <= count <= self._most:
            return count
        raise Wrong

    def show(self, value: int) -> str:
        return toml(format_size(value))


class Text(Kind):
    """A string without control characters, at most 1,024 characters, optionally of a given form."""

    is_text = True

    def __init__(self, *, pattern: str = "", allowed: str = "a string", may_be_empty: bool = True) -> None:
        self._pattern = re.compile(pattern) if pattern else None
        self._may_be_empty = may_be_empty
        self.allowed = allowed if may_be_empty or pattern else f"{allowed} that is not empty"

    def check(self, found: Any) -> str:
        if not isinstance(found, str) or len(found) > 1_024 or any(ord(c) < 0x20 or ord(c) == 0x7F for c in found):
            raise Wrong
        if not found and self._may_be_empty:
            return found
        if not found or (self._pattern is not None and self._pattern.fullmatch(found) is None):
            raise Wrong
        return found


class Pattern(Text):
    """A regular expression in Python's syntax."""

    def __init__(self) -> None:
        super().__init__(allowed="a regular expression", may_be_empty=False)

    def check(self, found: Any) -> str:
        text = super().check(found)
        try:
            re.compile(text)
        except re.error as error:
            raise Wrong(str(error)) from None
        return text


class Choice(Kind):
    """One of a few words."""

    is_text = True

    def __init__(self, *words: str) -> None:
        self._words = words
        self.allowed = "one of " + ", ".join(json.dumps(word) for word in words)

    def check(self, found: Any) -> str:
        if isinstance(found, str) and found in self._words:
            return found
        raise Wrong


class Listen(Kind):
    """`host:port` as text, "" for off."""

    is_text = True
    allowed = '"host:port" such as "localhost:4317", "0.0.0.0:4317" or "[::1]:4317", or "" for off'

    def check(self, found: Any) -> str:
        if not isinstance(found, str):
            raise Wrong
        if found:
            try:
                parse_endpoint(found)
            except ValueError:
                raise Wrong from None
        return found


class File(Kind):
    """Path of a file that exists, "" for none. A relative path counts from the working directory."""

    is_text = True
    allowed = 'the path of a file that can be read, or "" for none'

    def check(self, found: Any) -> str:
        if not isinstance(found, str) or "\0" in found:
            raise Wrong
        if found:
            try:
                with Path(found).open("rb"):
                    pass
            except OSError as error:
                raise Wrong(error.strerror or type(error).__name__) from None
        return found


class Names(Kind):
    """A list of distinct strings, optionally out of a closed set."""

    def __init__(self, words: Sequence[str] = (), *, pattern: str = "", allowed: str = "a list of strings") -> None:
        self._words = tuple(words)
        self._pattern = re.compile(pattern) if pattern else None
        self.allowed = "a list out of " + ", ".join(json.dumps(word) for word in words) if words else allowed

    def check(self, found: Any) -> tuple[str, ...]:
        if not isinstance(found, list) or not all(isinstance(name, str) and name for name in found):
            raise Wrong
        for name in found:
            if self._words and name not in self._words:
                raise Wrong(f"{json.dumps(name)} is none of them")
            if self._pattern is not None and self._pattern.fullmatch(name) is None:
                raise Wrong(f"{json.dumps(name)} is none")
        if len(set(found)) != len(found):
            raise Wrong("a name stands twice")
        return tuple(found)

    def _from_text(self, text: str) -> Any:
        value = parse_toml_value(text)
        if isinstance(value, list):
            return value
        return [part.strip() for part in text.split(",")] if text.strip() else []  # `--set metrics.dimensions=user,session`


class FlagOrNames(Kind):
    """true, false, or which of a few words it is true for."""

    def __init__(self, words: Sequence[str]) -> None:
        self._names = Names(words)
        self.allowed = f"true, false, or {self._names.allowed}"

    def check(self, found: Any) -> bool | tuple[str, ...]:
        return found if isinstance(found, bool) else self._names.check(found)


class Money(Kind):
    """An exact amount of USD, at most nine decimals; a float in the source is read as it is written, not as binary."""

    allowed = "an amount in USD from 0 to 1,000,000 with at most 9 decimals"

    def check(self, found: Any) -> Decimal:
        if isinstance(found, bool) or not isinstance(found, (int, float, Decimal)):
            raise Wrong
        amount = found if isinstance(found, Decimal) else Decimal(str(found))
        if not amount.is_finite() or not 0 <= amount <= 1_000_000 or amount != round(amount, 9):
            raise Wrong
        return amount

    def show(self, value: Decimal) -> str:
        return f"{value:f}"


class Moment(Kind):
    """A date or a date with time, as Unix nanoseconds; a date begins at midnight UTC, a time without offset is UTC."""

    allowed = "a date such as 2026-11-01 or a time such as 2026-11-01T12:00:00Z"

    def check(self, found: Any) -> int:
        if isinstance(found, str):
            try:
                found = dt.datetime.fromisoformat(found)
            except ValueError:
                raise Wrong from None
        if isinstance(found, dt.date) and not isinstance(found, dt.datetime):
            found = dt.datetime(found.year, found.month, found.day, tzinfo=dt.UTC)
        if not isinstance(found, dt.datetime):
            raise Wrong
        if found.tzinfo is None:
            found = found.replace(tzinfo=dt.UTC)
        nanoseconds: int = (found - _EPOCH) // dt.timedelta(microseconds=1) * 1_000
        return nanoseconds

    def show(self, value: int) -> str:
        return (_EPOCH + dt.timedelta(microseconds=value // 1_000)).isoformat().replace("+00:00", "Z")


class Table(Kind):
    """A table whose keys are the user's own: names to values of one kind."""

    def __init__(self, values: Kind, *, keys: Sequence[str] = (), allowed: str) -> None:
        self.values = values
        self.keys = tuple(keys)  #: the keys that may stand in it; empty: any
        self.allowed = allowed

    def check(self, found: Any) -> dict[str, Any]:
        if not isinstance(found, dict):
            raise Wrong
        return found  # its entries are read one by one, so that each has its own problem


class Rows(Kind):
    """An array of tables, each with the keys of a dataclass."""

    def __init__(self, row: type, *, example: str) -> None:
        self.row = row
        self.example = example  #: TOML that stands as a comment in config.toml, and is checked to be valid
        self.allowed = "an array of tables"

    def check(self, found: Any) -> list[dict[str, Any]]:
        if not isinstance(found, list) or not all(isinstance(row, dict) for row in found):
            raise Wrong
        return found


_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


def parse_toml_value(text: str) -> Any:
    """The value that `text` is in TOML, None where it is none (TOML has no null)."""
    try:
        parsed = tomllib.loads(f"value = {text}", parse_float=Decimal)
    except (tomllib.TOMLDecodeError, ValueError, RecursionError):
        return None
    return parsed["value"] if parsed.keys() == {"value"} else None  # a line break in it must not smuggle in other keys


def toml(value: Any) -> str:
    """A value as TOML, on one line."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(toml(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{toml_key(key)} = {toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return str(value)


def toml_key(name: str) -> str:
    """A key as TOML: bare where that is allowed."""
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else toml(name)
