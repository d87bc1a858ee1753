"""Durations and sizes as people write them: Prometheus notation for time, IEC and SI suffixes for bytes."""

from __future__ import annotations

import re
from typing import Final

#: Prometheus' own order and letters (https://prometheus.io/docs/prometheus/latest/querying/basics/#time-durations).
_MILLISECONDS: Final = {"y": 31_536_000_000, "w": 604_800_000, "d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1_000, "ms": 1}
_DURATION: Final = re.compile("".join(f"(?:([0-9]{{1,9}}){unit})?" for unit in _MILLISECONDS))

_BYTES: Final = {"GiB": 1 << 30, "MiB": 1 << 20, "KiB": 1 << 10, "GB": 10**9, "MB": 10**6, "KB": 10**3, "kB": 10**3, "B": 1, "": 1}
_SIZE: Final = re.compile(r"([0-9]{1,15})\s?(GiB|MiB|KiB|GB|MB|KB|kB|B|)")


def parse_duration(text: str) -> float:
    """Seconds of "6s", "10m", "1h30m", "250ms"; "0" needs no unit.

    Raises:
        ValueError: it is no duration.

    """
    if text == "0":
        return 0.0
    match = _DURATION.fullmatch(text)
    if match is None or not text:
        raise ValueError(text)
    return sum(int(number) * size for number, size in zip(match.groups(), _MILLISECONDS.values(), strict=True) if number) / 1_000


def format_duration(seconds: float) -> str:
    """The shortest notation that `parse_duration` reads back; exact to the millisecond. Years and weeks only where nothing is left over."""
    rest = round(seconds * 1_000)
    if rest == 0:
        return "0s"
    parts: list[str] = []
    for unit, size in _MILLISECONDS.items():
        if unit in ("y", "w") and rest % size:
            continue  # "30d" says more than "4w2d"
        count, rest = divmod(rest, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts)


def parse_size(text: str) -> int:
    """Bytes of "64MiB", "256 KiB", "20MB", "1024".

    Raises:
        ValueError: it is no size.

    """
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError(text)
    return int(match[1]) * _BYTES[match[2]]


def format_size(count: int) -> str:
    """The largest binary unit that divides it, so that nothing is rounded."""
    for unit in ("GiB", "MiB", "KiB"):
        if count and count % _BYTES[unit] == 0:
            return f"{count // _BYTES[unit]}{unit}"
    return f"{count}B"
