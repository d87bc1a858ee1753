"""L402: a payment is the account. The credential is a token (a macaroon) and the preimage of the invoice that it was sold with.

    402  WWW-Authenticate: L402 macaroon="TOKEN", invoice="BOLT11"          pay it, which tells the payer the preimage
         Authorization: L402 TOKEN:PREIMAGE                                 from then on, everywhere that a key is taken

Source: lightninglabs/L402, protocol-specification.md, and what lightninglabs/aperture and its clients really send.

A credential is judged in this order: its form, that a root key of ours signed it, that the preimage is that of its invoice, that it has
not been replaced, its caveats, and last that **the invoice was credited in our own books**. The last step is what a preimage alone does
not prove: wallets and nodes show preimages of invoices that nobody has paid. A token that is not known costs what a known one costs, and
one sentence stands for every way of being wrong.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Final

from receiver.access import macaroon as macaroons
from receiver.access.macaroon import Macaroon, MalformedMacaroon
from receiver.clock import Clock
from receiver.core.accounts import L402_PREFIX, AccountToken
from receiver.errors import PaymentPending, PermissionDenied, Unauthenticated

SCHEMES: Final = ("l402", "lsat")  #: LSAT is what it was called before 2023, and old clients still say
LOCATION: Final = "spantoll"
#: What a token may be narrowed to. `send`: spans; `read`: balance, statement, reports; `topup`: ask for invoices.
SEND, READ, TOPUP = "send", "read", "topup"
CAPABILITIES: Final = (SEND, READ, TOPUP)
#: The caveats that are known. Those of other services say nothing here and are refused, as whoever added them meant to narrow the token.
SERVICES: Final = "services"
VALID_UNTIL: Final = f"{LOCATION}_valid_until"
MAY: Final = f"{LOCATION}_capabilities"

#: Of an `Authorization` header; a token with 16 caveats and its preimage has less.
MAX_HEADER: Final = 4_096
#: Before a client whose invoice was not seen settled yet asks again: a lookup takes a fraction of that.
PENDING_RETRY_SECONDS: Final = 2.0
#: How long after its expiry an invoice may still turn out to have been paid in time: its payment may hang for minutes on its way.
_GRACE_NANO: Final = 600 * 10**9

_NAME_DIGITS: Final = 16
_RANDOM_BYTES: Final = 32
_IDENTIFIER_BYTES: Final = 2 + 32 + _RANDOM_BYTES
_VERSION: Final = bytes(2)
_PREIMAGE: Final = re.compile(r"[0-9a-fA-F]{64}")
_UNIX: Final = re.compile(r"[0-9]{1,11}")
_SERVICE: Final = re.compile(r"[^,:]+:[0-9]{1,3}")
_NOBODY: Final = AccountToken(id=bytes(32), account="", payment_hash=bytes(32), root_key=bytes(32), created_unix_nano=0)

_WRONG: Final = (
    "the token is not known here, or the preimage is not that of its invoice: send `Authorization: L402 TOKEN:PREIMAGE` as they were"
    " given and paid for, or buy a new token"
)


def is_l402(authorization: str | None) -> bool:
    """Whether a header claims to be of this scheme."""
    return authorization is not None and authorization[:5].lower() in _BEGINNINGS


_BEGINNINGS: Final = tuple(f"{scheme} " for scheme in SCHEMES)


def account_name(payment_hash: bytes) -> str:
    """What the account of a token is called."""
    return L402_PREFIX + payment_hash.hex()[:_NAME_DIGITS]


def new_token(
    payment_hash: bytes, *, entropy: Callable[[int], bytes], created_unix_nano: int, payable_until_unix_nano: int
) -> AccountToken:
    """A token for an invoice; it opens nothing before that is paid."""
    return AccountToken(
        id=entropy(_RANDOM_BYTES),
        account=account_name(payment_hash),
        payment_hash=payment_hash,
        root_key=entropy(_RANDOM_BYTES),
        created_unix_nano=created_unix_nano,
        payable_until_unix_nano=payable_until_unix_nano,
    )


def written(token: AccountToken) -> str:
    """The token as its buyer gets it, without caveats."""
    identifier = _VERSION + token.payment_hash + token.id
    return macaroons.mint(token.root_key, identifier, location=LOCATION).encode()


def challenges(token: str, bolt11: str) -> tuple[str, ...]:
    """The values of `WWW-Authenticate`, each a header line of its own.

    Many clients read the first line alone, or all of them joined, and ask that it begins with L402; aperture's own take either scheme where
    `macaroon="...", invoice="..."` follows it directly. The oldest look for LSAT. The last is the form of the specification since 2026.
    """
    pair = f'macaroon="{token}", invoice="{bolt11}"'
    return (f"L402 {pair}", f"LSAT {pair}", f'L402 version="0", token="{token}", invoice="{bolt11}"')


class Tokens:
    """The register of tokens. One event loop owns it; nothing in it waits."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._by_id: dict[bytes, AccountToken] = {}
        self._unpaid: dict[bytes, bytes] = {}  #: payment hash -> token id
        self._looked: dict[bytes, float] = {}  #: payment hash -> monotonic seconds of the last look that was asked for
        #: told the payment hash when someone shows a right credential whose invoice is not known to be paid: worth a look at the node
        self.look: Callable[[bytes], None] = lambda _: None

    def __len__(self) -> int:
        return len(self._by_id)

    def put(self, token: AccountToken) -> None:
        """From now on `token` is known. It opens its account once it is paid."""
        self._by_id[token.id] = token
        if token.is_paid:
            self._unpaid.pop(token.payment_hash, None)
            self._looked.pop(token.payment_hash, None)
        else:
            self._unpaid[token.payment_hash] = token.id

    def remove(self, token_id: bytes) -> None:
        """It opens nothing any more."""
        token = self._by_id.pop(token_id, None)
        if token is not None:
            self._unpaid.pop(token.payment_hash, None)
            self._looked.pop(token.payment_hash, None)

    def of_account(self, account: str) -> list[AccountToken]:
        """An account's paid tokens, expired ones too."""
        return [token for token in self._by_id.values() if token.is_paid and token.account == account]

    def paid(self, payment_hash: bytes) -> AccountToken | None:
        """Its invoice was credited. The token, None when none is known that waits for it."""
        token_id = self._unpaid.get(payment_hash)
        if token_id is None:
            return None
        token = replace(self._by_id[token_id], is_paid=True)
        self.put(token)
        return token

    def unpaid(self) -> list[tuple[bytes, int]]:
        """(payment hash, expiry in Unix nanoseconds) of the tokens whose invoice was not paid."""
        return [(payment_hash, self._by_id[token_id].payable_until_unix_nano) for payment_hash, token_id in self._unpaid.items()]

    def forget_unpaid(self, *, before_unix_nano: int) -> None:
        """Those whose invoice expired before that and was not paid; should it be after all, the store still has them."""
        for token_id in list(self._unpaid.values()):  # in the order in which they were sold
            if self._by_id[token_id].payable_until_unix_nano >= before_unix_nano:
                break
            self.remove(token_id)

    def account(self, authorization: str, *, use: str = SEND) -> str:
        """The account of a credential, for one of CAPABILITIES.

        Raises:
            Unauthenticated: it names no account.
            PermissionDenied: its holder was given it for something else.
            PaymentPending: it is right, but its invoice was not seen paid yet.
        """
        found, preimage = _read(authorization)
        identifier = found.identifier
        well_formed = len(identifier) == _IDENTIFIER_BYTES and identifier[:2] == _VERSION and found.location == LOCATION
        token = self._by_id.get(identifier[-_RANDOM_BYTES:], _NOBODY)
        signed = macaroons.verify(found, token.root_key)
        proven = hmac.compare_digest(hashlib.sha256(preimage).digest(), token.payment_hash)
        ours = hmac.compare_digest(identifier[2:34], token.payment_hash)
        if not (well_formed & signed & proven & ours) or token is _NOBODY:
            raise Unauthenticated(_WRONG)
        now_unix_nano = self._clock.unix_nano()
        if token.expires_unix_nano is not None and now_unix_nano >= token.expires_unix_nano:
            raise Unauthenticated("the token that was sent was replaced and has expired: ask the operator for the new key of its account")
        _judge(found.caveats, now_unix_nano=now_unix_nano, use=use)
        if not token.is_paid:
            if now_unix_nano >= token.payable_until_unix_nano + _GRACE_NANO:
                raise Unauthenticated("the invoice of this token was never paid, and has expired: buy a new token")
            self._ask(token.payment_hash)
            raise PaymentPending(retry_after_seconds=PENDING_RETRY_SECONDS)
        return token.account

    def _ask(self, payment_hash: bytes) -> None:
        """Have it looked up, at most once in the time after which its client is to come again."""
        now = self._clock.monotonic()
        if now - self._looked.get(payment_hash, -PENDING_RETRY_SECONDS) >= PENDING_RETRY_SECONDS:
            self._looked[payment_hash] = now
            self.look(payment_hash)


