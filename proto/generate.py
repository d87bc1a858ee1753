"""Generate the modules `*_pb2.py` of `receiver/`, and their stubs, from the `.proto` files beside this script; `--check` only compares.

    python proto/generate.py            write
    python proto/generate.py --check    exit 1 and name the files that are not current

Needs `grpcio-tools` (extra `dev`), whose `protoc` stamps its own version into what it writes and makes the module refuse every
older protobuf runtime. Our modules hold a serialized descriptor and two calls of a builder that has not changed since protobuf
3.20, so the stamp is taken out: they load with any protobuf >= 6, and every protoc of that age writes the same bytes.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent

#: Our source below `proto/`, and the module that is made of it, without its ending.
OUTPUTS = {
    "spantoll/wire/v1/wire.proto": ROOT / "receiver" / "otlp" / "wire_pb2",
    "spantoll/journal/v1/journal.proto": ROOT / "receiver" / "store" / "journal_pb2",
}

RUNTIME_CHECK = re.compile(r"^_runtime_version\.ValidateProtobufRuntimeVersion\(\n(?:    .*\n)+\)\n", re.MULTILINE)
STAMPS = re.compile(r"^(?:from google\.protobuf import runtime_version as _runtime_version|# Protobuf Python Version: .*)\n", re.MULTILINE)


#: protoc's stubs say `Mapping` without its parameters, which a strict checker minds.
BARE_MAPPINGS = '# mypy: disable-error-code="type-arg"\n'


class Stale(Exception):
    """`protoc` could not be run, or wrote something that this script does not know how to trim."""


def generate(source: str) -> dict[str, str]:
    """What `protoc` makes of one of our sources: file ending -> text."""
    try:
        from grpc_tools import protoc  # type: ignore[import-untyped]  # noqa: PLC0415 -- ships no types; a developers' tool
    except ImportError as missing:
        raise Stale("grpcio-tools is not installed: pip install grpcio-tools") from missing
    with tempfile.TemporaryDirectory() as folder:
        code = protoc.main(["protoc", f"-I{HERE}", f"--python_out={folder}", f"--pyi_out={folder}", str(HERE / source)])
        if code != 0:
            raise Stale(f"protoc failed on {source} with exit status {code}")
        made = (Path(folder) / source).with_suffix("")
        module = made.with_name(made.name + "_pb2.py").read_text()
        stub = made.with_name(made.name + "_pb2.pyi").read_text()
    module, checks = RUNTIME_CHECK.subn("", module)
    if checks > 1:
        raise Stale(f"protoc wrote {checks} runtime checks into the module of {source}: look at them, then adapt RUNTIME_CHECK")
    module = STAMPS.sub("", module)
    return {".py": module, ".pyi": BARE_MAPPINGS + stub}


def stale() -> list[Path]:
    """Generated files that differ from what their source makes now."""
    found = []
    for source, target in OUTPUTS.items():
        for ending, text in generate(source).items():
            path = target.with_suffix(ending)
            if not path.exists() or path.read_text() != text:
                found.append(path)
    return found


def main(arguments: list[str] | None = None) -> int:
    """Write or check; the process's exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when a generated file is not current")
    options = parser.parse_args(arguments)
    try:
        if options.check:
            found = stale()
            for path in found:
                print(f"{path.relative_to(ROOT)} is not current: run python proto/generate.py", file=sys.stderr)
            return 1 if found else 0
        for source, target in OUTPUTS.items():
            for ending, text in generate(source).items():
                target.with_suffix(ending).write_text(text)
    except Stale as problem:
        print(f"generate.py: {problem}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
