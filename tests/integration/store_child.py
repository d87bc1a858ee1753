"""A process that accepts and closes as fast as it can, and says what stands: `python -m tests.integration.store_child FOLDER SEED BEGIN`.

One line for each event, in one write: `A first last` spans of an acknowledged request, `C trace span` a close that resolved. It begins
with a replay, goes on behind what it finds, and says so: `R` and all ids that are there.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys

from receiver.clock import SystemClock
from receiver.core.window.group import TraceKey
from receiver.store.folder import Folder
from receiver.store.journal import SqliteJournal
from tests.integration.store_helpers import Restored, acceptance, charge_of, close, span, trace_id

SENDERS = 4


def say(*words: object) -> None:
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


async def main(folder: str, seed: int, begin: int) -> None:
    rng = random.Random(seed)
    with Folder(folder) as held:
        journal = SqliteJournal(held.database, clock=SystemClock())
        restored = Restored(journal)
        say("R", *(int.from_bytes(one, "big") for one in restored.ids))
        number = begin

        async def sender() -> None:
            nonlocal number
            while True:
                trace = number = number + 1
                spans = []
                for _ in range(rng.choice((1, 1, 5, 40))):
                    number += 1
                    spans.append(span(number, trace=trace))
                await journal.accept(acceptance(*spans))
                say("A", *(int.from_bytes(one.span_id, "big") for one in spans))
                if rng.random() < 0.5:
                    first = int.from_bytes(spans[0].span_id, "big")
                    await journal.close([close((trace, 0, len(spans)), charges=[charge_of(first, trace=trace)])])
                    say("C", trace, first)
                if rng.random() < 0.02:
                    await journal.snapshot([])
                    journal.forget([TraceKey("nobody", trace_id(1))])

        await asyncio.gather(*(sender() for _ in range(SENDERS)))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
