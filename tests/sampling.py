"""How much of all that could be tried a run tries: a sample that is another one each time, and everything where SPANTOLL_REQUIRE is set.

A test that fails says the run's seed in its header; `SPANTOLL_TEST_SEED=<seed>` draws the same samples again.
"""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from typing import Final, TypeVar

Item = TypeVar("Item")

#: In the environment, so that the processes among which a run is divided draw alike.
VARIABLE: Final = "SPANTOLL_TEST_SEED"
SEED: Final = int(os.environ.setdefault(VARIABLE, str(random.randrange(1 << 32))))
#: Whether this run tries everything.
WHOLE: Final = bool(os.environ.get("SPANTOLL_REQUIRE"))


def generator(name: str) -> random.Random:
    """Draws of one purpose: the same in every process of this run."""
    return random.Random(f"{SEED} {name}")


def sample(items: Sequence[Item], most: int, *, name: str) -> list[Item]:
    """All items where everything is tried; else so many of them in order, the first and the last among them."""
    if WHOLE or len(items) <= most:
        return list(items)
    within = generator(name).sample(range(1, len(items) - 1), most - 2)
    return [items[at] for at in (0, *sorted(within), len(items) - 1)]


def often(some: int, whole: int) -> int:
    """How often something random is tried."""
    return whole if WHOLE else some
