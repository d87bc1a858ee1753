"""The log: text with colour on a terminal, one JSON object a line elsewhere, both to standard error.

A line is a short sentence without variable parts, and its facts are `extra=` fields: `log.info("first spans of a source",
extra={"account": account})`. What a client sent (service names, scopes) may stand in such fields, so no control character
reaches the terminal and no line break makes a second line.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from datetime import UTC, datetime
from typing import IO, Any, Final

#: What a LogRecord has without `extra`; everything else on it is a field of the line.
_OWN: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_LEVELS: Final = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
_COLOURS: Final = {logging.DEBUG: "2", logging.INFO: "36", logging.WARNING: "33", logging.ERROR: "31", logging.CRITICAL: "1;31"}
#: C0, DEL, C1 and the line separators that some viewers break at, and what turns text around (Unicode's bidirectional controls).
_UNPRINTABLE: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
#: A field is a name or a number, not a document; clients choose some of them.
_MAX_FIELD: Final = 512


def configure(*, level: str = "info", format: str = "auto", stream: IO[str] | None = None) -> None:  # noqa: A002 -- the key's name in the configuration
    """Send the whole process's log to one stream.

    Args:
        level: "debug", "info", "warning" or "error".
        format: "text", "json", or "auto": text on a terminal.
        stream: where to; None: standard error.

    """
    stream = sys.stderr if stream is None else stream
    is_terminal = stream.isatty()
    as_text = format == "text" or (format == "auto" and is_terminal)
    handler = logging.StreamHandler(stream)
    handler.setFormatter(TextFormatter(colour=is_terminal) if as_text else JsonFormatter())
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(_LEVELS[level])
    logging.captureWarnings(True)
    logging.getLogger("asyncio").setLevel(max(_LEVELS[level], logging.INFO))  # its debug lines tell of selectors only


class JsonFormatter(logging.Formatter):
    """One JSON object a line: `time` (RFC 3339, UTC), `level`, `logger`, `message`, the fields, and `exception` where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        for name, value in _fields(record).items():
            line.setdefault(name, value)
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=True, default=str)  # ASCII: whatever the reader's encoding, and no odd character is live


class TextFormatter(logging.Formatter):
    """`12:00:00.000 info  message  name=value …`, for eyes."""

    def __init__(self, *, colour: bool) -> None:
        super().__init__()
        self._colour = colour

    def format(self, record: logging.LogRecord) -> str:
        level = f"{record.levelname.lower():<7}"
        fields = "".join(f"  {self._dim(name + '=')}{printable(_cut(value))}" for name, value in _fields(record).items())
        line = f"{self._dim(_time(record)[11:23])} {self._paint(level, record.levelno)} {printable(record.getMessage())}{fields}"
        if record.exc_info:
            trace = self.formatException(record.exc_info).splitlines()
            line += "".join(f"\n    {printable(part)}" for part in trace)
        return line

    def _dim(self, text: str) -> str:
        return f"\x1b[2m{text}\x1b[0m" if self._colour else text

    def _paint(self, text: str, level: int) -> str:
        return f"\x1b[{_COLOURS.get(level, '0')}m{text}\x1b[0m" if self._colour else text


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    return {name: value for name, value in vars(record).items() if name not in _OWN}


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _cut(value: object) -> str:
    text = value if isinstance(value, str) else str(value)
    text = text if len(text) <= _MAX_FIELD else text[:_MAX_FIELD] + "..."
    return json.dumps(text, ensure_ascii=False) if text == "" or any(c in text for c in ' "=') else text


def printable(text: str) -> str:
    """Text that a client chose, safe for a terminal: control characters become visible escapes."""
    return _UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
