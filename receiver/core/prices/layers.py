"""Which price is a call's: the layers in their order, and the names of a model in theirs.

Layers, first hit wins: contract with the account, operator's override, our patch, the snapshot, LiteLLM's file, else unpriced.
Names, first hit wins: as spans state them, best first, each in all sure spellings; then, with a doubt, the unsure spellings, and
then the makers whose models an SDK's default provider may stand in front of. An alias of the operator is as good as a name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from receiver.core.prices.catalogue import Catalogue, Model
from receiver.core.prices.model_ids import (
    MAKERS,
    OPEN_WEIGHTS,
    SDK_DEFAULTS,
    Spelling,
    bedrock_names,
    is_self_hosted,
    provider_id,
    spellings,
)
from receiver.core.prices.overrides import Override


class Hit(NamedTuple):
    """A model of a price list that a call's names led to."""

    model: Model
    provider: str  #: who bills it, an id of the price list
    sure: bool  #: False: the price came by a fall-back name
    borrowed: bool = False  #: at the list price of another provider


class _Try(NamedTuple):
    provider: str
    spelling: Spelling
    sure: bool


class Layers:
    """All price lists and the operator's own prices."""

    __slots__ = ("_aliases", "_lists", "_overrides", "_own_lists", "accounts")

    def __init__(self, lists: Sequence[Catalogue], *, overrides: Sequence[Override], aliases: Mapping[str, str]) -> None:
        self._lists = tuple(lists)
        self._overrides = tuple(overrides)
        self._aliases = {_alias_key(name): target for name, target in aliases.items()}
        #: accounts with prices of their own
        self.accounts = frozenset(one.account for one in overrides if one.account is not None)

    @property
    def lists(self) -> tuple[Catalogue, ...]:
        """The price lists, in their order."""
        return self._lists

    def find(self, names: Sequence[str], *, provider: str | None, gateway: str | None) -> Hit | None:
        """The list's model for a call that states these names, best first."""
        stated = self.provider_of(provider)
        through = provider_id(gateway)
        tries = [self._tries(name, provider, stated, through) for name in names]
        for sure in (True, False):
            for at, (certain, unsure) in enumerate(tries):
                hit = self._first(certain if sure else unsure)
                if hit is not None:
                    return hit if at == 0 else hit._replace(sure=False)
        return None

    def provider_of(self, stated: str | None) -> str | None:
        """The lists' id for a provider's name, None when they do not know it."""
        if not stated:
            return None
        found = provider_id(stated)
        if found is None and not is_self_hosted(stated):
            found = next((found for one in self._lists if (found := one.provider_called(stated)) is not None), None)
        return found

    def overrides_for(self, names: Sequence[str], *, account: str, provider: str | None, tier: str, hit: Hit | None) -> list[Override]:
        """The operator's rows that may set this call's price, in their order; their periods are still to be looked at."""
        if not self._overrides:
            return []
        known = {name.strip().lower() for name in names}
        known.update(one.name for name in names for one in spellings(name) if one.sure)
        providers = {provider.lower(), self.provider_of(provider)} if provider else set()
        if hit is not None:
            known.add(hit.model.id.lower())
            providers.add(hit.provider)
        return [
            one
            for one in self._overrides
            if (one.account is None or one.account == account)
            and (one.tier is None or one.tier == tier)
            and (one.provider is None or one.provider in providers)
            and any(one.matches(name) for name in known)
        ]

    def _tries(self, name: str, provider: str | None, stated: str | None, through: str | None) -> tuple[list[_Try], list[_Try]]:
        """Where to look a name up: with certainty, and with a doubt."""
        alias = self._alias(name, provider, stated)
        if alias is not None:
            name, provider, stated = alias
        certain: list[_Try] = []
        unsure: list[_Try] = []
        afterwards: list[_Try] = []
        hosted = is_self_hosted(provider)
        for one in spellings(name):
            told = one.provider
            own = certain if one.sure else unsure
            if through is not None:
                own.append(_Try(through, one, one.sure))
            if hosted or is_self_hosted(told):
                continue  # the machine is paid for, not the tokens
            if stated is None:
                if told is not None:
                    own.append(_Try(told, one, one.sure))
                else:
                    for maker in self._makers_of(one.name):
                        if provider and maker in OPEN_WEIGHTS:
                            continue  # a provider that no list knows serves open weights at a price of its own
                        sure = one.sure and not provider and maker not in OPEN_WEIGHTS
                        (own if sure else unsure).append(_Try(maker, one, sure))
                continue
            if told is not None and told != stated and stated in SDK_DEFAULTS:
                own.append(_Try(told, one, one.sure))
            own.append(_Try(stated, one, one.sure))
            if stated in SDK_DEFAULTS:
                afterwards += [_Try(maker, one, sure=False) for maker in self._makers_of(one.name) if maker != stated]
        return certain, unsure + afterwards

    def _first(self, tries: Sequence[_Try]) -> Hit | None:
        for one_list in self._lists:
            for provider, spelling, sure in tries:
                if provider == "aws":
                    hit = _bedrock(one_list, spelling, sure=sure)
                    if hit is not None:
                        return hit
                elif (model := one_list.find(provider, spelling.name)) is not None:
                    return Hit(model, provider, sure)
            for provider, spelling, sure in tries if one_list.lenders else ():
                model = self._lent(one_list, provider, spelling.name)
                if model is not None:
                    return Hit(model, provider, sure, borrowed=True)
        return None

    def _lent(self, one_list: Catalogue, provider: str, name: str) -> Model | None:
        """The model in the list of a maker whose prices the provider takes; our patch of that list comes before it."""
        for lender in one_list.lenders.get(provider, ()):
            for other in self._lists:
                model = other.find(lender, name)
                if model is not None:
                    return model
                if other is one_list:
                    break
        return None

    def _makers_of(self, name: str) -> tuple[str, ...]:
        """Who may make a model of this name. One that is still wrapped is not looked up: rules that look for parts would find it."""
        return MAKERS if "/" not in name and any(one.makers_may_have(name) for one in self._lists) else ()

    def _alias(self, name: str, provider: str | None, stated: str | None) -> tuple[str, str | None, str | None] | None:
        """(model, provider as stated, its id) that the operator gave a name of his own."""
        if not self._aliases:
            return None
        lowered = name.strip().lower()
        tail = lowered.rpartition("/")[2]
        for key in (f"{stated}/{lowered}", f"{(provider or '').lower()}/{lowered}", lowered, tail):
            target = self._aliases.get(key)
            if target is not None:
                head, slash, rest = target.partition("/")
                named = provider_id(head) if slash else None
                if named is not None:
                    return rest, head, named
                # Who prices a model of his own machine as one of a list means that model's own price.
                return (target, None, None) if is_self_hosted(provider) else (target, provider, stated)
        return None


