"""Whose request it is, and on what terms: the accounts and their keys as the event loop sees them.

The truth is in the configuration and in the account book; this is both of them in memory, so that a request is judged without
waiting. What changes it goes through `admin.accounts.AccountOffice`, which writes the book first.

A wrong key costs what a right one costs: one digest, one look-up of it, one comparison of 32 bytes. What an attacker can time is a
digest that he cannot choose, and what a key's holder hears beyond that (it has expired, the account is disabled) is told to him alone.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, TypeVar

from receiver.access.keys import DEFAULT_ACCOUNT, NO_DIGEST, UNKNOWN_KEY, KeyNeed, bearer, digest
from receiver.access.l402 import SEND, Tokens, is_l402
from receiver.clock import Clock
from receiver.config import Credit
from receiver.core.accounts import Account, AccountKey, AccountToken
from receiver.core.credit import CreditPolicy, OnExhausted, OnLedgerError
from receiver.errors import AccountDisabled, Unauthenticated

#: As many characters of a key are kept in the clear, prefix and four more, so that people can tell keys apart: 24 of 256 bits.
HINT_CHARACTERS: Final = 8
_NOBODY: Final = (NO_DIGEST, "", 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one account may take up; None: no limit of its own."""

    max_in_flight: int | None = None  #: bytes of requests that are being worked on
    max_open_spans: int | None = None
    max_series: int | None = None


