"""Tables for eyes, JSON for programs, and which machine it was."""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import os
import platform
import statistics
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from tests.bench.load import BATCHES, NAMES

Record = dict[str, Any]  # of JSON
#: What makes a difference to the figures, where it is installed.
PACKAGES: Final = ("protobuf", "grpcio", "aiohttp", "uvloop", "isal", "pygrpc-native")


def parser(description: str | None) -> argparse.ArgumentParser:
    """The options that every script has."""
    options = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--seed", type=int, default=None, help="of the random ids (default: a new one, which is printed)")
    options.add_argument("--json", type=Path, metavar="FILE", help="write all figures here")
    return options


def choose_loads(options: argparse.ArgumentParser, *, batches: Sequence[int] = BATCHES) -> None:
    """`--load` and `--batch`."""
    options.add_argument("--load", action="append", choices=NAMES, help="only this load; may be repeated (default: both)")
    options.add_argument(
        "--batch",
        action="append",
        type=positive,
        metavar="SPANS",
        help=f"spans in a request; may be repeated (default: {', '.join(map(str, batches))})",
    )


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return number


def machine() -> Record:
    """Where the figures were taken, and with what."""
    installed: dict[str, str] = {}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            installed[name] = importlib.metadata.version(name)
    cpu = [line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "cpu": cpu[0] if cpu else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "packages": installed,
    }


def say_machine(found: Record) -> None:
    packages = " ".join(f"{name} {version}" for name, version in found["packages"].items())
    print(f"{found['date']}, {found['cores']} cores of {found['cpu']}, kernel {found['kernel']}, Python {found['python']}, {packages}")


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Aligned columns: words to the left, numbers to the right."""
    every = [list(columns), *(list(row) for row in rows)]
    widths = [max(len(row[at]) for row in every) for at in range(len(columns))]
    numbers = [bool(rows) and rows[0][at][:1].isdigit() for at in range(len(columns))]
    lines = [
        "  ".join(
            text.rjust(width) if is_number else text.ljust(width) for text, width, is_number in zip(row, widths, numbers, strict=True)
        )
        for row in every
    ]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(line.rstrip() for line in lines)


def spread(values: Sequence[float], digits: int = 2) -> str:
    """`median (lowest-highest)`."""
    if len(values) == 1:
        return f"{values[0]:.{digits}f}"
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def write(path: Path | None, record: Record) -> None:
    if path is not None:
        path.write_text(json.dumps(record, indent=1) + "\n")


def verdict(findings: Sequence[str]) -> str:
    """`exact`, or how much is wrong."""
    return "exact" if not findings else f"WRONG ({len(findings)})"
