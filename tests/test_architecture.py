"""The house keeps its shape: who may import whom, what the pure core may touch, how long a file may grow."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

RECEIVER = Path(__file__).parent.parent / "receiver"

# Each layer may import the layers to its right only; siblings of a layer never import one another.
LAYERS: list[set[str]] = [
    {"__main__"},
    {"app", "cli"},
    {"daemon"},
    {"offices"},
    {"building"},
    {"intake", "closing", "web", "admin", "offline", "demo"},
    {"otlp", "access", "store", "lightning"},
    {"metrics", "config", "clock", "logs", "tables"},
    {"core"},
    {"errors"},
]
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}
# Only the layers down to `building` see the whole configuration.
# `cli` and `app` share a layer on purpose: the verbs call the composition root.
MAY_MEET = {("cli", "app")}
IMPURE = {
    "asyncio", "time", "random", "logging", "socket", "os", "pathlib", "threading", "subprocess", "io", "sqlite3", "secrets", "uuid",
    "tempfile",
}  # fmt: skip
MODULES = sorted(p for p in RECEIVER.rglob("*.py") if not p.name.endswith("_pb2.py"))


def part_of(path: Path) -> str:
    first = path.relative_to(RECEIVER).parts[0]
    return first.removesuffix(".py")


def imports_of(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import; write the whole name"
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
    return found


def test_there_are_modules_to_judge() -> None:
    """An empty list would make every rule below pass."""
    assert len(MODULES) > 30


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(RECEIVER)))
def test_imports_point_one_way(path: Path) -> None:
    """Each module imports only what stands to its right, so no change can travel back."""
    me = part_of(path)
    if me == "__init__":
        assert not {name for name in imports_of(path) if name.startswith("receiver.")}
        return
    assert me in RANK, f"{me} has no place in the layers: give it one"
    for name in imports_of(path):
        if not name.startswith("receiver."):
            continue
        other = name.split(".")[1]
        if other in (me, "__version__"):
            continue
        assert RANK[other] > RANK[me] or (me, other) in MAY_MEET, f"{path.relative_to(RECEIVER)} imports {name}"


@pytest.mark.parametrize("path", [p for p in MODULES if part_of(p) == "core"], ids=lambda p: str(p.relative_to(RECEIVER)))
def test_the_core_is_pure(path: Path) -> None:
    """No clock, no I/O, no logging, no randomness, nothing foreign: what the core decides depends on what it is given."""
    for name in imports_of(path):
        top = name.split(".")[0]
        assert top not in IMPURE, f"{path.relative_to(RECEIVER)} imports {name}"
        assert top in ("receiver", "__future__") or top in STDLIB, (
            f"{path.relative_to(RECEIVER)} imports {name}, which is not the standard library"
        )


STDLIB = __import__("sys").stdlib_module_names


def test_only_the_fixed_folders_stand_at_the_root() -> None:
    """The layout at the root is part of what users and packagers know."""
    root = RECEIVER.parent
    tracked = {p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith(".")}
    built = {"dist", "build", "spantoll-data", "node_modules", "venv"}
    assert tracked - built == {"receiver", "proto", "tests", "deploy"}
