"""The tables of `usage.toml`, compiled once and never changed: which keys are read, in which order, and what their values mean.

Everything that differs between instrumentations is data here; the modules beside this one hold the reasoning, which does not differ.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from receiver.core.usage.emitters import Emitter, ScopeRow, scope_row
from receiver.core.usage.reading import CacheMode, Klass
from receiver.core.usage.trim import Trim, trims
from receiver.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

#: Bytes of a value that are worth keeping, by what it is. A number needs few; the longest names are Bedrock ARNs; of a call's
#: parameters only the model's name is read, which stands near the start; a provider's metadata may carry citations.
LIMIT_COUNT: Final = 64
LIMIT_NAME: Final = 1_024
LIMIT_PARAMETERS: Final = 1_024
LIMIT_COST_BOX: Final = 4_096
LIMIT_CONTAINER: Final = 65_536

#: The parts of input and output that a span may state, in the order of `fields.Counts`.
DETAILS: Final = (
    "cache_read", "cache_write", "cache_write_5m", "cache_write_1h", "reasoning", "audio_in", "image_in", "video_in",
    "audio_cache_read", "audio_out", "image_out", "compaction_in", "compaction_out", "web_searches",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Names for input, output and total that belong together."""

    name: str
    input: tuple[str, ...]
    output: tuple[str, ...]
    total: tuple[str, ...]
    scope: re.Pattern[str] | None  #: the only scopes in which these names mean tokens
    mode: CacheMode | None  #: of counts stated in these names, whoever wrote them
    not_on: frozenset[str]  #: operations on which these names repeat a child
    exclusive_beside: frozenset[str] = frozenset()  #: keys beside which these counts leave the cache out


@dataclass(frozen=True, slots=True)
class ClassRow:
    """What the values of one key (or, with `key` "", the span's name) say of a span's class."""

    key: str
    scope: re.Pattern[str] | None
    values: Mapping[str, Klass]  #: by lower-case value
    patterns: tuple[tuple[re.Pattern[str], Klass], ...]
    other: Klass | None  #: for any other value; None: ask the next row

    def klass(self, value: str) -> Klass | None:
        """The class that `value` states, None where this row does not tell."""
        found = self.values.get(value.lower())
        if found is not None:
            return found
        for pattern, klass in self.patterns:
            if pattern.match(value):
                return klass
        return self.other


@dataclass(frozen=True, slots=True)
class Boxes:
    """How a provider's usage object in one attribute is read."""

    keys: tuple[str, ...]
    prefixes: tuple[str, ...]
    details_only: tuple[str, ...]  #: boxes (or prefixes of them) whose input and output are not the span's
    mode_if_sole: Mapping[str, CacheMode]
    names: Mapping[str, tuple[str, ...]]  #: canonical count -> its spellings
    exclusive_beside: frozenset[str]
    tier: tuple[str, ...]
    speed: tuple[str, ...]
    counts: frozenset[str]  #: all names of counts together


