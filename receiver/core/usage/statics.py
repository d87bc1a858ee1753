"""What the names on a span say: all of a Reading but the counts, the cost and the response id.

Many spans share it (same shape, same class, model, provider and tier), so it is worked out once for them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from receiver.core.usage import names
from receiver.core.usage.cache_mode import Evidence, by_table, by_vocabulary, is_bedrock_openai, is_google
from receiver.core.usage.coerce import flag, text
from receiver.core.usage.draft import values_of
from receiver.core.usage.emitters import Emitter, Facts, ScopeRow, fold
from receiver.core.usage.klass import classify, family
from receiver.core.usage.reading import Reading

if TYPE_CHECKING:
    from collections.abc import Mapping

    from receiver.core.span import Value
    from receiver.core.usage.fields import Shape
    from receiver.core.usage.rules import Rules

#: AI SDK 3 to 5 write the usage of the last step alone onto the span around all steps.
_LAST_STEP_ONLY: Final = ("ai.generateText", "ai.generateObject")


class Statics:
    """The shared part of a Reading, and what the rules for counts need to know of it."""

    __slots__ = ("bedrock_openai", "facts", "google", "quick", "reading", "reasoning_apart", "still", "values")

    def __init__(self, reading: Reading, facts: Facts, shape: Shape, rules: Rules) -> None:
        self.reading = reading  #: complete for a span that states no counts, cost or response id
        self.values: tuple[Any, ...] = values_of(reading)
        self.facts = facts
        self.bedrock_openai = is_bedrock_openai(reading.provider, reading.models)
        self.google = is_google(reading.provider, reading.models)
        self.reasoning_apart = (facts.reasoning_apart and not shape.proves_inclusive) or reading.provider in rules.reasoning_apart
        self.quick = shape.quick is not None and not facts.own_total and reading.operation not in shape.quick.vocabulary.not_on
        mode = shape.quick.vocabulary.mode if shape.quick is not None else None
        #: cache mode where the figures cannot tell
        self.still: Evidence = by_vocabulary(mode, shape.proves_inclusive) or by_table(facts, bedrock_openai=self.bedrock_openai)


def statics_of(name: str, attributes: Mapping[str, Value], shape: Shape, emitter: Emitter, rules: Rules) -> Statics:
    """Read the names. `attributes` hold at least the keys of `deciding_keys` and of the emitter's conditional rows."""
    operation = names.operation(attributes, emitter, rules)
    klass = classify(name, attributes, operation, emitter, rules, only_never_counts=shape.only_never_counts)
    models = names.models(attributes, emitter, rules)
    provider = names.provider(attributes, models, rules)
    facts = emitter.facts(provider.name)
    tier = names.tier(attributes, rules)
    if emitter.conditional:
        rows = [row for row in emitter.conditional if _applies(row, provider.name, attributes)]
        facts = facts.joined(fold(rows))
        tier = next((row.tier for row in rows if row.tier is not None), tier)
    reading = Reading(
        klass=klass,
        family=family(operation, klass, models, rules),
        operation=operation,
        models=models,
        model_requested=names.model_requested(attributes, rules),
        provider=provider.name,
        provider_stated=provider.stated,
        gateway=provider.gateway,
        tier=tier,
        speed=names.speed(attributes, emitter, rules),
        cache_hit=any(flag(attributes.get(key)) for key in rules.cache_hit),
        cumulative=klass in facts.cumulative,
        known_emitter=emitter.known,
        mode_in_table=facts.mode is not None,
        drops_cache=facts.drops_cache,
        usage_incomplete=klass in facts.incomplete or (operation in _LAST_STEP_ONLY and not shape.proves_inclusive),
    )
    return Statics(reading, facts, shape, rules)


def _applies(row: ScopeRow, provider: str | None, attributes: Mapping[str, Value]) -> bool:
    if row.providers is not None and provider not in row.providers:
        return False
    if row.attribute is None:
        return True
    key, wanted = row.attribute
    value = attributes.get(key)
    if isinstance(value, bool):  # as the operator writes it, whatever its type on the wire
        return wanted.lower() == ("true" if value else "false")
    if isinstance(value, str):
        return text(value) == wanted
    return value is not None and str(value) == wanted


def deciding_keys(rules: Rules) -> frozenset[str]:
    """Keys whose values decide a span's Statics."""
    return frozenset(
        (
            *(row.key for row in rules.classes if row.key),
            *rules.never_values,
            *rules.cache_hit,
            *rules.operation,
            *rules.operation_bare,
            *rules.model,
            *rules.model_bare,
            *rules.model_parameters,
            *rules.model_requested,
            *rules.provider,
            *rules.provider_hosts,
            *rules.tier,
            *rules.speed,
            *rules.speed_bare,
        )
    )
