"""What a span names: models, provider, gateway, tier, response id, and a cost that its emitter worked out."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from receiver.core.span import Value
from receiver.core.usage.coerce import container, pusd, text

if TYPE_CHECKING:
    from receiver.core.usage.emitters import Emitter
    from receiver.core.usage.fields import Shape
    from receiver.core.usage.rules import Rules

Attributes = Mapping[str, Value]

#: In a container that was cut at its byte limit the name still stands near the start.
_MODEL_IN_JSON: Final = re.compile(r"""["']model(?:_name)?["']\s*:\s*["']([^"'\\]{1,256})["']""")

_LONG: Final = 16  #: characters; no placeholder word is as long


class Provider(NamedTuple):
    """Who is billed for the call, and how the span said so."""

    name: str | None  #: in the registry's spelling
    stated: str | None  #: as the span wrote it
    gateway: str | None


def operation(attributes: Attributes, emitter: Emitter, rules: Rules) -> str | None:
    """The operation as stated."""
    found = _first_text(attributes, rules.operation)
    if found is None and rules.bare_scope.match(emitter.scope):
        found = _first_text(attributes, rules.operation_bare)
    return found


def models(attributes: Attributes, emitter: Emitter, rules: Rules) -> tuple[str, ...]:
    """Every model name that is stated, best first, each once. Parameters are read only where no key for names is on the span."""
    found = dict.fromkeys(name for key in rules.model if (name := text(attributes.get(key))) is not None)
    if rules.model_bare_scope.match(emitter.scope):
        found |= dict.fromkeys(name for key in rules.model_bare if (name := text(attributes.get(key))) is not None)
    if not found and not any(key in attributes for key in rules.model):
        found |= dict.fromkeys(name for key in rules.model_parameters if (name := model_in(attributes.get(key))) is not None)
    return tuple(found)


def model_requested(attributes: Attributes, rules: Rules) -> str | None:
    """The model that was asked for: the name to fall back on where the answer's is an alias."""
    return _first_text(attributes, rules.model_requested)


def model_in(value: Value) -> str | None:
    """The model among a call's parameters, whole JSON or the start of it."""
    if isinstance(value, dict):
        return text(value.get("model")) or text(value.get("model_name"))
    if not isinstance(value, str) or ('"model' not in value and "'model" not in value):
        return None
    parameters = container(value)
    if parameters is not None:
        return text(parameters.get("model")) or text(parameters.get("model_name"))
    match = _MODEL_IN_JSON.search(value)
    return text(match.group(1)) if match else None


def provider(attributes: Attributes, names: Sequence[str], rules: Rules) -> Provider:
    """Who is billed for the call. Frameworks that put their own name there are passed over, gateways too but remembered."""
    gateway: str | None = None
    first: str | None = None
    for key in rules.provider:
        stated = text(attributes.get(key))
        if stated is None:
            continue
        first = first or stated
        lowered = stated.lower()
        if lowered in rules.gateways:
            gateway = gateway or lowered
            continue
        if lowered in rules.not_a_provider:
            continue
        name = rules.provider_name(stated)
        if name in rules.gateways:  # such as "openrouter.chat"
            gateway = gateway or name
        elif name not in rules.not_a_provider:
            return Provider(name, stated, gateway)
    for key in rules.provider_hosts:
        host = text(attributes.get(key))
        found = _of_host(host, rules) if host else None
        if found in rules.gateways:
            gateway = gateway or found
        elif found:
            return Provider(found, first, gateway)
    return Provider(_of_models(names, rules), first, gateway)


def _of_host(host: str, rules: Rules) -> str | None:
    bare = host.partition("://")[2] or host
    bare = bare.partition("/")[0].partition(":")[0].lower()
    return next((name for pattern, name in rules.host_patterns if pattern.match(bare)), None)


def _of_models(names: Iterable[str], rules: Rules) -> str | None:
    """Last resort: a vendor before a slash, else what the model's own name tells."""
    for name in names:
        lowered = name.lower()
        vendor, slash, rest = lowered.partition("/")
        while slash and (vendor in rules.gateways or vendor in rules.not_a_provider):
            lowered = rest
            vendor, slash, rest = rest.partition("/")
        if slash and vendor in rules.provider_synonyms:
            return rules.provider_synonyms[vendor]
        for pattern, found in rules.model_patterns:
            if pattern.match(lowered):
                return found or None
        if slash and (pattern_name := next((found for pattern, found in rules.model_patterns if pattern.match(rest)), None)):
            return pattern_name
    return None


def tier(attributes: Attributes, rules: Rules) -> str | None:
    """The service tier that the call was billed at, None when it is not stated ("auto" on the request states none)."""
    for key in rules.tier:
        stated = text(attributes.get(key))
        if stated is not None and (found := rules.tier_values.get(stated.lower())) is not None:
            return found
    return None


def speed(attributes: Attributes, emitter: Emitter, rules: Rules) -> str | None:
    """The speed that the call was billed at ("fast" has its own price), None when it is not stated."""
    found = _first_text(attributes, rules.speed)
    if found is None and rules.bare_scope.match(emitter.scope):
        found = _first_text(attributes, rules.speed_bare)
    return found.lower() if found else None


def response_id(shape: Shape, values: Sequence[Value], rules: Rules) -> str | None:
    """The provider's id of the answer; placeholders that emitters write where they know none are missing."""
    for place in shape.response_ids:
        found = text(values[place])
        if found is None or (len(found) < _LONG and found.lower() in rules.response_placeholders):
            continue
        if found.strip(rules.response_placeholder_characters):
            return found
    return None


def emitted_cost(shape: Shape, values: Sequence[Value], rules: Rules) -> tuple[int | None, str | None, int | None]:
    """(pico-USD, key, pico-USD before the operator's margin) of the first cost above 0: an emitter's 0 means "model unknown"."""
    for key, place in shape.costs:
        value = values[place]
        field = rules.cost_json.get(key)
        cost = _cost_in_json(value, field) if field else pusd(value)
        if cost:
            before = next((found for other in shape.costs_before_margin if (found := pusd(values[other]))), None)
            return cost, key, before
    return None, None, None


def _cost_in_json(value: Value, field: str) -> int | None:
    """The total of a cost object, else the sum of its parts."""
    box = container(value)
    if box is None:
        return None
    if field in box:
        return pusd(box[field])
    parts = [cost for part in box.values() if (cost := pusd(part)) is not None]
    return sum(parts) if parts else None


def _first_text(attributes: Attributes, keys: Iterable[str]) -> str | None:
    return next((found for key in keys if (found := text(attributes.get(key))) is not None), None)
