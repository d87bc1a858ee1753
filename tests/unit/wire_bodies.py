"""OTLP bodies written byte by byte, for tests of what no encoder writes; and what a piece of work adds to a process's memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

TRACE_ID = b"\x01" * 16
SPAN_ID = b"\x02" * 8


def varint(number: int) -> bytes:
    out = bytearray()
    number &= (1 << 64) - 1
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes((*out, number))


def field(number: int, payload: bytes) -> bytes:
    """A length-delimited field."""
    return varint(number << 3 | 2) + varint(len(payload)) + payload


def string(text: str | bytes) -> bytes:
    """AnyValue.string_value."""
    return field(1, text.encode() if isinstance(text, str) else text)


def integer(number: int) -> bytes:
    """AnyValue.int_value."""
    return b"\x18" + varint(number)


def array(*values: bytes) -> bytes:
    """AnyValue.array_value."""
    return field(5, b"".join(field(1, value) for value in values))


def attribute(key: str | bytes, value: bytes) -> bytes:
    """A KeyValue."""
    return string(key) + field(2, value)


def span(*attributes: bytes, trace_id: bytes = TRACE_ID, span_id: bytes = SPAN_ID, rest: bytes = b"") -> bytes:
    return field(1, trace_id) + field(2, span_id) + b"".join(field(9, one) for one in attributes) + rest


def request(*spans: bytes, resource: bytes = b"", scope: bytes = b"") -> bytes:
    return field(1, field(1, resource) + field(2, field(1, scope) + b"".join(field(2, one) for one in spans)))


MEASURE = """
import sys
from receiver.errors import ReceiverError
from receiver.otlp.decode import Decoder, run
from receiver.otlp.inflate import inflate
from tests.unit.wire_bodies import *

def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))

{prepare}
open("/proc/self/clear_refs", "w").write("5")
before = peak()
try:
    {work}
except ReceiverError as error:
    print(type(error).__name__, file=sys.stderr)
print(peak() - before)
"""


def peak_growth_mib(prepare: str, work: str) -> tuple[float, str]:
    """MiB by which `work` raises the peak of a fresh process that has done `prepare`; and the ReceiverError it ended with, or ""."""
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("the peak of a process's memory can be reset on Linux only (/proc/self/clear_refs)")
    program = MEASURE.format(prepare=prepare, work=work)
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return int(done.stdout) / 1024, done.stderr.strip()