def _alias_key(name: str) -> str:
    lowered = name.strip().lower()
    head, slash, rest = lowered.partition("/")
    provider = provider_id(head) if slash else None
    return f"{provider}/{rest}" if provider is not None else lowered


def _bedrock(one_list: Catalogue, spelling: Spelling, *, sure: bool) -> Hit | None:
    """A Bedrock model at the price of its geography.

    Not sure: an id that does not tell its geography where that matters (the global price is taken), one whose geography the list
    does not know, and GovCloud, which is dearer and in no list.
    """
    if "/" in spelling.name:
        return None  # still wrapped: the list's rules look for parts of a name, and would find the model without its region
    names = bedrock_names(spelling)
    regional = next((model for name in names.regional if (model := one_list.find("aws", name)) is not None), None)
    anywhere = next((model for name in names.anywhere if (model := one_list.find("aws", name)) is not None), None)
    if names.geography == "global":
        model = anywhere or regional
        return Hit(model, "aws", sure and anywhere is not None) if model is not None else None
    if anywhere is not None:
        told = regional is None or regional is anywhere or regional.prices[-1].rates == anywhere.prices[-1].rates
        return Hit(anywhere, "aws", sure and told)
    if regional is None:
        return None
    known = names.geography in ("", "us") or (names.geography != "us-gov" and regional.id.startswith("regional."))
    return Hit(regional, "aws", sure and known)
