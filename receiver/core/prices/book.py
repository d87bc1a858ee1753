"""The price book: what a call costs, by which list, and how sure that is.

`price(call)` is the question of the close; `quote(reading, ...)` prices what one span says. Both take the price in force at the
call's start. What cannot be priced has no amount and says why: unpriced is never 0.

Where a cost stands on the span too (an instrumentation worked it out, or a gateway knows it), the own price counts, except for
instrumentations known to drop cached token counts. Their numbers make the own price too high, so there the stated cost counts
when it lies between the own prices with all input cached and with none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from receiver.core.calls.call import Doubt, LLMCall
from receiver.core.prices.cards import NANO, NO_OUTPUT, read_moment
from receiver.core.prices.catalogue import Catalogue
from receiver.core.prices.cost import INPUT_ONLY_FAMILIES, cost_of
from receiver.core.prices.describe import describe
from receiver.core.prices.entries import MODEL_ALIAS, NO_DOUBTS, Entry, Remembered, Stretch
from receiver.core.prices.layers import Layers
from receiver.core.prices.litellm import check_litellm, price_list
from receiver.core.prices.overrides import check_overrides, compile_overrides
from receiver.core.prices.priced import Basis, PricedCall, Quote
from receiver.core.usage.reading import Reading, Tokens
from receiver.errors import ConfigError

#: How many combinations of names, provider and tier are remembered: deployments have hundreds, about 1 KB each.
MAX_REMEMBERED: Final = 8_192

_DIFFERS: Final = frozenset({Doubt.EMITTED_COST_DIFFERS})
_TIERS: Final = {"batch": "batch", "flex": "flex", "priority": "priority", "fast": "fast"}  # any other is billed as standard


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceOptions:
    """What an operator may choose about pricing."""

    accept_before: float = 30 * 86_400.0  #: seconds a start may lie before its receipt and still be believed
    accept_after: float = 3_600.0  #: seconds it may lie after it
    prefer_reported: bool = False  #: a cost on the span counts before any price list
    cache_write_default: str = "5m"  #: "5m" or "1h": the life of cache writes whose life no span tells
    litellm_version: str = ""  #: what to call the version of LiteLLM's file, such as its date


#: What an entry is found by: account ("" for accounts without prices of their own), provider, gateway, models, model requested,
#: tier, speed. A plain tuple: it is made for every call.
_Key = tuple[str, str | None, str | None, tuple[str, ...], str | None, str | None, str | None]


class _Own(NamedTuple):
    """The own price of some tokens."""

    cost_pusd: int
    basis: Basis
    savings_pusd: int
    premium_pusd: int


_new_tuple: Final = tuple.__new__


class PriceBook:
    """All prices, and the names they go by. Immutable but for what it remembers."""

    def __init__(self, layers: Layers, *, snapshot: Catalogue, options: PriceOptions) -> None:
        self._layers = layers
        self._options = options
        self._before = int(options.accept_before * NANO)
        self._after = int(options.accept_after * NANO)
        self._write_1h = options.cache_write_default == "1h"
        self._remembered: Remembered[_Key, Entry] = Remembered(self._look_up, most=MAX_REMEMBERED)
        self.snapshot_version = f"{snapshot.source} {snapshot.version}"  #: "genai-prices 0.2.3"
        self.snapshot_unix_nano = read_moment(snapshot.date, "date")  #: the vendored list is known to be right until then

    @classmethod
    def build(
        cls,
        snapshot: Mapping[str, Any],
        *,
        patch: Mapping[str, Any] | None = None,
        overrides: Sequence[Mapping[str, Any]] = (),
        aliases: Mapping[str, str] | None = None,
        litellm: Mapping[str, Any] | None = None,
        contract: Sequence[Mapping[str, Any]] = (),
        options: PriceOptions | None = None,
    ) -> PriceBook:
        """A book of the packaged lists (`prices.json`, `prices-patch.toml`) and what the operator adds.

        `contract` and `overrides` are rows of `[[prices.override]]` (see `overrides.py`). A row that names an account is a contract
        and is looked at first. `aliases` lead a name of the operator's own, or "provider/name", to a model, or "provider/model".

        Raises:
            ConfigError: with everything that is wrong with the rows or with LiteLLM's file.
        """
        options = options or PriceOptions()
        problems = check_overrides(contract, path="prices.contract") + check_overrides(overrides)
        if litellm is not None:
            problems += check_litellm(litellm)
        if problems:
            raise ConfigError(problems)
        listed = Catalogue(snapshot)
        lists = [*([Catalogue(patch)] if patch is not None else ()), listed]
        if litellm is not None:
            lists.append(Catalogue(price_list(litellm, version=options.litellm_version)))
        rows = compile_overrides([*contract, *(row for row in overrides if row.get("account"))], source="contract")
        rows += compile_overrides((row for row in overrides if not row.get("account")), source="override")
        return cls(Layers(lists, overrides=rows, aliases=aliases or {}), snapshot=listed, options=options)

    def price(self, call: LLMCall) -> PricedCall:
        """Price a counted call; adds the doubts of its price to the call's.

        A call whose spans name no model is priced as the nearest ancestor that names one: inner spans of some frameworks leave
        the model to the span above.
        """
        reading, span, above = call.reading, call.span, None
        if not reading.models and not reading.model_requested:
            for ancestor in call.tree.ancestors(span):
                told = ancestor.reading
                if told is not None and (told.models or told.model_requested):
                    above = told
                    break
        quote = self.quote(
            reading,
            account=call.account,
            start_unix_nano=span.start_unix_nano,
            received_unix_nano=span.received_unix_nano,
            above=above,
            saw_cache=reading.drops_cache and any(_tells_cache(one.reading) for one in (span, *call.merged)),
        )
        if quote.doubts:
            call.doubts.update(quote.doubts)
        return _new_tuple(PricedCall, (call, quote))

    def quote(
        self,
        reading: Reading,
        *,
        account: str,
        start_unix_nano: int,
        received_unix_nano: int,
        above: Reading | None = None,
        saw_cache: bool = False,
    ) -> Quote:
        """Price what one reading says.

        Args:
            reading: what to price.
            account: whose prices count; those of a contract come first.
            start_unix_nano: the moment whose price counts.
            received_unix_nano: the price's moment where the start is implausible; 0: the start is believed.
            above: names the model (and a provider, where the reading has none) in the reading's place.
            saw_cache: another span of the call showed cached tokens, so this one hides none.

        """
        models, requested, provider = reading.models, reading.model_requested, reading.provider
        if above is not None:
            models, requested, provider = above.models, above.model_requested, provider or above.provider
        layers = self._layers
        key = (account if account in layers.accounts else "", provider, reading.gateway, models, requested, reading.tier, reading.speed)
        remembered = self._remembered
        entry = remembered.young.get(key) or remembered.ask(key)
        moment, implausible = start_unix_nano, False
        if received_unix_nano and not received_unix_nano - self._before <= start_unix_nano <= received_unix_nano + self._after:
            moment, implausible = received_unix_nano, True
        stretch = entry.last
        if stretch is None or not stretch.start <= moment < stretch.end:
            stretch = entry.stretch(moment)
        tokens = reading.tokens
        if stretch is not None and tokens is not None and not (reading.emitted_cost_pusd or reading.drops_cache or reading.cache_hit):
            # The common case, without a detour: nothing but a price list speaks.
            card = stretch.card or stretch.segment.card(moment)
            if card is not None:
                cost, missing, savings, premium = cost_of(
                    card.rates(tokens[0]) if card.tiers else card.base, tokens, unknown_write_1h=self._write_1h
                )
                if cost and not missing:
                    return _new_tuple(
                        Quote,
                        (
                            stretch.basis, cost, stretch.source, stretch.version, entry.model, entry.provider, "", savings, premium,
                            implausible, stretch.doubts, False,
                        ),
                    )  # fmt: skip
        return self._weigh(reading, entry, stretch, moment, implausible=implausible, saw_cache=saw_cache)

    def describe(self, model: str, provider: str | None = None, *, at: int) -> dict[str, Any]:
        """What the book knows of a model at a moment (unix nanoseconds), for people: see `describe.py`."""
        return describe(self._layers, model, provider, at=at)

    def _own(self, stretch: Stretch, tokens: Tokens, family: str, moment: int) -> _Own | None:
        """The own price of some tokens; None where a rate that it needs is not listed."""
        card = stretch.card or stretch.segment.card(moment)
        if card is None:
            return None
        rates = card.rates(tokens[0]) if card.tiers else card.base
        cost, missing, savings, premium = cost_of(rates, tokens, unknown_write_1h=self._write_1h)
        if missing:
            if missing & NO_OUTPUT and family not in INPUT_ONLY_FAMILIES:
                return None
            if missing & ~NO_OUTPUT:
                return _Own(cost, Basis.PARTIAL, savings, premium)
        return _Own(cost, stretch.basis, savings, premium)

    def _weigh(self, reading: Reading, entry: Entry, stretch: Stretch | None, moment: int, *, implausible: bool, saw_cache: bool) -> Quote:
        """The rarer cases: a cost on the span, a response cache, a rate that is not listed, no price at all."""
        tokens = reading.tokens
        emitted = reading.emitted_cost_pusd or 0
        model = entry.model if stretch is not None else None
        doubts = stretch.doubts if stretch is not None else MODEL_ALIAS if entry.reason == "unknown_model" else NO_DOUBTS

        def made(basis: Basis, cost: int | None, source: str, version: str, more: Mapping[str, Any]) -> Quote:
            return Quote(
                basis=basis, cost_pusd=cost, source=source, version=version, model=model, provider=entry.provider,
                at_receive_time=implausible, **{"doubts": doubts, **more},
            )  # fmt: skip

        def reported(**more: Any) -> Quote:
            return made(Basis.REPORTED, emitted, "reported", reading.emitted_cost_key or "", more)

        if reading.cache_hit:
            return made(Basis.CACHED, 0, "", "", {})
        used = tokens is not None and (
            tokens.input_total or tokens.output_total or tokens.web_searches or tokens.compaction_in or tokens.compaction_out
        )
        own = self._own(stretch, tokens, reading.family, moment) if tokens is not None and used and stretch is not None else None
        if own is None or stretch is None or tokens is None:
            if emitted:
                return reported()
            if not used:
                return made(Basis.UNPRICED, None, "", "", {"unpriced_reason": "no_usage", "doubts": NO_DOUBTS})
            return made(Basis.UNPRICED, None, "", "", {"unpriced_reason": entry.reason if stretch is None else "no_rate"})

        amounts = {"cache_savings_pusd": own.savings_pusd, "cache_premium_pusd": own.premium_pusd}
        differs = doubts | _DIFFERS if emitted and abs(emitted - own.cost_pusd) * 50 > own.cost_pusd else doubts
        if emitted and self._options.prefer_reported:
            return reported(**amounts, doubts=differs)
        incomplete = False
        if reading.drops_cache and not saw_cache and not (tokens.cache_read or tokens.cache_write) and not _same(emitted, own.cost_pusd):
            cached = self._own(stretch, tokens._replace(uncached=0, cache_read=tokens.uncached), reading.family, moment)
            if cached is not None and cached.cost_pusd - 1 <= emitted < own.cost_pusd:
                return reported()
            incomplete = True
        return made(
            own.basis, own.cost_pusd, stretch.source, stretch.version, {**amounts, "doubts": differs, "usage_incomplete": incomplete}
        )

    def _look_up(self, key: _Key) -> Entry:
        account, provider, gateway, models, requested, stated_tier, speed = key
        layers = self._layers
        names = tuple(dict.fromkeys(name for name in (*models, requested) if name))
        tier = _TIERS.get(stated_tier or "", "") or ("fast" if speed == "fast" else "")
        hit = layers.find(names, provider=provider, gateway=gateway)
        overrides = layers.overrides_for(names, account=account, provider=provider, tier=tier, hit=hit)
        same = provider is not None and hit is not None and layers.provider_of(provider) == hit.provider
        return Entry(hit, overrides, names=names, provider=provider, same=same, tier=tier)


def _tells_cache(reading: Reading | None) -> bool:
    return reading is not None and reading.tokens is not None and bool(reading.tokens.cache_read or reading.tokens.cache_write)


def _same(emitted_pusd: int, own_pusd: int) -> bool:
    """A cost on a span was a float once: its last digits say nothing."""
    return abs(emitted_pusd - own_pusd) <= 1 + own_pusd // 1_000_000_000
