"""The generated module is what its source makes, and lives beside the official one."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

from opentelemetry.proto.trace.v1 import trace_pb2

from receiver.otlp import wire_pb2
from tests.require import need

ROOT = Path(__file__).parents[2]


def test_the_generated_code_is_current() -> None:
    """Whoever edits a .proto runs `python proto/generate.py`."""
    need(importlib.util.find_spec("grpc_tools"), "grpcio-tools is not installed (extra `dev`)")
    done = subprocess.run(
        [sys.executable, str(ROOT / "proto" / "generate.py"), "--check"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_check_sees_a_file_that_is_not_current(tmp_path: Path) -> None:
    """A check that cannot fail is none: the same script beside an edited source and the old code names the files."""
    need(importlib.util.find_spec("grpc_tools"), "grpcio-tools is not installed (extra `dev`)")
    source = "proto/spantoll/wire/v1/wire.proto"
    others = ("proto/spantoll/journal/v1/journal.proto", "receiver/store/journal_pb2.py", "receiver/store/journal_pb2.pyi")
    for name in ("proto/generate.py", source, "receiver/otlp/wire_pb2.py", "receiver/otlp/wire_pb2.pyi", *others):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text((ROOT / name).read_text())
    (tmp_path / source).write_text((tmp_path / source).read_text().replace("fixed32 flags = 16;", "fixed32 flags = 17;"))
    done = subprocess.run(
        [sys.executable, str(tmp_path / "proto" / "generate.py"), "--check"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert "receiver/otlp/wire_pb2.py is not current" in done.stderr


def test_the_generated_code_asks_for_no_particular_protobuf() -> None:
    """A runtime check of the newest protoc would refuse every older protobuf that our range allows."""
    assert "ValidateProtobufRuntimeVersion" not in (ROOT / "receiver" / "otlp" / "wire_pb2.py").read_text()


def test_the_lean_schema_has_the_official_numbers() -> None:
    """Field by field the same number and wire type: a message of ours is a message of theirs."""
    ours, theirs = wire_pb2.Span.DESCRIPTOR, trace_pb2.Span.DESCRIPTOR
    assert ours.file.pool is theirs.file.pool
    delimited = {ours.fields_by_name["trace_id"].type, theirs.fields_by_name["name"].type, theirs.fields_by_name["attributes"].type}
    varints = {ours.fields_by_name["kind"].type, theirs.fields_by_name["kind"].type}
    for field in ours.fields:
        official = theirs.fields_by_name[field.name]
        assert field.number == official.number
        for types in (delimited, varints):
            assert (field.type in types) == (official.type in types), field.name
        if field.type not in delimited | varints:
            assert field.type == official.type
