"""What is kept of an attribute that holds more than is read of it: usage objects, costs, a call's parameters.

Beside the few numbers that counting reads, such an attribute may hold anything: a provider's metadata quotes what it found, a call's
parameters hold its tools and its prompt. None of that may be kept, so a value is cut down to what is read of it when it is decoded.
What is left says the same, to the last count: the readers (`boxes`, `names`) read the trimmed value as they would have read the whole.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from receiver.core.span import Value
from receiver.core.usage.coerce import MAX_DEPTH, REJECTED, container, count, is_cut, pusd, text
from receiver.core.usage.names import model_in

if TYPE_CHECKING:
    from receiver.core.usage.rules import Boxes, Rules

#: From a value to what is kept of it; it never raises, and trims a trimmed value to itself.
Trim = Callable[[Value], Value]

#: Characters of a tier's or a speed's name, as where they stand in an attribute of their own.
_LONGEST_NAME: Final = 64
#: What a text that began as an object comes to: a sign that its end is missing, which is a doubt.
_CUT: Final = "{"
_NOTHING: Final = ""
#: A tier that no table knows: it states none, and hides others.
_NO_TIER: Final = "?"


def trims(rules: Rules) -> tuple[dict[str, Trim], tuple[tuple[str, Trim], ...]]:
    """(by key, by how a key begins) of the attributes that are trimmed."""

    def box(value: Value) -> Value:
        return _of_object(value, lambda found: _usage(found, rules.boxes, rules.tier_values))

    def buckets(value: Value) -> Value:
        return _of_object(value, lambda found: _buckets(found, rules))

    found: dict[str, Trim] = dict.fromkeys(rules.boxes.keys, box)
    found[rules.langfuse_key] = buckets
    found |= dict.fromkeys(rules.model_parameters, _parameters)
    found |= {key: _cost_of(field) for key, field in rules.cost_json.items()}
    return found, tuple((prefix, box) for prefix in rules.boxes.prefixes)


def written(found: Any) -> str:
    """A trimmed object as JSON: text can be compared and shared, and a container in it is read either way."""
    plain = json.dumps(found, ensure_ascii=False, separators=(",", ":"))
    if not plain.isascii():
        try:
            plain.encode()
        except UnicodeEncodeError:  # half a character, which JSON can spell and UTF-8 cannot
            return json.dumps(found, separators=(",", ":"))
    return plain


def _of_object(value: Value, kept: Callable[[Mapping[str, Any]], dict[str, Any]]) -> Value:
    found = container(value)
    if found is None:
        return _CUT if is_cut(value) else _NOTHING
    return written(kept(found))


def _usage(box: Mapping[str, Any], boxes: Boxes, tiers: Mapping[str, str]) -> dict[str, Any]:
    """What `boxes.RawUsage` finds in a usage object: where its counts stand among each other, but no other name."""

    def kept(level: Mapping[str, Any], depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in level.items():
            name = key.rpartition(".")[2] if "." in key else key
            if isinstance(value, dict):
                below = kept(value, depth - 1) if depth > 1 else {}
                if key in boxes.counts:
                    found[key] = below
                elif below:
                    found[str(len(found))] = below
            elif isinstance(value, list):
                if key in boxes.counts:  # no count, but it is there, which tells whose object this is
                    found[key] = []
            elif name in boxes.counts:  # also one that is no count: it hides one of its name further down
                number = count(value)
                found.setdefault(key if key == name else f".{name}", None if number == REJECTED else number)
            elif name in boxes.tier or name in boxes.speed:
                stated = text(value)
                if stated is not None:
                    stated = stated[:_LONGEST_NAME] if name in boxes.speed or stated.lower() in tiers else _NO_TIER
                found.setdefault(key if key == name else f".{name}", stated)
        return found

    return kept(box, MAX_DEPTH)


def _buckets(box: Mapping[str, Any], rules: Rules) -> dict[str, Any]:
    """What `boxes.add_langfuse` finds in usage details: every believable count, and whose names stand beside them."""

    def kept(level: Mapping[str, Any]) -> dict[str, int]:
        numbers = {key: count(value) for key, value in level.items() if len(key) <= _LONGEST_NAME}
        return {key: number for key, number in numbers.items() if number is not None and number >= 0}

    found: dict[str, Any] = {}
    for key, value in box.items():
        if len(key) > _LONGEST_NAME:
            continue
        here = kept(value) if isinstance(value, dict) else kept({key: value}).get(key)
        if here or here == 0 or key in rules.langfuse:
            found[key] = here
    return found


def _parameters(value: Value) -> Value:
    name = model_in(value)
    return _NOTHING if name is None else written({"model": name})


def _cost_of(field: str) -> Trim:
    def kept(box: Mapping[str, Any]) -> dict[str, Any]:
        if field in box:
            return {field: box[field] if pusd(box[field]) is not None else None}
        return {str(place): part for place, part in enumerate([part for part in box.values() if pusd(part) is not None])}

    return lambda value: _of_object(value, kept)
