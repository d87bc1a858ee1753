"""What an LND macaroon may do, read from the macaroon itself: nobody is asked and nothing is tried.

LND bakes the rights into the identifier, readable by whoever holds the macaroon and sealed by its signature; caveats only narrow
them. So a credential that can pay is known before it was ever sent.

Sources: libmacaroons' binary format V2 (github.com/rescrv/libmacaroons, doc/format.txt); the identifier of bakery version 3
(github.com/go-macaroon-bakery/macaroon-bakery, bakery/internal/macaroonpb/id.proto); LND's rights by call, `lncli listpermissions`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from receiver.core.macaroon_format import END, IDENTIFIER, LOCATION, SIGNATURE, VERIFICATION, VERSION, field
from receiver.errors import ReceiverError

#: Every call that is made, with the wider right that includes it; LND takes either.
NEEDED: Final = {
    "uri:/lnrpc.Lightning/AddInvoice": "invoices:write",
    "uri:/lnrpc.Lightning/LookupInvoice": "invoices:read",
    "uri:/lnrpc.Lightning/SubscribeInvoices": "invoices:read",
    "uri:/lnrpc.Lightning/GetInfo": "info:read",
}
#: Lets `spantoll lightning check` say how much the node can receive; all else works without it.
USEFUL: Final = {"uri:/lnrpc.Lightning/ChannelBalance": "offchain:read"}
#: Rights beyond these that move no money and close no channel. What is in none of the three could, for all that is known here.
HARMLESS: Final = frozenset(
    {
        "address:read",
        "address:write",  # new addresses of the node's own wallet
        "macaroon:read",
        "message:read",
        "message:write",  # signs texts in the node's name
        "onchain:read",
        "peers:read",
        "uri:/invoicesrpc.Invoices/LookupInvoiceV2",
        "uri:/invoicesrpc.Invoices/SubscribeSingleInvoice",
        "uri:/lnrpc.Lightning/CheckMacaroonPermissions",
        "uri:/lnrpc.Lightning/DecodePayReq",
        "uri:/lnrpc.Lightning/ListChannels",
        "uri:/lnrpc.Lightning/ListInvoices",
        "uri:/lnrpc.State/GetState",
        "uri:/lnrpc.State/SubscribeState",
    }
)
#: The command that bakes what is needed, and nothing more.
BAKE: Final = " ".join(["lncli bakemacaroon --save_to spantoll.macaroon", *NEEDED, *USEFUL])

_BAKERY_VERSION: Final = 3
_OPS, _ENTITY, _ACTION = 3, 1, 2  # fields of the identifier's messages


class NoMacaroon(ReceiverError):
    """The bytes are no macaroon as LND bakes it."""


@dataclass(frozen=True, slots=True)
class Rights:
    """What a macaroon allows."""

    allowed: frozenset[str]  #: "entity:action" as LND spells it; "uri:" and a method for one call alone
    caveats: tuple[str, ...]  #: conditions that narrow it, such as "time-before 2027-01-01T00:00:00Z"

    @property
    def beyond_receiving(self) -> list[str]:
        """Rights with which money could leave the node, or the node be changed."""
        return sorted(self.allowed - HARMLESS - {*NEEDED, *NEEDED.values(), *USEFUL, *USEFUL.values()})

    @property
    def unneeded(self) -> list[str]:
        """Harmless rights that nothing here uses."""
        return sorted(self.allowed & HARMLESS)

    @property
    def missing(self) -> list[str]:
        """Calls that are needed and not allowed, as rights."""
        return [call for call, right in NEEDED.items() if self.allowed.isdisjoint((call, right))]

    @property
    def sees_balance(self) -> bool:
        return not any(self.allowed.isdisjoint(pair) for pair in USEFUL.items())


def rights(macaroon: bytes) -> Rights:
    """Read a macaroon in its binary form.

    Raises:
        NoMacaroon: it is none, or not of the version that LND takes.
    """
    try:
        return _read(macaroon)
    except (IndexError, UnicodeDecodeError):
        raise NoMacaroon("it ends too early, or is something else") from None


def _read(macaroon: bytes) -> Rights:
    if macaroon[0] != VERSION:
        raise NoMacaroon("it does not begin as a macaroon of LND does")
    head, at = _section(macaroon, 1)
    caveats: list[str] = []
    while macaroon[at] != END:
        caveat, at = _section(macaroon, at)
        caveats.append(caveat.get(IDENTIFIER, b"").decode())
    kind, _, end = field(macaroon, at + 1)
    if kind != SIGNATURE or end != len(macaroon):
        raise NoMacaroon("it has no signature")
    identifier = head.get(IDENTIFIER, b"")
    if identifier[0] != _BAKERY_VERSION:
        raise NoMacaroon("its identifier is not of a version that is known here, so nobody can tell what it may do")
    allowed: set[str] = set()
    for op in (data for number, data in _messages(identifier[1:]) if number == _OPS):
        parts = [(number, data.decode()) for number, data in _messages(op)]
        entity = "".join(text for number, text in parts if number == _ENTITY)
        allowed |= {f"{entity}:{text}" for number, text in parts if number == _ACTION}
    return Rights(frozenset(allowed), tuple(caveats))


def _section(text: bytes, at: int) -> tuple[dict[int, bytes], int]:
    """The fields of a section by type, and where the next one begins."""
    fields: dict[int, bytes] = {}
    while text[at] != END:
        kind, value, at = field(text, at)
        if kind not in (LOCATION, IDENTIFIER, VERIFICATION):
            raise NoMacaroon("it holds a field that no macaroon has")
        fields[kind] = value
    return fields, at + 1


def _messages(text: bytes) -> Iterator[tuple[int, bytes]]:
    """The fields of a Protocol Buffers message that has strings, bytes and messages only, by number."""
    at = 0
    while at < len(text):
        tag, value, at = field(text, at)  # a field of such a message is written as one of a macaroon is
        if tag & 7 != 2:
            raise NoMacaroon("its identifier holds what no macaroon of LND does")
        yield tag >> 3, value