class Rules:
    """All tables. Immutable after `from_tables`."""

    def __init__(self, tables: Mapping[str, Any], scopes: Sequence[ScopeRow]) -> None:
        """Use `from_tables`: it checks."""
        self.scopes = tuple(scopes)
        self.vocabularies = tuple(_vocabulary(row) for row in tables["vocabulary"])
        details = tables["details"]
        self.details = {name: tuple(details.get(name, ())) for name in DETAILS}
        bare = tables["bare_details"]
        self.bare_scope = re.compile(bare["scope"])
        self.bare_details = {name: tuple(bare.get(name, ())) for name in DETAILS}
        self.cache_keys = frozenset(key for source in (self.details, self.bare_details) for name in DETAILS[:4] for key in source[name])
        proof = tables["proof"]
        self.inclusive_prefixes = tuple(proof["inclusive_prefixes"])
        self.inclusive_sdk_prefixes = tuple(proof["inclusive_sdk_prefixes"])
        self.sdk_scope = re.compile(proof["sdk_scope"])
        self.boxes = _boxes(tables["boxes"])
        langfuse = tables["langfuse"]
        self.langfuse_key: str = langfuse["key"]
        #: Langfuse bucket -> canonical count
        self.langfuse = {bucket: name for name in ("input", "output", "total", *DETAILS) for bucket in reversed(langfuse.get(name, ()))}
        self.classes = tuple(_class_row(row) for row in tables["class"])
        never = tables["never"]
        self.never_names = frozenset(never["names"])
        self.never_name_pattern = re.compile(never["name_pattern"])
        self.never_operations = frozenset(never["operations"])
        self.never_values = {key: frozenset(values) for key, values in never["values"].items()}
        self.never_count_prefixes = tuple(never["count_prefixes"])
        self.never_count_keys = frozenset(never["count_keys"])
        self.cache_hit = tuple(never["cache_hit"])
        family = tables["family"]
        self.family_words: tuple[tuple[str, str], ...] = tuple((word, name) for word, name in family["words"])
        self.family_model_words: tuple[tuple[str, str], ...] = tuple((word, name) for word, name in family["model_words"])
        self.operation = tuple(tables["operation"]["keys"])
        self.operation_bare = tuple(tables["operation"]["bare"])
        model = tables["model"]
        self.model = tuple(model["keys"])
        self.model_bare = tuple(model["bare"])
        self.model_bare_scope = re.compile(model["bare_scope"])
        self.model_parameters = tuple(model["parameters"])
        self.model_requested = tuple(model["requested"])
        self.response_id = tuple(tables["response"]["keys"])
        self.response_placeholders = frozenset(tables["response"]["placeholders"])
        self.response_placeholder_characters: str = tables["response"]["placeholder_characters"]
        provider = tables["provider"]
        self.provider = tuple(provider["keys"])
        self.provider_hosts = tuple(provider["hosts"])
        self.not_a_provider = frozenset(provider["not_a_provider"])
        self.gateways = frozenset(provider["gateways"])
        self.provider_synonyms: dict[str, str] = dict(provider["synonyms"])
        self.host_patterns: tuple[tuple[re.Pattern[str], str], ...] = tuple(
            (re.compile(row["pattern"]), row["provider"]) for row in provider["host"]
        )
        self.model_patterns: tuple[tuple[re.Pattern[str], str], ...] = tuple(
            (re.compile(row["pattern"]), row["provider"]) for row in provider["model"]
        )
        tier = tables["tier"]
        self.tier = tuple(tier["keys"])
        self.tier_values: dict[str, str] = dict(tier["values"])
        self.speed = tuple(tier["speed"])
        self.speed_bare = tuple(tier["bare_speed"])
        cost = tables["cost"]
        self.cost = tuple(cost["keys"])
        self.cost_json = {row["key"]: row["field"] for row in cost["json"]}
        self.cost_before_margin = tuple(cost["before_margin"])
        self.reasoning_apart = frozenset(tables["output"]["reasoning_apart"])
        self._limits = self._wanted(tables["keep"])
        self._limit_prefixes = self._wanted_prefixes()
        self._trims, self._trim_prefixes = trims(self)

    @classmethod
    def from_tables(cls, tables: Mapping[str, Any], extra_scopes: Sequence[Mapping[str, Any]] = ()) -> Rules:
        """Compile `usage.toml` (as parsed) with the operator's `[[usage.scope]]` rows before its own.

        Raises ConfigError with a sentence for everything that is wrong with the operator's rows.
        """
        problems: list[str] = []
        synonyms: dict[str, str] = tables["provider"]["synonyms"]

        def normalise(name: str) -> str:
            return canonical_provider(name, synonyms)

        rows = [scope_row(row, f"usage.scope[{place}]", normalise, problems) for place, row in enumerate(extra_scopes)]
        if problems:
            raise ConfigError(problems)
        rows += [scope_row(row, f"usage.toml scope[{place}]", normalise, problems) for place, row in enumerate(tables["scope"])]
        assert not problems, problems  # the packaged table is ours
        return cls(tables, [row for row in rows if row is not None])

    def emitter(self, scope: str, version: str) -> Emitter:
        """What the table knows of an instrumentation scope."""
        return Emitter(scope, version, self.scopes)

    def limit_of(self, key: str) -> int:
        """How many bytes of this attribute's value counting reads; 0: none of it."""
        limit = self._limits.get(key)
        if limit is not None:
            return limit
        return next((limit for prefix, limit in self._limit_prefixes if key.startswith(prefix)), 0)

    def trim_of(self, key: str) -> Trim | None:
        """What cuts this attribute's value down to the parts that counting reads; None where it reads the whole."""
        if key in self._plain:
            return None
        found = self._trims.get(key)
        return found or next((trim for prefix, trim in self._trim_prefixes if key.startswith(prefix)), None)

    def provider_name(self, stated: str) -> str:
        """The registry's name of a provider, as far as it is known; else what stands before a dot; in lower case."""
        return canonical_provider(stated, self.provider_synonyms)

    def _wanted(self, keep: Mapping[str, int]) -> dict[str, int]:
        limits: dict[str, int] = dict(keep)

        def want(limit: int, *lists: Sequence[str]) -> None:
            for keys in lists:
                for key in keys:
                    limits[key] = max(limit, limits.get(key, 0))

        for vocabulary in self.vocabularies:
            want(LIMIT_COUNT, vocabulary.input, vocabulary.output, vocabulary.total)
        want(LIMIT_COUNT, *self.details.values(), *self.bare_details.values(), self.cache_hit, self.cost_before_margin)
        want(LIMIT_COUNT, tuple(key for key in self.cost if key not in self.cost_json))
        want(LIMIT_COUNT, tuple(self.never_count_keys), self.tier, self.speed, self.speed_bare)
        want(LIMIT_NAME, tuple(row.key for row in self.classes if row.key), tuple(self.never_values), self.operation, self.operation_bare)
        want(LIMIT_NAME, self.model, self.model_bare, self.response_id, self.provider, self.provider_hosts)
        want(LIMIT_NAME, tuple(row.attribute[0] for row in self.scopes if row.attribute is not None))
        self._plain = frozenset(limits)  #: keys whose value is read as it is
        want(LIMIT_PARAMETERS, self.model_parameters)
        want(LIMIT_COST_BOX, tuple(self.cost_json))
        want(LIMIT_CONTAINER, self.boxes.keys, (self.langfuse_key,))
        return limits

    def _wanted_prefixes(self) -> tuple[tuple[str, int], ...]:
        counts = (*self.inclusive_prefixes, *self.inclusive_sdk_prefixes, *self.never_count_prefixes)
        return (*((prefix, LIMIT_COUNT) for prefix in counts), *((prefix, LIMIT_CONTAINER) for prefix in self.boxes.prefixes))


