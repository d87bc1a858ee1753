"""Where values come from: defaults < the file < the environment < `--set`, each remembered with its origin for error messages.

A layer is a nested dict of TOML values, its leaves wrapped in `Found`. Layers are laid over one another key by key.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

from receiver.config.kinds import Raw

#: `SPANTOLL_WINDOW__IDLE_WAIT` is `window.idle_wait`. Names without `__` are not ours: Kubernetes puts `SPANTOLL_PORT`,
#: `SPANTOLL_SERVICE_HOST` and the like into every pod beside a service of that name.
ENV_PREFIX: Final = "SPANTOLL_"
ENV_SEPARATOR: Final = "__"

#: A configuration is written by hand; a file above this is something else, and is not read into memory.
MAX_FILE_BYTES: Final = 16 << 20


@dataclass(frozen=True, slots=True)
class Found:
    """A value and who said it."""

    value: Any
    origin: str


Layer = dict[str, Any]  # name -> Found, or a Layer of its own


def from_file(path: Path, problems: list[str]) -> Layer:
    """The file's layer; an unreadable file is a problem, and an empty layer."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            problems.append(f"{path}: larger than {MAX_FILE_BYTES:,} bytes, so it is no configuration file")
            return {}
        parsed = tomllib.loads(path.read_text(encoding="utf-8"), parse_float=Decimal)  # 0.1 USD is to stay 0.1
    except OSError as error:
        problems.append(f"{path}: cannot be read ({error.strerror or type(error).__name__}); name a file that exists with --config")
        return {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        problems.append(f"{path}: is no TOML: {error}")
        return {}
    return _wrapped(parsed, str(path))


def from_env(environ: Mapping[str, str]) -> Layer:
    """The layer of `SPANTOLL_SECTION__KEY` variables."""
    layer: Layer = {}
    for name, text in sorted(environ.items()):
        if name.startswith(ENV_PREFIX) and ENV_SEPARATOR in name.removeprefix(ENV_PREFIX):
            path = name.removeprefix(ENV_PREFIX).lower().split(ENV_SEPARATOR)
            _put(layer, path, Found(Raw(text), name))
    return layer


def from_set(assignments: Iterable[str], problems: list[str]) -> Layer:
    """The layer of `--set section.key=value`; a later one goes before an earlier one."""
    layer: Layer = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        path = _dotted(name)
        if not equals or path is None:
            problems.append(f"--set {assignment}: allowed: section.key=value, such as --set window.idle_wait=5m")
        else:
            _put(layer, path, Found(Raw(text.strip()), f"--set {name.strip()}"))
    return layer


def laid_over(layers: Iterable[Layer]) -> Layer:
    """One layer out of several; the last word counts. Tables are merged key by key."""
    merged: Layer = {}
    for layer in layers:
        for name, value in layer.items():
            under = merged.get(name)
            merged[name] = laid_over([under, value]) if isinstance(under, dict) and isinstance(value, dict) else value
    return merged


def _wrapped(table: dict[str, Any], origin: str) -> Layer:
    return {name: _wrapped(value, origin) if isinstance(value, dict) else Found(value, origin) for name, value in table.items()}


def _put(layer: Layer, path: list[str], found: Found) -> None:
    for name in path[:-1]:
        inner = layer.setdefault(name, {})
        if not isinstance(inner, dict):
            inner = layer[name] = {}
        layer = inner
    layer[path[-1]] = found


def _dotted(name: str) -> list[str] | None:
    """Parts of a TOML key, quoted ones included: `prices.aliases."gpt 4"`. None where it is no key."""
    try:
        parsed: Any = tomllib.loads(f"{name} = 0")
    except (tomllib.TOMLDecodeError, RecursionError):
        return None
    path: list[str] = []
    while isinstance(parsed, dict):
        if len(parsed) != 1:
            return None
        ((part, parsed),) = parsed.items()
        path.append(part)
    return path if parsed == 0 else None
