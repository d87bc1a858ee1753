"""Which texts name an agent: of an attribute, of a span's name, of the node of a graph."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from receiver.core.attribution import slots
from receiver.core.attribution.text import is_random_id, text_of

#: Span names remembered; they may hold ids, so a full memory starts anew.
REMEMBERED: Final = 4_096

#: A span named for the method that ran (LlamaIndex: `FunctionCallingAgentWorker.run_step`) names a class of the library, no agent.
_METHOD: Final = re.compile(r"[A-Z]\w*\._?[a-z]\w*")


class AgentNames:
    """Tells a name from a placeholder. A placeholder that says at least something is kept as a last resort."""

    def __init__(
        self,
        *,
        placeholders: frozenset[str],
        silent: frozenset[str],
        span_placeholders: frozenset[str],
        span_placeholder_stems: tuple[str, ...],
        prefixes: tuple[str, ...],
        suffixes: tuple[str, ...],
    ) -> None:
        self._placeholders = placeholders  #: lower case, as all of these
        self._silent = silent
        self._span_placeholders = span_placeholders
        self._span_placeholder_stems = span_placeholder_stems
        self.prefixes = prefixes  #: of span names, before the name
        self._suffixes = suffixes
        self._of_attributes: dict[str, tuple[str | None, str | None]] = {}
        self._of_spans: dict[tuple[str, bool], tuple[str | None, str | None]] = {}

    @classmethod
    def from_table(cls, table: Mapping[str, Any]) -> AgentNames:
        """From the table `[agent]`."""
        of_spans = [name.lower() for name in table["span_name_placeholders"]]
        return cls(
            placeholders=frozenset(name.lower() for name in table["placeholders"]),
            silent=frozenset(name.lower() for name in table["silent"]),
            span_placeholders=frozenset(name for name in of_spans if not name.endswith("*")),
            span_placeholder_stems=tuple(name[:-1] for name in of_spans if name.endswith("*")),
            prefixes=tuple(table["span_name_prefixes"]),
            suffixes=tuple(table["span_name_suffixes"]),
        )

    def of_attribute(self, text: str, *, facts: dict[int, str]) -> str | None:
        """The name, or None; a skipped placeholder is noted in `facts`."""
        known = self._of_attributes.get(text)
        if known is None:
            known = self._weigh(text)
            if len(self._of_attributes) >= REMEMBERED:
                self._of_attributes.clear()
            self._of_attributes[text] = known
        if known[1] is not None:
            facts.setdefault(slots.AGENT_PLACEHOLDER, known[1])
        return known[0]

    def _weigh(self, text: str) -> tuple[str | None, str | None]:
        """(name, placeholder): at most one of them."""
        lower = text.lower()
        if lower in self._silent or is_random_id(text):
            return None, None
        return (None, text) if lower in self._placeholders else (text, None)

    def of_span_name(self, name: str, *, is_agent: bool) -> tuple[str | None, str | None]:
        """(name, placeholder): `X` of `invoke_agent X`; of an agent's span the whole name, less the method that ran it."""
        known = self._of_spans.get((name, is_agent))
        if known is None:
            known = self._judge(name, is_agent=is_agent)
            if len(self._of_spans) >= REMEMBERED:
                self._of_spans.clear()
            self._of_spans[name, is_agent] = known
        return known

    def _judge(self, name: str, *, is_agent: bool) -> tuple[str | None, str | None]:
        text = name
        for prefix in self.prefixes:
            if text.startswith(prefix):
                text = text[len(prefix) :]
                break
        else:
            if not is_agent:
                return None, None
        for suffix in self._suffixes:
            if text.endswith(suffix):
                text = text[: -len(suffix)]
                break
        clean = text_of(text)
        if clean is None:
            return None, None
        lower = clean.lower()
        if lower in self._span_placeholders or lower.startswith(self._span_placeholder_stems) or _METHOD.fullmatch(clean):
            return None, clean
        return self._weigh(clean)


class GraphNames:
    """The node of a graph that stands for an agent: nodes that every graph has are plumbing."""

    def __init__(self, *, plumbing: frozenset[str], placeholders: frozenset[str]) -> None:
        self._plumbing = plumbing
        self._placeholders = placeholders

    @classmethod
    def from_table(cls, table: Mapping[str, Any]) -> GraphNames:
        """From the table `[agent]`."""
        return cls(
            plumbing=frozenset(table["plumbing"]),
            placeholders=frozenset(name.lower() for name in (*table["placeholders"], *table["silent"], *table["span_name_placeholders"])),
        )

    def of(self, text: str, how: int) -> str | None:
        """The node, None for plumbing. `how` is `AS_GRAPH_NAME`, `AS_GRAPH_PATH` or `AS_GRAPH_NODE`."""
        if how == slots.AS_GRAPH_PATH:  # a path "node:id|node:id": the innermost node that is no plumbing
            for segment in reversed(text.split("|")):
                node = segment.partition(":")[0]
                if node and not self._is_plumbing(node):
                    return node
            return None
        if how == slots.AS_GRAPH_NAME:  # a name that the program gave
            return None if text.lower() in self._placeholders or is_random_id(text) else text
        return None if self._is_plumbing(text) else text

    def _is_plumbing(self, node: str) -> bool:
        return node in self._plumbing or (node.startswith("__") and node.endswith("__")) or is_random_id(node)
