"""What is written for people stays true: config.toml, the help texts, and the README's tables.

`python -m tests.test_docs` writes config.toml and the README's two tables anew.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import click

from receiver.cli import main
from receiver.config import Config, commented, load, paths
from receiver.config.fields import keys_of
from receiver.config.kinds import Rows
from receiver.metrics.families import FAMILIES

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"


def config_rows() -> list[str]:
    """A row per key, in the order of config.toml."""
    rows: list[str] = []
    for path, described in paths().items():
        kind = described.metadata["kind"]
        if isinstance(kind, Rows):
            keys = ", ".join(f"`{name}`" for name in keys_of(kind.row))
            rows.append(f"| `[[{'.'.join(path)}]]` | none | {_cell(described.metadata['says'])} Keys: {keys}. |")
        else:
            section: object = Config()
            for name in path[:-1]:
                section = getattr(section, name)
            rows.append(f"| `{'.'.join(path)}` | `{kind.show(getattr(section, described.name))}` | {_cell(described.metadata['says'])} |")
    return rows


def metric_rows() -> list[str]:
    """A row per metric family, in the order of a scrape."""
    rows: list[str] = []
    for family in FAMILIES:
        labels = ", ".join(f"`{label}`" for label in family.labels) + (" + `metrics.dimensions`" if family.with_dimensions else "")
        rows.append(f"| `{family.full_name}` | {family.kind.value} | {labels} | {_cell(family.help)} |")
    return rows


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def readme() -> str:
    return README.read_text()


def test_config_toml_is_every_default_with_its_sentence() -> None:
    """The file in the repository is the one that `check-config --defaults` writes; write it anew with that when this fails."""
    assert (ROOT / "config.toml").read_text() == commented()


def test_config_toml_is_the_defaults() -> None:
    """Whoever runs with it unchanged runs as without it."""
    assert load(ROOT / "config.toml", environ={}) == Config()


def test_config_toml_holds_every_key() -> None:
    """As a value, or as a commented example where the default is none."""
    text = (ROOT / "config.toml").read_text()
    values = tomllib.loads(text)
    for path, described in paths().items():
        kind = described.metadata["kind"]
        if isinstance(kind, Rows):
            block = text.partition(f"# [[{'.'.join(path)}]]\n")[2]
            for name in keys_of(kind.row):
                assert re.search(rf"^# +{name} = ", block, re.MULTILINE), (path, name)
            continue
        found: object = values
        for name in path:
            assert isinstance(found, dict)
            assert name in found, path
            found = found[name]


def test_every_line_of_config_toml_fits_on_a_screen() -> None:
    """It is read in terminals."""
    assert max(len(line) for line in (ROOT / "config.toml").read_text().splitlines()) <= 120


def test_every_verb_and_option_has_help() -> None:
    """`--help` is the first documentation that a newcomer meets."""
    assert main.help
    for name, verb in main.commands.items():
        assert verb.help, name
        assert verb.get_short_help_str(limit=200).endswith("."), name
        for parameter in verb.params:
            if isinstance(parameter, click.Option):
                assert (parameter.help or "").endswith("."), (name, parameter.name)


def test_the_readme_names_every_verb() -> None:
    """A verb that the README does not show is found by nobody."""
    text = readme()
    for name in main.commands:
        assert f"spantoll {name}" in text, name


def test_the_readme_has_the_config_table() -> None:
    """Every key with its default and its sentence, and none that is gone."""
    _holds(config_rows(), rf"^\| `(?:\[\[)?(?:{'|'.join(keys_of(Config))})\..*$")


def test_the_readme_has_the_metric_table() -> None:
    """Every family with its type, labels and help, and none that is gone."""
    _holds(metric_rows(), r"^\| `spantoll_.*$")


def _holds(wanted: list[str], of_the_kind: str) -> None:
    written = re.findall(of_the_kind, readme(), re.MULTILINE)
    lacking = [row for row in wanted if row not in written]
    stale = [row for row in written if row not in wanted]
    assert not [*lacking, *stale], "write the table anew (python -m tests.test_docs):\n" + "\n".join([*lacking, "stale:", *stale])


def write() -> None:
    """Write config.toml and the README's tables anew from what the code says."""
    (ROOT / "config.toml").write_text(commented())
    text = README.read_text()
    for name, head, rows in (
        ("config-table", "| key | default | what it is |", config_rows()),
        ("metric-table", "| metric | type | labels | what it is |", metric_rows()),
    ):
        line = "|" + " --- |" * (head.count("|") - 1)
        table = "\n".join([head, line, *rows])
        between = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        text, found = between.subn(lambda marks, table=table: f"{marks[1]}\n{table}\n\n{marks[2]}", text)
        assert found == 1, name
    README.write_text(text)


if __name__ == "__main__":
    write()
