"""Who pays Spantoll: accounts, their keys, and what the operator decided for each.

An account comes into being by its first key, by `[[access.key]]`, or (`default`) by itself; it is never removed, for its books stay.
What is None here is as `[credit]` and `[otlp]` say for everyone.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from receiver.core.credit import OnExhausted


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """What the operator decided for one account."""

    name: str  #: 1 to 128 letters, digits or . _ : @ / -
    created_unix_nano: int
    enabled: bool = True  #: False: every request is refused at once; what is paid to it is credited all the same
    note: str = ""  #: the operator's own words
    enforce: bool | None = None
    price_per_span_msat: int | None = None
    credit_limit_msat: int | None = None
    on_exhausted: OnExhausted | None = None
    max_debt_msat: int | None = None
    max_in_flight: int | None = None  #: bytes of its requests that are being worked on at once
    max_open_spans: int | None = None  #: spans of its traces that are open; beyond it a request is refused as retryable
    max_series: int | None = None  #: label combinations in the metrics


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountKey:
    """A key of an account. The key itself is shown once, to whom it is made for, and stored nowhere."""

    sha256: bytes = field(repr=False)  #: 32 bytes; 256 random bits need no salt and no slow hash
    account: str
    hint: str  #: its first characters, so that people can tell keys apart ("spt_Ab3d")
    created_unix_nano: int
    expires_unix_nano: int | None = None  #: from then on it opens nothing (an old key's grace after a rotation); None: for good


#: How the name of an account begins that came into being by a payment. Nobody else can be given such a name.
L402_PREFIX: Final = "l402:"


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountToken:
    """What makes a payment an account (L402): whoever shows the token and the preimage of its invoice is the account.

    A row is kept before its invoice is shown to anyone, so most of them are of invoices that nobody paid.
    """

    id: bytes  #: 32 random bytes, which the token names
    account: str  #: L402_PREFIX and the first 16 hexadecimal digits of `payment_hash`
    payment_hash: bytes  #: of its first top-up, whose preimage is the other half of the credential
    root_key: bytes = field(repr=False)  #: 32 random bytes that sign this token alone: without the row it is nobody's
    created_unix_nano: int
    expires_unix_nano: int | None = None  #: from then on it opens nothing (the grace after a rotation); None: for good
    is_paid: bool = False  #: whether the ledger was credited for the invoice; the store derives it
    payable_until_unix_nano: int = 0  #: when the invoice expires; the store derives it


class AccountBook(Protocol):
    """Where accounts, keys and tokens are kept. What has resolved is durable."""

    def accounts(self) -> Awaitable[Sequence[Account]]:
        """All of them, by name."""

    def keys(self) -> Awaitable[Sequence[AccountKey]]:
        """All that were not removed, expired ones too."""

    def put_account(self, account: Account) -> Awaitable[None]:
        """Keep `account`, in place of an earlier one of its name."""

    def put_key(self, key: AccountKey) -> Awaitable[None]:
        """Keep `key`, in place of an earlier one of its digest."""

    def remove_key(self, sha256: bytes) -> Awaitable[None]:
        """It opens nothing any more."""

    def tokens(self, *, watched_since_unix_nano: int) -> Awaitable[Sequence[AccountToken]]:
        """Those that are paid, and those whose invoice expires at or after this, so that it may still be."""

    def token_of(self, payment_hash: bytes) -> Awaitable[AccountToken | None]:
        """The token of this invoice, None when it is of none."""

    def put_token(self, token: AccountToken) -> Awaitable[None]:
        """Keep `token`, in place of an earlier one of its id. Its top-up is kept already."""

    def remove_token(self, token_id: bytes) -> Awaitable[None]:
        """It opens nothing any more."""
