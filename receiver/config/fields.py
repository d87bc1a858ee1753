"""How a section declares its keys: a default, a kind, and the sentence that `config.toml`, `--help` and the README show.

`key_of(field)` is the key's name in TOML; it differs from the attribute where Python reserves the word or a plural reads better.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import MISSING, Field, field, fields
from typing import Any

from receiver.config import kinds
from receiver.config.kinds import Kind
from receiver.config.units import parse_duration, parse_size

REQUIRED: Any = MISSING  #: for a row's key that has no default


def key(default: Any, kind: Kind, says: str, *, name: str = "", example: str = "", secret: bool = False) -> Any:
    """A key of any kind. `example` is TOML for a comment where the default alone teaches little; a `secret` is masked in dumps."""
    metadata = {"kind": kind, "says": says, "name": name, "example": example, "secret": secret}
    if isinstance(default, dict):
        return field(default_factory=lambda: dict(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def section(cls: type, says: str) -> Any:
    """A section of its own, `[outer.inner]` in TOML."""
    return field(default_factory=cls, metadata={"section": cls, "says": says, "name": ""})


def flag(default: bool, says: str) -> Any:
    """True or false."""
    return key(default, kinds.Flag(), says)


def count(default: int, says: str, *, least: int, most: int) -> Any:
    """An int within limits."""
    return key(default, kinds.Count(least, most), says)


def duration(default: str, says: str, *, least: str, most: str) -> Any:
    """Seconds as float."""
    return key(parse_duration(default), kinds.Duration(least, most), says)


def size(default: str, says: str, *, least: str, most: str) -> Any:
    """Bytes as int."""
    return key(parse_size(default), kinds.Size(least, most), says)


def choice(default: str, words: Sequence[str], says: str) -> Any:
    """One of a few words."""
    return key(default, kinds.Choice(*words), says)


def listen(default: str, says: str) -> Any:
    """`host:port` as str, "" for off."""
    return key(default, kinds.Listen(), says)


def file(says: str) -> Any:
    """The path of a file that exists, "" for none."""
    return key("", kinds.File(), says)


def rows(row: type, says: str, *, name: str, example: str) -> Any:
    """`[[section.name]]`: as many tables as the user writes, none by default."""
    return key((), kinds.Rows(row, example=example), says, name=name)


def key_of(described: Field[Any]) -> str:
    """The key's name in TOML."""
    return described.metadata["name"] or described.name


def keys_of(cls: type) -> dict[str, Field[Any]]:
    """Every key and sub-section of a section, by its TOML name, in order."""
    return {key_of(described): described for described in fields(cls)}


def as_table(values: Any) -> dict[str, Any]:
    """A section or row by TOML names, for those who take tables.

    Arrays of tables are always in it, of other keys those that say something else than their default.
    """
    told: dict[str, Any] = {}
    for name, described in keys_of(type(values)).items():
        value = getattr(values, described.name)
        if isinstance(described.metadata.get("kind"), kinds.Rows):
            told[name] = [as_table(row) for row in value]
        elif value != _default(described):
            told[name] = list(value) if isinstance(value, tuple) else value
    return told


def is_required(described: Field[Any]) -> bool:
    """Whether a row has to state this key."""
    return described.default is MISSING and described.default_factory is MISSING


def _default(described: Field[Any]) -> Any:
    return described.default if described.default_factory is MISSING else described.default_factory()
