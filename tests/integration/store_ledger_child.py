"""A process that debits and credits as fast as it can, and says what stands.

`python -m tests.integration.store_ledger_child FOLDER SEED BEGIN`

One line for each event, in one write: `A spans` an acknowledged request of an account that pays 10 msat a span, `S account hash msat` a
top-up that is credited, `J account id msat` an adjustment. It begins with what it finds: `R account msat ...`.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import sys
from dataclasses import replace

from receiver.clock import SystemClock
from receiver.core.invoices import Settlement, TopUp
from receiver.core.ledger import Outcome, Terms, adjust
from receiver.store.books import SqliteBooks
from receiver.store.folder import Folder
from tests.integration.store_helpers import Restored, acceptance, span

PRICE_MSAT = 10
ACCOUNTS = ("a", "b", "c")


def say(*words: object) -> None:
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


async def main(folder: str, seed: int, begin: int) -> None:
    rng = random.Random(seed)
    with Folder(folder) as held:
        books = SqliteBooks(held.database, clock=SystemClock())
        Restored(books.journal)
        say("R", *(word for account in ACCOUNTS for word in (account, books.ledger.balance(account).posted_msat)))
        number = begin

        async def sender(account: str) -> None:
            nonlocal number
            while True:
                trace = number = number + 1
                spans = []
                for _ in range(rng.choice((1, 1, 5, 40))):
                    number += 1
                    spans.append(span(number, trace=trace))
                price = PRICE_MSAT * len(spans)
                assert books.ledger.reserve(account, price, Terms(None)) is Outcome.CREATED
                await books.journal.accept(replace(acceptance(*spans, account=account), debit_msat=price))
                books.ledger.commit(account, price)
                say("A", account, len(spans))

        async def payer(account: str) -> None:
            nonlocal number
            while True:
                number += 1
                mine = number  # others count on while this one waits
                preimage = mine.to_bytes(32, "big")
                row = TopUp(
                    payment_hash=hashlib.sha256(preimage).digest(), account=account, bolt11="lnbcrt", amount_msat=1_000, network="regtest",
                    payee="02", created_unix_nano=mine, expires_unix_nano=mine + 1,
                )  # fmt: skip
                await books.topups.add(row)
                paid = Settlement(payment_hash=row.payment_hash, preimage=preimage, received_msat=1_000 + mine % 7, settled_unix_nano=mine)
                told = [books.ledger.settle(paid) for _ in range(rng.choice((1, 1, 2)))]
                outcomes = [credited.outcome for credited in await asyncio.gather(*told)]
                assert outcomes[0] is Outcome.CREATED
                assert set(outcomes[1:]) <= {Outcome.EXISTS}
                say("S", account, row.payment_hash.hex(), paid.received_msat)
                amount_msat = rng.choice((-3, 5))
                adjusted = adjust(account, client_id=str(mine), amount_msat=amount_msat, unix_nano=mine)
                assert await books.ledger.post(adjusted, Terms(None)) is Outcome.CREATED
                say("J", account, adjusted.id, amount_msat)

        await asyncio.gather(*map(sender, ACCOUNTS), *map(payer, ACCOUNTS))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
