"""Who spent it: from PricedCalls to Charges.

`spantoll.<dimension>` (span, then resource) comes first for every dimension that spans are asked for; then the operator's keys,
then those of the instrumentations (`data/attribution.toml`). A dimension that no span states is None: unknown is not a name.
The account is none of these: it comes from the credential alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from receiver.core.attribution.charge import DIMENSIONS, Charge
from receiver.core.attribution.rules import AttributionRules
from receiver.core.attribution.walk import Walk
from receiver.core.prices.priced import PricedCall
from receiver.core.span import STATUS_CODE_ERROR
from receiver.core.usage.reading import CacheMode, Tokens

__all__ = ["DIMENSIONS", "AttributionRules", "Charge", "attribute"]


_NO_TOKENS: Final = Tokens()
_INCLUSIVE: Final = CacheMode.INCLUSIVE
_new_tuple: Final = tuple.__new__


def attribute(priced: Sequence[PricedCall], rules: AttributionRules) -> list[Charge]:
    """A Charge for each priced call, in order. Calls of one Group share their tree, and what is read from it."""
    walks: dict[int, Walk] = {}
    charges = []
    for item in priced:
        call, quote = item.call, item.quote
        walk = walks.get(id(call.tree))
        if walk is None:
            walk = walks[id(call.tree)] = Walk(call.tree, rules)
        tenant, user, session, workflow, task, feature, route, prompt_version, tool, agent = walk.dimensions(call)
        span, reading = call.span, call.reading
        source = span.source
        models = reading.models
        doubts = call.doubts | quote.doubts if quote.doubts else call.doubts
        charges.append(
            _new_tuple(
                Charge,
                (  # in the order of the class, past its constructor: twice as fast, and this runs for every call
                    call.account,
                    span.trace_id,
                    span.span_id,
                    tuple([merged.span_id for merged in call.merged]) if call.merged else (),
                    span.start_unix_nano,
                    source.scope,
                    source.scope_version,
                    source.service,
                    reading.operation,
                    reading.tokens or _NO_TOKENS,
                    quote,
                    "IN" if reading.cache_mode is _INCLUSIVE else "EX",
                    reading.cache_evidence,
                    "error" if span.status_code == STATUS_CODE_ERROR else "ok",
                    tuple(sorted([doubt._value_ for doubt in doubts])) if doubts else (),
                    models[0] if models else reading.model_requested,
                    reading.provider or quote.provider or reading.provider_stated,
                    agent,
                    workflow,
                    task,
                    feature,
                    route,
                    user,
                    session,
                    tenant,
                    prompt_version,
                    tool,
                ),
            )
        )
    return charges