def _read(authorization: str) -> tuple[Macaroon, bytes]:
    """The token and the preimage in a header whose scheme was judged. Raises Unauthenticated."""
    if len(authorization) > MAX_HEADER:
        raise Unauthenticated(f"the credential is longer than {MAX_HEADER:,} characters, which none is")
    credential = authorization[5:].strip()
    text, colon, preimage = credential.rpartition(":")
    if not colon or _PREIMAGE.fullmatch(preimage.strip()) is None:
        raise Unauthenticated("the credential must be `Authorization: L402 TOKEN:PREIMAGE`, the preimage as 64 hexadecimal digits")
    if "," in text:
        raise Unauthenticated("the credential holds several tokens: send the one of this account alone")
    try:
        return macaroons.decode(text.strip()), bytes.fromhex(preimage.strip())
    except MalformedMacaroon as error:
        raise Unauthenticated(f"{error}: send it as it was given, in base64") from None


def _judge(caveats: Iterable[bytes], *, now_unix_nano: int, use: str) -> None:
    """Each caveat must hold, so a later one can only narrow. Raises Unauthenticated, PermissionDenied."""
    for caveat in caveats:
        name, equals, value = caveat.decode("ascii", "replace").partition("=")
        if not equals:
            raise _unknown(caveat)
        if name == SERVICES:
            services = value.split(",")
            if not all(map(_SERVICE.fullmatch, services)):
                raise _unknown(caveat)
            if LOCATION not in {each.partition(":")[0] for each in services}:
                raise PermissionDenied(f"the token was narrowed to other services ({_shown(value)}): use one that is for {LOCATION}")
        elif name == VALID_UNTIL:
            if _UNIX.fullmatch(value) is None:
                raise _unknown(caveat)
            if now_unix_nano >= int(value) * 10**9:
                raise Unauthenticated("the token was narrowed to a time that has passed: use one that is still valid")
        elif name == MAY:
            may = value.split(",")
            if not set(may) <= set(CAPABILITIES):
                raise _unknown(caveat)
            if use not in may:
                raise PermissionDenied(f"the token was narrowed to {', '.join(may)}, and this is {use}: use one that may")
        else:
            raise _unknown(caveat)


def _unknown(caveat: bytes) -> Unauthenticated:
    known = f"{SERVICES}=NAME:TIER, {VALID_UNTIL}=UNIX_SECONDS, {MAY}={','.join(CAPABILITIES)}"
    return Unauthenticated(
        f"the token was narrowed by {_shown(caveat.decode('ascii', 'replace'))}, which is not known here; known are {known}"
    )


def _shown(text: str) -> str:
    """What a client sent, for a sentence that refuses it."""
    return ascii(text[:64])
