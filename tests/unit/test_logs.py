"""The log: one line an event, whatever a client put into it."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from receiver import logs

log = logging.getLogger("receiver.test")


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _the_log_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)


def test_a_pipe_gets_one_json_object_a_line() -> None:
    """Log collectors read it without a rule of their own."""
    stream = io.StringIO()
    logs.configure(stream=stream)
    log.info("first spans of a source", extra={"account": "acme", "spans": 3})
    log.warning("%d of %d", 1, 2)
    first, second = map(json.loads, stream.getvalue().splitlines())
    assert first["message"] == "first spans of a source"
    assert (first["level"], first["logger"], first["account"], first["spans"]) == ("info", "receiver.test", "acme", 3)
    assert first["time"].endswith("Z")
    assert len(first["time"]) == len("2026-11-24T12:00:00.000Z")
    assert second["message"] == "1 of 2"


def test_a_terminal_gets_coloured_text() -> None:
    """Eyes find the level first."""
    stream = Terminal()
    logs.configure(stream=stream)
    log.error("the price list is old", extra={"days": 90})
    line = stream.getvalue()
    assert "\x1b[31merror" in line
    assert "the price list is old" in line
    assert "90" in line


def test_text_in_a_pipe_has_no_colour() -> None:
    """`log.format = "text"` in a file must be readable there."""
    stream = io.StringIO()
    logs.configure(format="text", stream=stream)
    log.info("listening", extra={"address": "http://localhost:8102"})
    assert "\x1b" not in stream.getvalue()
    assert "address=http://localhost:8102" in stream.getvalue()


def test_json_may_be_asked_for_on_a_terminal() -> None:
    """`log.format` goes before what the stream is."""
    stream = Terminal()
    logs.configure(format="json", stream=stream)
    log.info("x")
    assert json.loads(stream.getvalue())["message"] == "x"


@pytest.mark.parametrize("style", ["text", "json"])
@pytest.mark.parametrize("text", ["a\nERROR forged", "a\r\x1b[2Jb", "\u2028forged", "\x9b31m", "\u202eevil", "nul\x00"])
def test_what_a_client_sent_makes_no_line_and_no_control_code(style: str, text: str) -> None:
    """A service name with a line break forges no entry, one with an escape sequence clears no screen."""
    stream = io.StringIO()
    logs.configure(format=style, stream=stream)
    log.info("first spans of a source", extra={"service": text})
    log.info(text)
    lines = stream.getvalue().split("\n")
    assert len(lines) == 3
    assert lines[2] == ""
    assert all(ord(c) >= 0x20 and not 0x7F <= ord(c) <= 0x9F and c not in "\u2028\u202e" for line in lines for c in line)


def test_an_exception_is_told_with_its_traceback() -> None:
    """In JSON as a field, in text indented below its line."""
    for style in ("json", "text"):
        stream = io.StringIO()
        logs.configure(format=style, stream=stream)
        try:
            int("boom\x1b[2J")
        except ValueError:
            log.exception("closing failed")
        first, *rest = stream.getvalue().splitlines()
        assert "\x1b" not in stream.getvalue()
        assert "ValueError" in (first if style == "json" else rest[-1])
        assert all(line.startswith("    ") for line in rest)
        assert bool(rest) == (style == "text")


def test_lines_below_the_level_are_not_written() -> None:
    """`log.level`."""
    stream = io.StringIO()
    logs.configure(level="warning", stream=stream)
    log.info("quiet")
    log.warning("loud")
    assert [json.loads(line)["message"] for line in stream.getvalue().splitlines()] == ["loud"]


def test_configuring_twice_writes_once() -> None:
    """A reload of the configuration must not double the log."""
    stream = io.StringIO()
    logs.configure(stream=stream)
    logs.configure(stream=stream)
    log.info("once")
    assert len(stream.getvalue().splitlines()) == 1


def test_a_field_cannot_hide_what_the_line_is() -> None:
    """A field named like a part of the line does not replace it, and a value that is no JSON is shown as text."""
    stream = io.StringIO()
    logs.configure(stream=stream)
    log.info("x", extra={"time": "forged", "level": "forged", "odd": {1, 2}, "bytes": b"\x00"})
    line = json.loads(stream.getvalue())
    assert line["level"] == "info"
    assert line["time"] != "forged"
    assert line["odd"] == "{1, 2}"
