"""What is there to say about a node before anyone pays it: who it is, what its credential may do, whether it can receive.

Asked by `spantoll lightning check`, one question after the other, so that the answer is whole although one of them fails. Nothing is
made or paid, but for LNbits' one invoice that is shown to nobody, where its wallet has none yet.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum
from typing import Final

from receiver.config import Lightning
from receiver.core.credit import format_sat
from receiver.core.invoices import MSAT_PER_SAT
from receiver.errors import ReceiverError
from receiver.lightning.backends import DEV, OFF, node_client
from receiver.lightning.client import LightningClient
from receiver.lightning.credential import CredentialRefused
from receiver.lightning.lnbits import LnbitsClient
from receiver.lightning.lnd import LndClient
from receiver.lightning.macaroon import BAKE

_STATES: Final = {
    "WAITING_TO_START": "waits for its turn to lead",
    "NON_EXISTING": "has no wallet yet: make one with `lncli create`",
    "LOCKED": "is locked: `lncli unlock`",
    "UNLOCKED": "is starting",
    "RPC_ACTIVE": "is starting",
}


class Grade(Enum):
    """How much a finding matters."""

    WELL = "well"  #: as it should be
    NOTE = "note"  #: top-ups work, and something could be better
    WRONG = "wrong"  #: top-ups do not work, or should not


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    grade: Grade
    says: str  #: a sentence
    do: str = ""  #: the command that mends it


async def examine(lightning: Lightning) -> list[Finding]:
    """Everything that can be said of the node that `[lightning]` names."""
    if lightning.backend == OFF:
        return [_note('lightning.backend is "off": no top-ups are received.')]
    if lightning.backend == DEV:
        says = "What the dev wallet receives is no money: whoever reaches `spantoll dev pay` settles any of its invoices."
        return [_well("The dev wallet needs no node; its invoices are for regtest."), _note(says)]
    client = node_client(lightning)
    try:
        if isinstance(client, LndClient):
            return await _examine_lnd(client, lightning.topup_min_sat * MSAT_PER_SAT)
        return await _examine_lnbits(client)
    finally:
        await client.close()


async def _examine_lnd(client: LndClient, least_msat: int) -> list[Finding]:
    try:
        rights = client.opened().rights
    except ReceiverError as error:
        return [_refused(error)]
    found = [_well(f"The macaroon in {client.credential.origin} can receive, and cannot pay.")]
    if rights.unneeded:
        found.append(_note(f"It may also do what nothing here needs: {', '.join(rights.unneeded)}.", BAKE))
    found += [_note(f"It holds only under a condition: {caveat}.") for caveat in rights.caveats]
    await _ask(found, lambda: _lnd_state(client, found))
    await _ask(found, lambda: _who(client, found))
    await _ask(found, lambda: _stream(client, found))
    if rights.sees_balance:
        await _ask(found, lambda: _inbound(client, found, least_msat))
    else:
        found.append(_note("How much it can receive is not known: the macaroon may not call ChannelBalance.", BAKE))
    return found


async def _lnd_state(client: LndClient, found: list[Finding]) -> None:
    state = await client.state()
    if state != "SERVER_ACTIVE":
        found.append(_wrong(f"The LND node {_STATES.get(state, f'is in the state {state}')}."))


async def _who(client: LightningClient, found: list[Finding]) -> None:
    node = await client.node()
    found.append(_well(f"The node is {node.version}, {node.payee}, on {node.network}."))
    if not node.ready:
        found.append(_wrong("It does not follow the chain yet (or its chain backend is gone), so nobody could pay it."))


async def _stream(client: LightningClient, found: list[Finding]) -> None:
    async with client.subscribe(None):
        found.append(_well("Its stream of settlements can be heard, so a payment is credited as it comes."))


async def _inbound(client: LndClient, found: list[Finding], least_msat: int) -> None:
    receivable_msat = await client.receivable_msat()
    if receivable_msat < least_msat:
        says = f"It can receive {format_sat(receivable_msat)} sat, which is less than the smallest top-up ({format_sat(least_msat)} sat):"
        found.append(_wrong(f"{says} it needs a channel with funds on the other side."))
    else:
        found.append(_well(f"It can receive up to {format_sat(receivable_msat)} sat, over all its channels."))


async def _examine_lnbits(client: LnbitsClient) -> list[Finding]:
    found: list[Finding] = []
    await _ask(found, lambda: _wallet(client, found))
    if found[0].grade is Grade.WELL:
        await _ask(found, lambda: _who(client, found))
        await _ask(found, lambda: _stream(client, found))
        found.append(_note("LNbits does not say whether the node behind it can receive: pay a small top-up to know."))
    return found


async def _wallet(client: LnbitsClient, found: list[Finding]) -> None:
    wallet = await client.wallet()
    found.append(_well(f"The key in {client.credential.origin} opens the wallet {wallet.get('name')!r}: it can receive, and cannot pay."))


async def _ask(found: list[Finding], question: Callable[[], Awaitable[None]]) -> None:
    try:
        await question()
    except ReceiverError as error:
        if (problem := _refused(error)) not in found:  # one credential fails in every question
            found.append(problem)


def _refused(error: ReceiverError) -> Finding:
    problem, mend = (error.problem, error.mend) if isinstance(error, CredentialRefused) else (str(error), "")
    return _wrong(f"{problem[:1].upper()}{problem[1:].rstrip('.')}.", mend)


def _well(says: str) -> Finding:
    return Finding(Grade.WELL, says)


def _note(says: str, do: str = "") -> Finding:
    return Finding(Grade.NOTE, says, do)


def _wrong(says: str, do: str = "") -> Finding:
    return Finding(Grade.WRONG, says, do)
