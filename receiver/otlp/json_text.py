"""A JSON text, taken value by value, so that only a window of it is Python objects at a time.

The standard library's decoder (C) reads what fits into a window; what does not is entered, or stepped over. A value that is stepped
over is judged by its brackets and strings alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Generator, Iterator
from typing import Any, Final

from receiver.errors import ExportTooLarge, MalformedExport

WINDOW: Final = 1 << 18  #: characters that may become Python objects at once: thirty times as many bytes, in the worst case
MAX_TOKENS: Final = 1 << 22  #: brackets and strings in one value that is stepped over
SLICE_TOKENS: Final = 1 << 15  #: of them between two yields

_blank: Final = re.compile(r"[ \t\n\r]*").match
_token: Final = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{}]', re.DOTALL)
_decode: Final = json.JSONDecoder().raw_decode


class TooLong(Exception):
    """The value at the cursor does not fit into a window; the cursor stands before it."""


class Cursor:
    """A place in a JSON text, from which one value after the other is taken. Raises MalformedExport."""

    __slots__ = ("_base", "_most", "_window", "at", "text")

    def __init__(self, text: str, most: int) -> None:
        self.text = text
        self._most = most  # members of one object that are walked
        self.at = 0  #: next character
        self._base = 0  # where the window starts
        self._window = text if len(text) <= WINDOW else text[:WINDOW]

    def fail(self) -> MalformedExport:
        return MalformedExport(f"the body is no JSON, or no OTLP/JSON export request: character {self.at + 1} is not what must stand there")

    def peek(self) -> str:
        """The next character that is no white space; "" at the end."""
        self.at = _blank(self.text, self.at).end()  # type: ignore[union-attr]  # it matches the empty string too
        return self.text[self.at : self.at + 1]

    def finish(self) -> None:
        """There must be nothing more."""
        if self.peek():
            raise self.fail()

    def members(self) -> Iterator[str]:
        """The names of an object's members, none for null; whoever asks takes or skips the value before the next."""
        if not self._enters("{"):
            return
        if self.peek() == "}":
            self.at += 1
            return
        for _ in range(self._most):
            name = self.value() if self.peek() == '"' else None
            if not isinstance(name, str) or self.peek() != ":":
                raise self.fail()
            self.at += 1
            self.peek()
            yield name
            if self._ends("}"):
                return
            self.peek()
        raise ExportTooLarge(what="members of one JSON object", found=self._most + 1, limit=self._most)

    def elements(self) -> Iterator[None]:
        """Once for each element of an array, never for null; whoever asks takes or skips it before the next."""
        if not self._enters("["):
            return
        if self.peek() == "]":
            self.at += 1
            return
        while True:
            self.peek()
            yield
            if self._ends("]"):
                return

    def _enters(self, opening: str) -> bool:
        if self.peek() == opening:
            self.at += 1
            return True
        if self.text.startswith("null", self.at):
            self.at += 4
            return False
        raise self.fail()

    def _ends(self, closing: str) -> bool:
        found = self.peek()
        self.at += 1
        if found == closing:
            return True
        if found == ",":
            return False
        self.at -= 1
        raise self.fail()

    def value(self) -> Any:
        """The value at the cursor, as Python objects. Raises TooLong."""
        start = self.at - self._base
        if not 0 <= start < len(self._window):
            start = self._slide()
        while True:
            reaches_end = self._base + len(self._window) == len(self.text)
            try:
                value, end = _decode(self._window, start)
                if reaches_end or end < len(self._window):
                    self.at = self._base + end
                    return value
            except RecursionError:
                raise MalformedExport("the body is nested too deeply to be read as JSON") from None
            except ValueError as broken:  # JSONDecodeError is one; so is a number of more digits than Python converts
                if reaches_end:
                    raise MalformedExport(f"the body is no JSON: {str(broken)[:200]}") from None
            if start:
                start = self._slide()
            elif self.text[self.at] == '"':
                return self._long_string()
            else:
                raise TooLong

    def _slide(self) -> int:
        self._base = self.at
        self._window = self.text[self.at : self.at + WINDOW]
        return 0

    def _long_string(self) -> str:
        try:
            value, self.at = _decode(self.text, self.at)
        except ValueError as broken:
            raise MalformedExport(f"the body is no JSON: {str(broken)[:200]}") from None
        return value  # type: ignore[no-any-return]  # what starts with a quote is a string

    def skip(self) -> Generator[None, None, bool]:
        """Step over the value at the cursor; False when it was too long to be read, so that only its brackets were."""
        try:
            self.value()
        except TooLong:
            pass
        else:
            return True
        depth = 0
        for count, match in enumerate(_token.finditer(self.text, self.at), 1):
            mark = match[0][0]
            if mark in "[{":
                depth += 1
            elif mark in "]}":
                depth -= 1
            if depth <= 0:
                self.at = match.end()
                return False
            if not count % SLICE_TOKENS:
                if count >= MAX_TOKENS:
                    raise ExportTooLarge(what="brackets and strings in one JSON value", found=count, limit=MAX_TOKENS)
                yield
        raise self.fail()
