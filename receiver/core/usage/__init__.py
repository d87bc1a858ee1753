"""What one span says: its class, its tokens in disjoint buckets, and the names that price it.

The rules run in this order, each in its own module, all on tables that an operator extends (`data/usage.toml`):

    names        operation, models, provider, tier, cost: the first spelling in order of precedence
    klass        model call, tool, wrapper, or never counted
    fields       the counts, from the first vocabulary that states usage; others fill only what it lacks
    boxes        usage objects inside one attribute, for what is still lacking
    cache_mode   whether the input count contains the cached tokens, and the evidence for it
    buckets      disjoint buckets that add up; what contradicts is cut and counted

What is not sure is said: the evidence, cut and rejected counts and unknown emitters stay on the Reading.
"""

from __future__ import annotations

from receiver.core.usage.reader import Reader
from receiver.core.usage.reading import CacheMode, Klass, Reading, Tokens
from receiver.core.usage.rules import Rules

__all__ = ["CacheMode", "Klass", "Reader", "Reading", "Rules", "Tokens"]