def canonical_provider(stated: str, synonyms: Mapping[str, str]) -> str:
    """See `Rules.provider_name`. The AI SDK writes `openai.chat` and `anthropic.messages` where others name the provider."""
    name = stated.strip().lower()
    head = name
    while head:
        known = synonyms.get(head)
        if known is not None:
            return known
        head = head.rpartition(".")[0]  # "google.vertex.chat": as much of it as is known
    return name.partition(".")[0] or name


def _pattern(text: str | None) -> re.Pattern[str] | None:
    return re.compile(text) if text else None


def _vocabulary(row: Mapping[str, Any]) -> Vocabulary:
    mode = CacheMode(row["mode"]) if "mode" in row else None
    not_on = frozenset(row.get("not_on_operations", ()))
    return Vocabulary(
        row["name"],
        tuple(row["input"]),
        tuple(row["output"]),
        tuple(row["total"]),
        _pattern(row.get("scope")),
        mode,
        not_on,
        frozenset(row.get("exclusive_beside", ())),
    )


def _boxes(table: Mapping[str, Any]) -> Boxes:
    names = {name: tuple(table.get(name, ())) for name in ("input", "output", "total", *DETAILS)}
    return Boxes(
        keys=tuple(table["keys"]),
        prefixes=tuple(table["prefixes"]),
        details_only=tuple(table["details_only"]),
        mode_if_sole={key: CacheMode(mode) for key, mode in table["mode_if_sole"].items()},
        names=names,
        exclusive_beside=frozenset(table["exclusive_beside"]),
        tier=tuple(table["tier"]),
        speed=tuple(table["speed"]),
        counts=frozenset().union(*names.values(), table["exclusive_beside"]),
    )


def _class_row(row: Mapping[str, Any]) -> ClassRow:
    values: dict[str, Klass] = {}
    patterns: list[tuple[re.Pattern[str], Klass]] = []
    for letter in ("L", "T", "A"):
        klass = Klass(letter)
        values |= {value.lower(): klass for value in row.get(letter, ())}
        if f"{letter}_pattern" in row:
            patterns.append((re.compile(row[f"{letter}_pattern"]), klass))
    other = Klass(row["other"]) if "other" in row else None
    return ClassRow(row.get("key", ""), _pattern(row.get("scope")), values, tuple(patterns), other)
