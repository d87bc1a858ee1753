"""What kind of span it is: a model call, a tool, a wrapper, or one that is never counted.

The kind does not decide what is counted (only the tree of spans can: some agent spans are the only ones that tell of their
calls); it decides how the tree is read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from receiver.core.usage.coerce import text
from receiver.core.usage.reading import Klass

if TYPE_CHECKING:
    from collections.abc import Mapping

    from receiver.core.span import Value
    from receiver.core.usage.emitters import Emitter
    from receiver.core.usage.rules import Rules


def is_special_name(name: str, emitter: Emitter, rules: Rules) -> bool:
    """Whether a span's name alone can change its class; all other names are alike to the rules."""
    if name in rules.never_names or rules.never_name_pattern.match(name):
        return True
    return any(
        not row.key and name.lower() in row.values and (row.scope is None or row.scope.match(emitter.scope)) for row in rules.classes
    )


def classify(
    name: str, attributes: Mapping[str, Value], operation: str | None, emitter: Emitter, rules: Rules, *, only_never_counts: bool
) -> Klass:
    """The span's class: the first row of the table whose key is present with a value that it knows."""
    if name in rules.never_names or rules.never_name_pattern.match(name) or operation in rules.never_operations:
        return Klass.NEVER
    for key, values in rules.never_values.items():
        if key in attributes and text(attributes[key]) in values:
            return Klass.NEVER
    klass = Klass.NONE
    for row in rules.classes:
        if row.scope is not None and not row.scope.match(emitter.scope):
            continue
        value = text(attributes.get(row.key)) if row.key else name
        if value is None:
            continue
        found = row.klass(value)
        if found is not None:
            klass = found
            break
    if only_never_counts and klass in (Klass.MODEL_CALL, Klass.NONE):
        return Klass.NEVER  # counts of others or of a part only; a wrapper stays one, for its place in the tree
    return klass


def family(operation: str | None, klass: Klass, models: tuple[str, ...], rules: Rules) -> str:
    """What is billed: `gen`, `embedding`, `rerank`, `image`, `speech`, `transcription` or `moderation`."""
    if operation is not None:
        lowered = operation.lower()
        for word, name in rules.family_words:
            if word in lowered:
                return name
    if klass in (Klass.MODEL_CALL, Klass.NONE):
        for model in models[:1]:
            lowered = model.lower()
            for word, name in rules.family_model_words:
                if word in lowered:
                    return name
    return "gen"
