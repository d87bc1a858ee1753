"""The office of accounts: it makes them, shows them, changes their terms, and gives and replaces keys.

Every act writes the account book first and the register after, so what an operator was told is durable, and a key that he was shown
works. Acts come one after the other. A key is shown once, in the answer to the act that made it, and is in no log, error or repr.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Mapping
from dataclasses import fields, replace
from typing import Any, Final, Protocol

from receiver.access.accounts import HINT_CHARACTERS, Accounts
from receiver.access.keys import DEFAULT_ACCOUNT, digest, generate_key
from receiver.clock import Clock
from receiver.core.accounts import L402_PREFIX, Account, AccountBook, AccountKey, AccountToken
from receiver.core.credit import OnExhausted
from receiver.core.invoices import watched_since_unix_nano
from receiver.core.ledger import Balance, Outcome, Terms, Transfer, adjust
from receiver.core.moments import rfc3339
from receiver.errors import Conflict, InvalidValue, NotFound, Overloaded

log = logging.getLogger(__name__)

#: What the operator decides for an account; None is as for everyone. The names are those of `Account`.
CREDIT_FIELDS: Final = ("enforce", "price_per_span_msat", "credit_limit_msat", "on_exhausted", "max_debt_msat")
LIMIT_FIELDS: Final = ("max_in_flight", "max_open_spans", "max_series")
SETTABLE: Final = (*CREDIT_FIELDS, *LIMIT_FIELDS, "note")
_NANO: Final = 10**9

assert {each.name for each in fields(Account)} == {"name", "created_unix_nano", "enabled", *SETTABLE}


class Ledger(Protocol):
    """The part of `core.ledger.Ledger` that gives a start balance and shows it."""

    def balance(self, account: str) -> Balance: ...
    async def post(self, transfer: Transfer, terms: Terms) -> Outcome: ...


class AccountOffice:
    """Accounts and keys. One event loop owns it. Its answers are JSON objects."""

    def __init__(
        self,
        *,
        book: AccountBook,
        register: Accounts,
        ledger: Ledger,
        clock: Clock,
        start_balance_msat: int = 0,
        max_request_bytes: int = 0,
    ) -> None:
        """`max_request_bytes`: the largest legal request, which an account's own bound on bytes in flight may not shut out."""
        self._book = book
        self._register = register
        self._ledger = ledger
        self._clock = clock
        self._start_balance_msat = start_balance_msat
        self._max_request_bytes = max_request_bytes
        self._alone = asyncio.Lock()

    async def begin(self) -> None:
        """At the start, once the ledger is loaded: take over what the book holds.

        Then keep what only the configuration names, and give each account the start balance that it has not had; with a full disk
        that is left to the next start.
        """
        since_unix_nano = watched_since_unix_nano(now_unix_nano=self._clock.unix_nano())
        tokens = await self._book.tokens(watched_since_unix_nano=since_unix_nano)
        self._register.load(await self._book.accounts(), await self._book.keys(), tokens)
        unwritten = [token for token in tokens if token.is_paid and self._register.find(token.account) is None]
        for token in unwritten:  # the last process ended between a credit and its account's row
            self._register.put(self._bought(token))
        try:
            for account in self._register.known():
                if not account.created_unix_nano:  # the configuration's word alone
                    await self._keep(replace(account, created_unix_nano=self._clock.unix_nano()))
                await self._start_balance(account.name)
            for token in unwritten:
                await self._write_bought(token)
        except Overloaded as error:
            log.warning("accounts could not be written down, which is tried again at the next start: %s", error)

    # --- looking -----------------------------------------------------------------------------------------------------------

    def list(self) -> dict[str, Any]:
        """Every account, by name."""
        return {"key_required": self._register.required, "accounts": [self._shown(account) for account in self._register.known()]}

    def show(self, name: str) -> dict[str, Any]:
        """One account. Raises NotFound."""
        return self._shown(self._find(name))

    # --- acting ------------------------------------------------------------------------------------------------------------

    async def add(self, name: str, changes: Mapping[str, Any]) -> dict[str, Any]:
        """A new account with its first key.

        `changes`: as for `change`. The answer has the key (`key`) and whether with it a key is asked of everybody (`first_key`).

        Raises:
            Conflict: there is one of that name.
            InvalidValue: as `change`.
        """
        async with self._alone:
            if name.startswith(L402_PREFIX):
                raise InvalidValue(f"account: names that begin with {L402_PREFIX!r} are for accounts that are bought: choose another")
            if self._register.find(name) is not None:
                why = "as long as there is no key, everything belongs to it; " if name == DEFAULT_ACCOUNT else ""
                raise Conflict(f"account {name!r} exists already: {why}`spantoll account rotate-key {name}` makes a key for it")
            account = self._changed(Account(name=name, created_unix_nano=self._clock.unix_nano()), changes)
            first_key = not self._register.required
            await self._keep(account)
            await self._start_balance(name)
            key = await self._new_key(name)
            log.info("an account was added", extra={"account": name})
            if first_key:
                log.warning("from now on every request needs a key: those without one are refused as unauthenticated")
            return {**self._shown(account), "key": key, "first_key": first_key}

    async def change(self, name: str, changes: Mapping[str, Any]) -> dict[str, Any]:
        """Set what `changes` names (SETTABLE); None makes it as for everyone again. In force from the next request on.

        Raises:
            NotFound: there is no such account.
            InvalidValue: the values contradict each other or a limit of the daemon.
        """
        async with self._alone:
            account = self._changed(self._find(name), changes)
            await self._keep(account)
            log.info("an account was changed", extra={"account": name, "changed": ", ".join(sorted(changes))})
            return self._shown(account)

    async def disable(self, name: str) -> dict[str, Any]:
        """Refuse everything of it from now on, also requests that are being read. Raises NotFound."""
        return await self._enabled(name, enabled=False)

    async def enable(self, name: str) -> dict[str, Any]:
        """Let it in again. Raises NotFound."""
        return await self._enabled(name, enabled=True)

    def paid(self, token: AccountToken) -> Coroutine[Any, Any, None]:
        """A token was paid: its account is there from this moment on; to be awaited, so that the book has it too."""
        assert token.is_paid
        if self._register.find(token.account) is None:
            self._register.put(self._bought(token))
        self._register.tokens.put(token)
        return self._write_bought(token)

    async def rotate_key(self, name: str, *, grace_seconds: float = 0.0) -> dict[str, Any]:
        """A new key for an account; the keys that it had open it for `grace_seconds` more, by default not at all.

        The answer has the key (`key`), when the old ones end (`old_keys_expire`, None: at once), and `first_key` as in `add`. Keys in
        the configuration are left alone. The token that an account was bought with (L402) is replaced like a key. Raises NotFound.
        """
        async with self._alone:
            account = self._find(name)
            first_key = not self._register.required
            now_unix_nano = self._clock.unix_nano()
            old = self._register.keys(name)
            key = await self._new_key(name)
            ends_unix_nano = now_unix_nano + round(grace_seconds * _NANO)
            replaced = 0
            for each in old:
                if each.expires_unix_nano is None or each.expires_unix_nano > now_unix_nano:
                    replaced += 1
                if ends_unix_nano <= now_unix_nano or (each.expires_unix_nano or ends_unix_nano) <= now_unix_nano:
                    await self._book.remove_key(each.sha256)
                    self._register.remove_key(each.sha256)
                elif each.expires_unix_nano is None or each.expires_unix_nano > ends_unix_nano:
                    expiring = replace(each, expires_unix_nano=ends_unix_nano)
                    await self._book.put_key(expiring)
                    self._register.put_key(expiring)
            for token in self._register.tokens.of_account(name):
                if token.expires_unix_nano is None or token.expires_unix_nano > now_unix_nano:
                    replaced += 1
                if ends_unix_nano <= now_unix_nano or (token.expires_unix_nano or ends_unix_nano) <= now_unix_nano:
                    await self._book.remove_token(token.id)
                    self._register.tokens.remove(token.id)
                elif token.expires_unix_nano is None or token.expires_unix_nano > ends_unix_nano:
                    ending = replace(token, expires_unix_nano=ends_unix_nano)
                    await self._book.put_token(ending)
                    self._register.tokens.put(ending)
            log.info("an account has a new key", extra={"account": name, "replaced_keys": replaced, "grace_seconds": grace_seconds})
            if first_key:
                log.warning("from now on every request needs a key: those without one are refused as unauthenticated")
            expire = rfc3339(ends_unix_nano) if replaced and ends_unix_nano > now_unix_nano else None
            return {**self._shown(account), "key": key, "first_key": first_key, "replaced_keys": replaced, "old_keys_expire": expire}

    # --- the parts of it ---------------------------------------------------------------------------------------------------

    def _find(self, name: str) -> Account:
        account = self._register.find(name)
        if account is None:
            raise NotFound(f"there is no account {name!r}: `spantoll account list` shows those that there are")
        return account

    async def _enabled(self, name: str, *, enabled: bool) -> dict[str, Any]:
        async with self._alone:
            account = replace(self._find(name), enabled=enabled)
            await self._keep(account)
            log.info("an account was %s", "enabled" if enabled else "disabled", extra={"account": name})
            return self._shown(account)

    def _changed(self, account: Account, changes: Mapping[str, Any]) -> Account:
        assert set(changes) <= set(SETTABLE)
        given = dict(changes)
        if given.get("on_exhausted") is not None:
            given["on_exhausted"] = OnExhausted(given["on_exhausted"])
        if "note" in given:
            given["note"] = given["note"] or ""
        account = replace(account, **given)
        if account.max_in_flight is not None and account.max_in_flight < self._max_request_bytes:
            raise InvalidValue(
                f"max_in_flight: {account.max_in_flight:,} bytes are less than one request may have"
                f" (otlp.max_request_size, {self._max_request_bytes:,}), so such a request could never be taken"
            )
        policy = self._register.policy_of(account)
        if policy.on_exhausted is OnExhausted.ACCEPT and not policy.max_debt_msat:
            raise InvalidValue(
                'max_debt_msat: is 0 although on_exhausted is "accept", so no debt is accepted; set a bound, or choose "drop"'
            )
        return account

    def _bought(self, token: AccountToken) -> Account:
        """The account of a payment. What is accepted from people whom the operator knows, such as debt, is not from strangers."""
        return Account(
            name=token.account,
            created_unix_nano=token.created_unix_nano,
            enforce=True,
            credit_limit_msat=0,
            on_exhausted=OnExhausted.DROP if self._register.policy("").on_exhausted is OnExhausted.ACCEPT else None,
            max_debt_msat=0,
        )

    async def _write_bought(self, token: AccountToken) -> None:
        """What cannot be written now is written at the next start, since the credit and the token say that it must be there."""
        async with self._alone:
            account = self._register.find(token.account)
            assert account is not None
            try:
                await self._book.put_account(account)
            except Overloaded as error:
                log.warning("an account that was bought could not be written down, which is tried again at the next start: %s", error)
            else:
                log.info("an account was bought", extra={"account": token.account})

    async def _keep(self, account: Account) -> None:
        await self._book.put_account(account)
        self._register.put(account)

    async def _new_key(self, name: str) -> str:
        key = generate_key()
        made = AccountKey(sha256=digest(key), account=name, hint=key[:HINT_CHARACTERS], created_unix_nano=self._clock.unix_nano())
        await self._book.put_key(made)
        self._register.put_key(made)
        return key

    async def _start_balance(self, name: str) -> None:
        """Once in the life of an account: its transfer has an id that no second one can have.

        Not to one that was bought: who buys ten would be given ten.
        """
        if not self._start_balance_msat or name.startswith(L402_PREFIX):
            return
        gift = adjust(
            name,
            client_id=f"start:{name}",
            amount_msat=self._start_balance_msat,
            unix_nano=self._clock.unix_nano(),
            note="start balance",
        )
        if await self._ledger.post(gift, Terms()) is Outcome.CREATED:
            log.info("an account was given its start balance", extra={"account": name, "amount_msat": self._start_balance_msat})

    def _shown(self, account: Account) -> dict[str, Any]:
        policy = self._register.policy_of(account)
        return {
            "account": account.name,
            "created": rfc3339(account.created_unix_nano) if account.created_unix_nano else None,
            "enabled": account.enabled,
            "note": account.note,
            "balance_msat": self._ledger.balance(account.name).posted_msat,
            "credit": {
                "enforce": policy.enforce,
                "price_per_span_msat": policy.price_per_span_msat,
                "credit_limit_msat": policy.credit_limit_msat,
                "on_exhausted": policy.on_exhausted.value,
                "max_debt_msat": policy.max_debt_msat,
            },
            "limits": {name: getattr(account, name) for name in LIMIT_FIELDS},
            "own": [name for name in (*CREDIT_FIELDS, *LIMIT_FIELDS) if getattr(account, name) is not None],
            "keys": [
                {
                    "hint": key.hint,
                    "created": rfc3339(key.created_unix_nano),
                    "expires": None if key.expires_unix_nano is None else rfc3339(key.expires_unix_nano),
                    "source": "account",
                }
                for key in self._register.keys(account.name)
                if key.expires_unix_nano is None or key.expires_unix_nano > self._clock.unix_nano()
            ]
            + [
                {
                    "hint": f"l402:{token.id.hex()[:HINT_CHARACTERS]}",
                    "created": rfc3339(token.created_unix_nano),
                    "expires": None if token.expires_unix_nano is None else rfc3339(token.expires_unix_nano),
                    "source": "token",
                }
                for token in self._register.tokens.of_account(account.name)
                if token.expires_unix_nano is None or token.expires_unix_nano > self._clock.unix_nano()
            ]
            + [
                {"hint": key.hint, "created": None, "expires": None, "source": "configuration"}
                for key in self._register.static_keys(account.name)
            ],
        }