class Accounts:
    """The register. One event loop owns it; nothing in it waits."""

    def __init__(self, credit: Credit, *, clock: Clock, static: Iterable[tuple[str, str]] = (), required: bool = False) -> None:
        """`static`: (account, SHA-256 of a key in hex) of each `[[access.key]]`; the accounts that these name exist without a book.

        `required`: nobody is let in without a key, not even while there is none.
        """
        self._credit = credit
        self._clock = clock
        self._always = required
        self._accounts: dict[str, Account] = {}
        self._keys: dict[bytes, AccountKey] = {}
        self._static: dict[bytes, AccountKey] = {}
        self._by_digest: dict[bytes, tuple[bytes, str, int | None]] = {}  #: digest -> digest, account, expiry in Unix nanoseconds
        self._disabled: set[str] = set()
        self.tokens = Tokens(clock)
        self._policies: dict[str, CreditPolicy] = {}
        self._limits: dict[str, Limits] = {}
        self._policy_of_all = self.policy_of(Account(name=DEFAULT_ACCOUNT, created_unix_nano=0))
        for name, digest_hex in static:
            sha256 = bytes.fromhex(digest_hex)
            assert len(sha256) == 32
            self._static[sha256] = AccountKey(sha256=sha256, account=name, hint=f"sha256:{digest_hex[:8]}", created_unix_nano=0)
            self._by_digest[sha256] = (sha256, name, None)
        for name in {DEFAULT_ACCOUNT, *(key.account for key in self._static.values())}:
            self.put(Account(name=name, created_unix_nano=0))

    def load(self, accounts: Iterable[Account], keys: Iterable[AccountKey], tokens: Iterable[AccountToken] = ()) -> None:
        """Take over what the account book holds, at the start."""
        for account in accounts:
            self.put(account)
        for key in keys:
            self.put_key(key)
        for token in tokens:
            self.tokens.put(token)

    # --- what each request asks --------------------------------------------------------------------------------------------

    def account(self, authorization: str | None, *, use: str = SEND) -> str:
        """The account that an `Authorization` header names: `Bearer KEY`, or `L402 TOKEN:PREIMAGE`.

        `use`: for what, as a token may be narrowed to less than a key opens (`l402.CAPABILITIES`).

        Raises:
            Unauthenticated, AccountDisabled: it names none, or one that is refused.
            PermissionDenied, PaymentPending: see `l402.Tokens.account`.
        """
        if is_l402(authorization):
            assert authorization is not None
            name = self.tokens.account(authorization, use=use)
        elif self._by_digest or self._always:
            presented = digest(bearer(authorization))
            known, name, expires_unix_nano = self._by_digest.get(presented, _NOBODY)
            now_unix_nano = self._clock.unix_nano()
            if not hmac.compare_digest(presented, known):
                raise Unauthenticated(UNKNOWN_KEY)
            if expires_unix_nano is not None and now_unix_nano >= expires_unix_nano:
                raise Unauthenticated("the key that was sent was replaced and has expired: ask the operator for the new one")
        else:
            name = DEFAULT_ACCOUNT
        if name in self._disabled:
            raise AccountDisabled(name)
        return name

    @property
    def required(self) -> bool:
        """Whether a request must carry a key: as soon as there is one. Else everyone is the account "default"."""
        return self._always or bool(self._by_digest)

    @property
    def asked(self) -> KeyNeed:
        """Whether a request is asked for a key, and whether anybody has one."""
        if not self.required:
            return KeyNeed.NOT_ASKED
        return KeyNeed.ASKED if self._by_digest or len(self.tokens) else KeyNeed.NOBODY_HAS_ONE

    def policy(self, name: str) -> CreditPolicy:
        """On what terms an account's spans are taken; for one that is not known, those of everyone."""
        return self._policies.get(name, self._policy_of_all)

    def limits(self, name: str) -> Limits:
        """What an account may take up."""
        return self._limits.get(name, _NO_LIMITS)

    # --- what the office asks and does -------------------------------------------------------------------------------------

    def known(self) -> list[Account]:
        """Every account, by name; also those that only the configuration names, and `default`."""
        return [self._accounts[name] for name in sorted(self._accounts)]

    def find(self, name: str) -> Account | None:
        """One account, None when there is none of that name."""
        return self._accounts.get(name)

    def keys(self, name: str) -> list[AccountKey]:
        """An account's keys that were made by command, oldest first, also expired ones."""
        mine = [key for key in self._keys.values() if key.account == name]
        return sorted(mine, key=lambda key: (key.created_unix_nano, key.hint))

    def static_keys(self, name: str) -> list[AccountKey]:
        """An account's keys in the configuration; only there they can be removed."""
        return [key for key in self._static.values() if key.account == name]

    def put(self, account: Account) -> None:
        """From now on `account` is as the book says."""
        name = account.name
        self._accounts[name] = account
        self._policies[name] = self.policy_of(account)
        self._limits[name] = Limits(
            max_in_flight=account.max_in_flight, max_open_spans=account.max_open_spans, max_series=account.max_series
        )
        if account.enabled:
            self._disabled.discard(name)
        else:
            self._disabled.add(name)

    def put_key(self, key: AccountKey) -> None:
        """From now on `key` opens its account, until it expires."""
        assert len(key.sha256) == 32
        self._keys[key.sha256] = key
        if key.sha256 not in self._static:  # what the configuration says goes before
            self._by_digest[key.sha256] = (key.sha256, key.account, key.expires_unix_nano)

    def remove_key(self, sha256: bytes) -> None:
        """It opens nothing any more."""
        self._keys.pop(sha256, None)
        if sha256 not in self._static:
            self._by_digest.pop(sha256, None)

    def policy_of(self, account: Account) -> CreditPolicy:
        """What an account would come to, known or not: `[credit]`, with what the operator decided for the account in its place."""
        credit = self._credit
        return CreditPolicy(
            price_per_span_msat=_own(account.price_per_span_msat, credit.price_per_span_msat),
            enforce=_own(account.enforce, credit.enforce),
            on_exhausted=_own(account.on_exhausted, OnExhausted(credit.on_exhausted)),
            on_ledger_error=OnLedgerError(credit.on_ledger_error),
            partial=credit.at_last_span == "partial",
            credit_limit_msat=_own(account.credit_limit_msat, credit.credit_limit_msat),
            max_debt_msat=_own(account.max_debt_msat, credit.max_debt_msat),
            low_balance_marks_msat=tuple(credit.low_balance_marks_msat),
            enabled=account.enabled,
        )


_NO_LIMITS: Final = Limits()
_T = TypeVar("_T")


def _own(own: _T | None, of_all: _T) -> _T:
    return of_all if own is None else own
