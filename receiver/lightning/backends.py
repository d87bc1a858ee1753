"""From `[lightning]` to the wallet that it names: the only place that knows every adapter."""

from __future__ import annotations

from typing import Final

from receiver.clock import Clock
from receiver.config import ConfigError, Lightning
from receiver.lightning.client import LightningClient
from receiver.lightning.credential import Credential, CredentialRefused
from receiver.lightning.dev import DevWallet, Shelf
from receiver.lightning.lnbits import LnbitsClient
from receiver.lightning.lnd import LndClient
from receiver.lightning.rest import Rest

OFF: Final = "off"
DEV: Final = "dev"
LND: Final = "lnd"
LNBITS: Final = "lnbits"


async def open_client(lightning: Lightning, *, shelf: Shelf, clock: Clock) -> LightningClient | None:
    """The wallet of this configuration, None where there is none. Asks no node anything: one that is down now is met later.

    Raises:
        ConfigError: the credential is none, or can pay (where that can be told without asking).
        ReceiverError: the shelf cannot be read.
    """
    if lightning.backend == OFF:
        return None
    if lightning.backend == DEV:
        return await DevWallet.open(shelf, clock)
    client = node_client(lightning)
    if isinstance(client, LndClient):
        try:
            client.opened()
        except CredentialRefused as error:
            key = "macaroon_file" if lightning.lnd.macaroon_file else "macaroon_env"
            raise ConfigError([f"lightning.lnd.{key}: {error}"]) from error
    return client


def node_client(lightning: Lightning) -> LndClient | LnbitsClient:
    """The adapter of a real node. Nothing is read or asked yet."""
    if lightning.backend == LND:
        lnd = lightning.lnd
        credential = Credential(file=lnd.macaroon_file, env=lnd.macaroon_env)
        return LndClient(Rest(lnd.url, cert_file=lnd.cert_file), credential, network=lightning.network, route_hints=lnd.route_hints)
    assert lightning.backend == LNBITS
    lnbits = lightning.lnbits
    credential = Credential(file=lnbits.key_file, env=lnbits.key_env)
    return LnbitsClient(Rest(lnbits.url, cert_file=lnbits.cert_file), credential, network=lightning.network)
