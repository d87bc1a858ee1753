"""A configuration as TOML: the commented file with every key, and the effective values of a run."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, Final

from receiver.config import kinds
from receiver.config.fields import as_table, keys_of
from receiver.config.kinds import toml_key
from receiver.config.sections import Config

_WIDTH: Final = 118
_HEAD: Final = (
    "Every key of Spantoll at its default; what you leave out keeps it. Any key can also be given as --set section.key=value or as the"
    " environment variable SPANTOLL_SECTION__KEY (two underscores for each dot); --set goes before the environment, the environment"
    " before the file. Durations are written as in Prometheus (250ms, 6s, 10m, 1h30m), sizes as 256KiB or 64MiB."
    " `spantoll check-config` tells what is wrong."
)


def commented() -> str:
    """Every key at its default with its sentence above: what `config.toml` holds."""
    lines = [*_comment(_HEAD), *_section(Config(), (), said=True)]
    return "\n".join(lines) + "\n"


def effective(config: Config) -> str:
    """The values of a run, secrets masked; it parses to the same configuration but for the secrets."""
    lines = [line for line, after in pairwise([*_section(config, (), said=False), ""]) if line or after]
    return "\n".join(lines).strip("\n") + "\n"


def _section(values: Any, path: tuple[str, ...], *, said: bool) -> Iterator[str]:
    described = keys_of(type(values))
    inner = {name: field for name, field in described.items() if "section" in field.metadata}
    tables = {name: field for name, field in described.items() if isinstance(field.metadata.get("kind"), kinds.Table)}
    arrays = {name: field for name, field in described.items() if isinstance(field.metadata.get("kind"), kinds.Rows)}
    plain = {name: field for name, field in described.items() if name not in {**inner, **tables, **arrays}}
    if path and (plain or said):
        yield f"[{'.'.join(path)}]"
    for name, field in plain.items():
        if said:
            yield from _comment(field.metadata["says"])
        yield f"{name} = {field.metadata['kind'].show(getattr(values, field.name))}"
    for name, field in tables.items():
        yield ""
        if said:
            yield from _comment(field.metadata["says"])
        yield f"[{'.'.join((*path, name))}]"
        if said:
            yield f"# {field.metadata['example']}"
        entry_kind: kinds.Kind = field.metadata["kind"].values
        for entry, value in getattr(values, field.name).items():
            yield f"{toml_key(entry)} = {entry_kind.show(value)}"
    for name, field in arrays.items():
        if said:
            yield ""
            yield from _example(".".join((*path, name)), field)
        for row in getattr(values, field.name):
            yield from ("", f"[[{'.'.join((*path, name))}]]")
            yield from _row(row)
    for name, field in inner.items():
        yield ""
        if said:
            yield from _comment(field.metadata["says"])
        yield from _section(getattr(values, field.name), (*path, name), said=said)


def _row(row: Any) -> Iterator[str]:
    told = as_table(row)
    for name, field in keys_of(type(row)).items():
        value = getattr(row, field.name)
        if name in told:
            shown = kinds.toml(masked(value)) if field.metadata["secret"] else field.metadata["kind"].show(value)
            yield f"{name} = {shown}"


def masked(secret: str) -> str:
    """Enough to tell two secrets apart, not enough to use one."""
    return f"{secret[:8]}..."


def _example(path: str, field: Any) -> Iterator[str]:
    """The keys of a row with their sentences, all as comments: an array of tables has no default but "none".

    Every line that is a comment's sign, a blank and TOML is TOML once that sign is taken off; sentences stand further in.
    """
    yield from _comment(field.metadata["says"])
    kind: kinds.Rows = field.metadata["kind"]
    shown = dict(line.split(" = ", 1) for line in kind.example.splitlines())
    yield f"# [[{path}]]"
    for name, inner in keys_of(kind.row).items():
        yield from _comment(inner.metadata["says"], indent="#   ")
        if name in shown or inner.default is not None:
            yield f"# {name} = {shown[name] if name in shown else inner.metadata['kind'].show(inner.default)}"
        else:
            yield f"#   {name} = ..."


def _comment(sentence: str, *, indent: str = "# ") -> list[str]:
    return textwrap.wrap(sentence, _WIDTH, initial_indent=indent, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
