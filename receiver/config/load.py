"""From layers to a `Config`, with every problem found in one reading.

Each problem is one sentence: the key's path, who said it, what was found, what is allowed, and the nearest right key for one
that does not exist. Nothing else in the house checks a configuration again.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Mapping
from dataclasses import Field
from pathlib import Path
from typing import Any, TypeVar

from receiver.config import kinds
from receiver.config.check import contradictions
from receiver.config.fields import is_required, keys_of
from receiver.config.kinds import Kind, Raw, Wrong, parse_toml_value, toml, toml_key
from receiver.config.layers import Found, Layer, from_env, from_file, from_set, laid_over
from receiver.config.sections import Config
from receiver.errors import ConfigError

T = TypeVar("T")


def load(file: Path | str | None = None, *, environ: Mapping[str, str] | None = None, assignments: Iterable[str] = ()) -> Config:
    """The configuration out of a file, the environment (the process's own by default) and `--set` assignments.

    Raises:
        ConfigError: with everything that is wrong.

    """
    problems: list[str] = []
    layers = [
        from_file(Path(file), problems) if file is not None else {},
        from_env(os.environ if environ is None else environ),
        from_set(assignments, problems),
    ]
    config = _Reading(problems).section(Config, laid_over(layers), ())
    if config is not None:
        problems += contradictions(config)
    if problems or config is None:
        raise ConfigError(problems)
    return config


class _Reading:
    """One reading: collects problems, never stops at the first."""

    def __init__(self, problems: list[str]) -> None:
        self._problems = problems

    def section(self, cls: type[T], layer: Layer, path: tuple[str, ...]) -> T:
        """A section; a key that is wrong keeps its default, so that the checks between keys still have something to look at."""
        values: dict[str, Any] = {}
        known = keys_of(cls)
        for name, found in layer.items():
            described = known.get(name)
            if described is None:
                self._unknown((*path, name), _origin(found), known)
            elif "section" in described.metadata:
                if isinstance(found, dict):
                    values[described.name] = self.section(described.metadata["section"], found, (*path, name))
                else:
                    self._problem(
                        (*path, name), found, "a section with keys of its own: " + ", ".join(keys_of(described.metadata["section"]))
                    )
            else:
                self._key(described, found, (*path, name), values)
        return cls(**values)

    def _key(self, described: Field[Any], found: Found | Layer, path: tuple[str, ...], values: dict[str, Any]) -> None:
        kind: Kind = described.metadata["kind"]
        if isinstance(kind, kinds.Table):
            values[described.name] = self._table(kind, found, path)
        elif isinstance(found, dict):
            self._problem(path, Found({name: _plain(value) for name, value in found.items()}, _origin(found)), kind.allowed)
        else:
            try:
                value = kind.read(found.value)
            except Wrong as wrong:
                self._problem(path, _hidden(found) if described.metadata["secret"] or _holds_secrets(kind) else found, kind.allowed, wrong)
                return
            if isinstance(kind, kinds.Rows):
                value = tuple(self._row(kind.row, row, found.origin, path, at) for at, row in enumerate(value))
                if None in value:
                    return
            values[described.name] = value

    def _table(self, kind: kinds.Table, found: Found | Layer, path: tuple[str, ...]) -> dict[str, Any]:
        if isinstance(found, Found):  # `--set prices.aliases={a="b"}` or a value that is no table at all
            try:
                entries: Layer = {name: Found(value, found.origin) for name, value in kind.read(found.value).items()}
            except Wrong as wrong:
                self._problem(path, found, kind.allowed, wrong)
                return {}
        else:
            entries = found
        read: dict[str, Any] = {}
        for name, value in entries.items():
            if kind.keys and name not in kind.keys:
                self._unknown((*path, name), _origin(value), kind.keys)
            elif isinstance(value, dict):
                self._problem(
                    (*path, name), Found({key: _plain(inner) for key, inner in value.items()}, _origin(value)), kind.values.allowed
                )
            else:
                try:
                    read[name] = kind.values.read(value.value)
                except Wrong as wrong:
                    self._problem((*path, name), value, kind.values.allowed, wrong)
        return read

    def _row(self, cls: type[T], row: dict[str, Any], origin: str, path: tuple[str, ...], at: int) -> T | None:
        before = len(self._problems)
        here = (*path[:-1], f"{path[-1]}[{at}]")
        known = keys_of(cls)
        values: dict[str, Any] = {}
        for name, value in row.items():
            if name in known:
                self._key(known[name], Found(value, origin), (*here, name), values)
            else:
                self._unknown((*here, name), origin, known)
        for name, described in known.items():
            if is_required(described) and name not in row:
                self._problems.append(f"{_dotted((*here, name))} (in {origin}): is missing; {described.metadata['says']}")
        return cls(**values) if len(self._problems) == before else None

    def _problem(self, path: tuple[str, ...], found: Found, allowed: str, wrong: Wrong | None = None) -> None:
        why = f" ({wrong.args[0]})" if wrong is not None and wrong.args else ""
        self._problems.append(f"{_dotted(path)} (in {found.origin}): found {_shown(found.value)}{why}; allowed: {allowed}")

    def _unknown(self, path: tuple[str, ...], origin: str, siblings: Iterable[str]) -> None:
        near = _nearest(path, siblings)
        hint = f"; did you mean {near}?" if near else f"; allowed here: {', '.join(siblings)}"
        self._problems.append(f"{_dotted(path)} (in {origin}): unknown key{hint}")


def paths(cls: type = Config, above: tuple[str, ...] = ()) -> dict[tuple[str, ...], Field[Any]]:
    """Every key of the configuration by its path, rows and tables as one key each, in order."""
    found: dict[tuple[str, ...], Field[Any]] = {}
    for name, described in keys_of(cls).items():
        if "section" in described.metadata:
            found |= paths(described.metadata["section"], (*above, name))
        else:
            found[*above, name] = described
    return found


def _nearest(path: tuple[str, ...], siblings: Iterable[str]) -> str:
    """The right key or section that was probably meant; "" where nothing is near."""
    last = path[-1]
    beside = list(siblings)
    alike = difflib.get_close_matches(last, beside, n=1, cutoff=0.65) or [name for name in beside if last in name]
    if len(alike) == 1:
        return _dotted((*path[:-1], alike[0]))
    every = list(dict.fromkeys(part for known in paths() for part in (known, known[:-1])))
    by_name = {_dotted(known): known for known in every}
    if alike := difflib.get_close_matches(_dotted(path), by_name, n=1, cutoff=0.75):
        return alike[0]
    return " or ".join([name for name, known in by_name.items() if known[-1] == last][:2])


def _origin(found: Found | Layer) -> str:
    while isinstance(found, dict):
        if not found:
            return "the file"
        found = next(iter(found.values()))
    return found.origin


def _plain(found: Found | Layer) -> Any:
    return found.value if isinstance(found, Found) else {name: _plain(value) for name, value in found.items()}


def _dotted(path: tuple[str, ...]) -> str:
    return ".".join(part if part.endswith("]") else toml_key(part) for part in path)


def _holds_secrets(kind: Kind) -> bool:
    return isinstance(kind, kinds.Rows) and any(described.metadata["secret"] for described in keys_of(kind.row).values())


def _hidden(found: Found) -> Found:
    """Whoever writes the key itself where its hash belongs must not find it in a log."""
    length = f" of {len(found.value)} characters" if isinstance(found.value, str) else ""
    return Found(_Verbatim(f"{'text' if isinstance(found.value, str) else type(found.value).__name__}{length} (hidden)"), found.origin)


class _Verbatim(str):
    """A description in place of a value."""

    __slots__ = ()


def _shown(value: Any) -> str:
    """What was found, as TOML, cut at a length that a line can bear. Text is shown as its reader took it."""
    if isinstance(value, _Verbatim):
        return value
    if isinstance(value, Raw):
        parsed = parse_toml_value(value)
        value = str(value) if parsed is None else parsed
    text = toml(value)
    return text if len(text) <= 80 else text[:77] + "..."
