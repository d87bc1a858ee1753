"""The tables of `data/attribution.toml`, compiled: from each key to what it says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from receiver.core.attribution import slots
from receiver.core.attribution.slots import (
    AS_AGENT_NAME,
    AS_GRAPH_NAME,
    AS_GRAPH_NODE,
    AS_GRAPH_PATH,
    AS_TAGS,
    IS_AGENT,
    IS_INVOKE_AGENT,
    IS_MODEL,
    IS_TASK,
    IS_TOOL,
    KINDS,
)


class Use(NamedTuple):
    """One thing that a key says. Sorted: slot by slot, in order of precedence."""

    late: bool  #: only after the span's name was asked
    slot: int
    rank: int
    how: int = 0
    needs: int = 0  #: kinds, one of which the span must have
    bars: int = 0  #: kinds, none of which the span may have


def compile_uses(tables: Mapping[str, Any], extra: Mapping[str, Sequence[str]]) -> tuple[dict[str, list[Use]], dict[str, list[Use]]]:
    """(uses of each key, uses of each ending of a key). `extra`: the operator's keys of a dimension, after `spantoll.<dimension>`."""
    uses: dict[str, list[Use]] = {}
    endings: dict[str, list[Use]] = {}
    for dimension in slots.WALKED:
        own = [f"spantoll.{dimension}", *(extra.get(dimension) or ())]
        for rank, key in enumerate(own):
            uses.setdefault(key, []).append(Use(False, slots.slot(dimension, slots.OWN), rank))
        if dimension != "agent":
            _compile_dimension(dimension, tables[dimension], uses, endings)
    _compile_agent(tables["agent"], uses, endings)
    return {key: sorted(found) for key, found in uses.items()}, endings


#: By name in the tables: (kinds of which the span must have one, kinds of which it may have none).
_CONDITIONS: Final = {
    "": (0, 0),
    "agent": (IS_AGENT, 0),
    "invoke_agent": (IS_INVOKE_AGENT, 0),
    "task": (IS_TASK, 0),
    "tool": (IS_TOOL, 0),
    "not_tool": (0, IS_TOOL),
    "not_model": (0, IS_MODEL),
    "not_model_or_tool": (0, IS_TOOL | IS_MODEL),
}


def _add(uses: dict[str, list[Use]], entries: Sequence[Any], at: int, how: int = 0, *, late: bool = False, first: int = 0) -> None:
    for rank, entry in enumerate(entries, first):
        key, when = (entry, "") if isinstance(entry, str) else (entry["key"], entry.get("when", ""))
        needs, bars = _CONDITIONS[when]
        uses.setdefault(key, []).append(Use(late, at, rank, how, needs, bars))


def _compile_dimension(dimension: str, table: Mapping[str, Any], uses: dict[str, list[Use]], endings: dict[str, list[Use]]) -> None:
    strong, weak = slots.slot(dimension, slots.STRONG), slots.slot(dimension, slots.WEAK)
    _add(uses, table["strong"], strong)
    _add(uses, table.get("tags", ()), strong, AS_TAGS, first=len(table["strong"]))
    _add(uses, table["weak"], weak)
    _add(endings, table.get("by_ending", ()), weak, first=len(table["weak"]))


def _compile_agent(table: Mapping[str, Any], uses: dict[str, list[Use]], endings: dict[str, list[Use]]) -> None:
    _add(uses, table["names"], slots.AGENT_NAME, AS_AGENT_NAME)
    _add(uses, table["names_last"], slots.AGENT_NAME, AS_AGENT_NAME, late=True)
    by_ending = [{"key": ending, "when": "not_tool"} for ending in table["names_by_ending"]]
    _add(endings, by_ending, slots.AGENT_NAME, AS_AGENT_NAME, late=True, first=len(table["names_last"]))
    _add(uses, table["last_resorts"], slots.AGENT_RESORT)
    rank = 0
    for how, names in (
        (AS_GRAPH_NAME, table["graph_names"]),
        (AS_GRAPH_PATH, table["graph_paths"]),
        (AS_GRAPH_NODE, table["graph_nodes"]),
    ):
        for name in names:
            keys = [prefix + name for prefix in table["graph_prefixes"]]
            _add(uses, keys, slots.AGENT_GRAPH, how, first=rank)
            rank += len(keys)


def kind_values(table: Mapping[str, Any]) -> dict[str, int]:
    """What a kind key's value (lower case) makes of a span: bits of `slots.KINDS`."""
    values: dict[str, int] = {}
    for name, kind in KINDS.items():
        for value in table[name]:
            values[value] = values.get(value, 0) | kind
    return values
