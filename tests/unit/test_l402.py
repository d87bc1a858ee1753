"""L402: a token is believed when we signed it, its preimage is shown, nothing narrows it, and our books say that it was paid."""

from __future__ import annotations

import base64
import hashlib
import hmac
import importlib
import re
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import pytest

from receiver.access import macaroon as macaroons
from receiver.access.accounts import Accounts
from receiver.access.keys import digest
from receiver.access.l402 import (
    CAPABILITIES,
    MAX_HEADER,
    READ,
    SEND,
    TOPUP,
    Tokens,
    account_name,
    challenges,
    new_token,
    written,
)
from receiver.access.macaroon import MAX_CAVEATS, Macaroon, MalformedMacaroon
from receiver.config import ConfigError, Credit, load
from receiver.core.accounts import Account, AccountKey, AccountToken
from receiver.errors import AccountDisabled, PaymentPending, PermissionDenied, Unauthenticated
from tests.fakes import UNIX_NANO, ManualClock
from tests.require import need

HOUR_NANO = 3_600 * 10**9
UNIX = UNIX_NANO // 10**9


def preimage_of(number: int) -> bytes:
    return number.to_bytes(32, "big")


def token_of(number: int, **more: Any) -> AccountToken:
    """A token whose invoice has the preimage `preimage_of(number)`."""
    entropy = iter((bytes([number]) * 32, bytes([number + 100]) * 32))
    made = new_token(
        hashlib.sha256(preimage_of(number)).digest(),
        entropy=lambda _: next(entropy),
        created_unix_nano=UNIX_NANO,
        payable_until_unix_nano=UNIX_NANO + HOUR_NANO,
    )
    return replace(made, is_paid=True, **more)


def register(*tokens: AccountToken, clock: ManualClock | None = None) -> Tokens:
    made = Tokens(clock or ManualClock())
    for token in tokens:
        made.put(token)
    return made


def header(token: str, number: int, scheme: str = "L402") -> str:
    return f"{scheme} {token}:{preimage_of(number).hex()}"


def narrowed(token: AccountToken, *caveats: str) -> str:
    found = macaroons.decode(written(token))
    for caveat in caveats:
        found = macaroons.restrict(found, caveat.encode())
    return found.encode()


# --- the form, against another implementation -----------------------------------------------------------------------------------


def other_implementation() -> Any:
    need(find_spec("pymacaroons"), "pymacaroons, another implementation of macaroons, is not installed")
    return importlib.import_module("pymacaroons")


def theirs(token: AccountToken, *caveats: str) -> Any:
    pymacaroons = other_implementation()
    identifier = bytes(2) + token.payment_hash + token.id
    made = pymacaroons.Macaroon(location="spantoll", identifier=identifier, key=token.root_key, version=2)
    for caveat in caveats:
        made.add_first_party_caveat(caveat)
    return made


@pytest.mark.parametrize("caveats", [(), ("services=spantoll:0",), (f"spantoll_valid_until={UNIX + 60}", "a" * 200, "x=" + "é")])
def test_another_implementation_writes_the_same_bytes(caveats: tuple[str, ...]) -> None:
    """It and this codec agree on every byte, both ways; it writes URL-safe base64 without padding, which is read too."""
    token = token_of(1)
    ours, other = narrowed(token, *caveats), theirs(token, *caveats)
    text = other.serialize()
    assert base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)) == base64.b64decode(ours, validate=True)
    assert macaroons.decode(text) == macaroons.decode(ours)
    assert macaroons.verify(macaroons.decode(text), token.root_key)


def test_another_implementation_verifies_ours() -> None:
    """It reads a token of ours, and its verifier accepts it with the root key, and with no other."""
    pymacaroons = other_implementation()
    token = token_of(1)
    text = narrowed(token, "spantoll_valid_until=9").rstrip("=").replace("+", "-").replace("/", "_")
    found = pymacaroons.Macaroon.deserialize(text)
    verifier = pymacaroons.Verifier()
    verifier.satisfy_exact("spantoll_valid_until=9")
    assert verifier.verify(found, token.root_key)
    with pytest.raises(Exception, match=r"[Ss]ignature"):
        verifier.verify(found, bytes(32))


def test_a_token_that_another_implementation_narrowed_is_believed() -> None:
    """Attenuation needs nothing of ours: a client with pymacaroons adds a caveat, and it binds."""
    token, clock = token_of(1), ManualClock()
    other = theirs(token, f"spantoll_valid_until={UNIX + 60}")
    tokens = register(token, clock=clock)
    assert tokens.account(header(other.serialize(), 1)) == token.account
    clock.advance(61)
    with pytest.raises(Unauthenticated, match="time that has passed"):
        tokens.account(header(other.serialize(), 1))


def test_the_vectors_of_libmacaroons() -> None:
    """The signature in the README of libmacaroons, which every implementation tests itself against."""
    key = b"this is our super secret key; only we should know it"
    made = macaroons.mint(key, b"we used our secret key", location="http://mybank/")
    assert made.signature.hex() == "e3d9e02908526c4c0039ae15114115d97fdd68bf2ba379b342aaf0f617d0552f"
    made = macaroons.restrict(made, b"account = 3735928559")
    assert made.signature.hex() == "1efe4763f290dbce0c1d08477367e11f4eee456a64933cf662d79772dbb82128"
    made = macaroons.restrict(macaroons.restrict(made, b"time < 2020-01-01T00:00"), b"email = alice@example.org")
    assert made.signature.hex() == "ddf553e46083e55b8d71ab822be3d8fcf21d6bf19c40d617bb9fb438934474b6"


def test_what_is_not_written_as_the_format_is_is_none() -> None:
    """Another version, a caveat for a third party, more after the end, a length in two bytes, too many caveats: refused with a word."""
    good = macaroons.decode(written(token_of(1))).to_bytes()
    body, signature = good[:-34], good[-34:]
    third = body[:-1] + b"\x02\x01x\x04\x01v\x00\x00" + signature
    for data in (
        b"",
        good[:1],
        b"\x01" + good[1:],
        good + b"\x00",
        good[:-1],
        third,
        body[:1] + b"\x01\x88\x00" + body[3:] + signature,
        body[:-1] + b"\x01\x01l\x00\x00" + signature,
        b"\x02\xff\xff\xff\xff\xff\xff",
        Macaroon(location="spantoll", identifier=b"i", caveats=(b"a=b",) * (MAX_CAVEATS + 1), signature=bytes(32)).to_bytes(),
    ):
        with pytest.raises(MalformedMacaroon):
            macaroons.of_bytes(data)
    assert macaroons.of_bytes(good).to_bytes() == good


def test_one_token_has_one_text() -> None:
    """Base64 whose last bits are not zero decodes to the same bytes elsewhere, and is none here; nor is anything beyond the bound."""
    text = base64.b64encode(macaroons.decode(narrowed(token_of(1), "a=b")).to_bytes()).decode()
    assert text.endswith("=")
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    last = text.rstrip("=")[-1]
    other = text.rstrip("=")[:-1] + alphabet[alphabet.index(last) ^ 1]
    for wrong in (other, "A" * 4_000, "AgEI spantoll", "AgEI\n", "é", ""):
        with pytest.raises(MalformedMacaroon):
            macaroons.decode(wrong)


def test_no_secret_is_in_a_repr() -> None:
    """Tokens end up in tracebacks and logs."""
    token = token_of(1)
    assert token.root_key.hex() not in repr(token)
    assert repr(token.root_key) not in repr(token)
    assert repr(macaroons.decode(written(token)).signature) not in repr(macaroons.decode(written(token)))


# --- the challenge --------------------------------------------------------------------------------------------------------------

#: As aperture's client finds token and invoice (l402/client_interceptor.go).
APERTURE = re.compile(r'(LSAT|L402) macaroon="(.*?)", invoice="(.*?)"')


def test_clients_of_aperture_find_token_and_invoice() -> None:
    """In the first line alone, and in all of them joined as Python's clients see them; LSAT has its own, the newest form is last."""
    lines = challenges("AgEI==", "lnbcrt1")
    for text in (lines[0], ", ".join(lines)):
        match = APERTURE.search(text)
        assert match is not None
        assert match.group(2, 3) == ("AgEI==", "lnbcrt1")
    assert [line.split()[0] for line in lines] == ["L402", "LSAT", "L402"]
    assert lines[2] == 'L402 version="0", token="AgEI==", invoice="lnbcrt1"'


def test_the_token_decodes_as_a_strict_client_does_it() -> None:
    """Standard alphabet and padding, as Go's base64.StdEncoding; the identifier is version 0, the payment hash, 32 random bytes."""
    token = token_of(1)
    raw = base64.b64decode(written(token), validate=True)
    assert raw[0] == 2
    identifier = macaroons.of_bytes(raw).identifier
    assert identifier == b"\x00\x00" + token.payment_hash + token.id
    assert len(identifier) == 66
    assert token.account == account_name(token.payment_hash) == f"l402:{token.payment_hash.hex()[:16]}"


# --- who it is ------------------------------------------------------------------------------------------------------------------


def test_a_paid_token_and_its_preimage_are_the_account() -> None:
    """Either scheme's name in any case, blanks around, hexadecimal in either case; and each token is its own account."""
    one, two = token_of(1), token_of(2)
    tokens = register(one, two)
    text = written(one)
    for credential in (
        header(text, 1),
        header(text, 1, "LSAT"),
        header(text, 1, "l402"),
        f"L402   {text} : {preimage_of(1).hex().upper()} ",
        header(text.rstrip("="), 1),
    ):
        assert tokens.account(credential) == one.account
    assert tokens.account(header(written(two), 2)) == two.account != one.account


def refused(tokens: Tokens, credential: str) -> str:
    with pytest.raises(Unauthenticated) as caught:
        tokens.account(credential)
    return str(caught.value)


def test_what_is_wrong_is_refused_with_one_sentence() -> None:
    """A wrong preimage, another's preimage, another root key, an id that nobody has, another hash, place or version: one and the same."""
    token, other = token_of(1), token_of(2)
    tokens = register(token, other)
    stranger = replace(token, root_key=bytes(32))
    unknown = replace(token, id=bytes(32))
    zeros = AccountToken(id=bytes(32), account="", payment_hash=bytes(32), root_key=bytes(32), created_unix_nano=0)
    swapped = replace(token, payment_hash=other.payment_hash)
    version = macaroons.mint(token.root_key, b"\x00\x01" + token.payment_hash + token.id, location="spantoll")
    place = macaroons.mint(token.root_key, b"\x00\x00" + token.payment_hash + token.id, location="elsewhere")
    longer = macaroons.mint(token.root_key, b"\x00\x00" + b"x" + token.payment_hash + token.id, location="spantoll")
    sentences = {
        refused(tokens, credential)
        for credential in (
            header(written(token), 2),
            header(written(token), 3),
            header(written(stranger), 1),
            header(written(unknown), 1),
            header(written(zeros), 1),
            header(written(swapped), 2),
            header(written(swapped), 1),
            header(version.encode(), 1),
            header(place.encode(), 1),
            header(longer.encode(), 1),
        )
    }
    assert len(sentences) == 1
    assert "not known here" in sentences.pop()


def test_what_is_wrong_costs_what_is_right_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    """One chain of HMACs and two comparisons of digests, whether or not the token is known and whatever is wrong with it."""
    token = token_of(1)
    tokens = register(token)
    acts: list[tuple[str, int]] = []
    verify, compare = macaroons.verify, hmac.compare_digest

    def verified(found: Macaroon, root_key: bytes) -> bool:
        acts.append(("chain", len(root_key)))
        return verify(found, root_key)

    def compared(one: bytes, other: bytes) -> bool:
        acts.append(("digests", len(other)))
        return compare(one, other)

    monkeypatch.setattr(macaroons, "verify", verified)
    monkeypatch.setattr(hmac, "compare_digest", compared)
    assert tokens.account(header(written(token), 1)) == token.account
    right = list(acts)
    assert len(right) == 4
    for each, number in ((replace(token, id=bytes(32)), 1), (replace(token, root_key=bytes(32)), 1), (token, 2), (token_of(3), 3)):
        acts.clear()
        refused(tokens, header(written(each), number))
        assert acts == right


def test_what_is_no_credential_says_how_one_looks() -> None:
    """Nothing of what was sent is repeated but the caveat that is not known."""
    token = token_of(1)
    tokens = register(token)
    text = written(token)
    for credential in (
        "L402 ",
        f"L402 {text}",
        f"L402 {text}:",
        f"L402 :{preimage_of(1).hex()}",
        f"L402 {text}:{preimage_of(1).hex()[:-2]}",
        f"L402 {text}:{preimage_of(1).hex()}00",
        f"L402 {text},{text}:{preimage_of(1).hex()}",
        f"L402 {text[:-8]}:{preimage_of(1).hex()}",
        f"L402 {'A' * MAX_HEADER}:{preimage_of(1).hex()}",
        f"L402 é:{preimage_of(1).hex()}",
    ):
        sentence = refused(tokens, credential)
        assert text not in sentence
        assert preimage_of(1).hex() not in sentence


def test_a_removed_token_opens_nothing() -> None:
    """Its root key is gone, and with it every token that was narrowed from it; others go on."""
    one, two = token_of(1), token_of(2)
    tokens = register(one, two)
    tokens.remove(one.id)
    refused(tokens, header(written(one), 1))
    refused(tokens, header(narrowed(one, "services=spantoll:0"), 1))
    assert tokens.account(header(written(two), 2)) == two.account


def test_a_replaced_token_ends_with_its_grace() -> None:
    """[created, expires)."""
    clock = ManualClock()
    token = token_of(1, expires_unix_nano=UNIX_NANO + HOUR_NANO)
    tokens = register(token, clock=clock)
    clock.advance(3_599)
    assert tokens.account(header(written(token), 1)) == token.account
    clock.advance(1)
    assert "replaced" in refused(tokens, header(written(token), 1))


# --- paid is what the books say ---------------------------------------------------------------------------------------------------


def test_a_preimage_alone_is_no_payment() -> None:
    """Right in everything, but not credited: asked to come again, and the node is looked at; once it cannot be paid any more, refused."""
    clock, looked = ManualClock(), list[bytes]()
    token = replace(token_of(1), is_paid=False)
    tokens = register(token, clock=clock)
    tokens.look = looked.append
    refused(tokens, header(written(token), 2))
    assert not looked, "a guess makes nobody look"
    for advance in (0, 1, 3_598, 1):
        clock.advance(advance)
        with pytest.raises(PaymentPending):
            tokens.account(header(written(token), 1))
    assert looked == [token.payment_hash] * 2, "a client that hammers does not make us hammer the node"
    clock.advance(600)
    assert "never paid" in refused(tokens, header(written(token), 1))
    assert tokens.of_account(token.account) == []

    paid = tokens.paid(token.payment_hash)
    assert paid is not None
    assert paid.is_paid
    assert tokens.account(header(written(token), 1)) == token.account, "money that came late is money"
    assert tokens.paid(token.payment_hash) is None
    assert tokens.paid(bytes(32)) is None
    assert tokens.of_account(token.account) == [paid]


def test_unpaid_ones_are_forgotten_in_time_and_paid_ones_never() -> None:
    """What strangers leave behind does not grow for ever."""
    early, late = (replace(token_of(n), is_paid=False, payable_until_unix_nano=UNIX_NANO + n) for n in (1, 2))
    paid = token_of(3)
    tokens = register(early, late, paid)
    assert tokens.unpaid() == [(early.payment_hash, UNIX_NANO + 1), (late.payment_hash, UNIX_NANO + 2)]
    tokens.forget_unpaid(before_unix_nano=UNIX_NANO + 2)
    assert tokens.unpaid() == [(late.payment_hash, UNIX_NANO + 2)]
    assert len(tokens) == 2
    assert tokens.account(header(written(paid), 3)) == paid.account


# --- caveats ----------------------------------------------------------------------------------------------------------------------


def test_a_token_can_be_narrowed_in_time_and_never_widened() -> None:
    """The earliest of several times holds, in whichever order they were added."""
    clock, token = ManualClock(), token_of(1)
    tokens = register(token, clock=clock)
    both = [
        header(narrowed(token, f"spantoll_valid_until={UNIX + a}", f"spantoll_valid_until={UNIX + b}"), 1) for a, b in ((10, 99), (99, 10))
    ]
    for credential in both:
        assert tokens.account(credential) == token.account
    clock.advance(10)
    for credential in both:
        assert "time that has passed" in refused(tokens, credential)
    assert tokens.account(header(written(token), 1)) == token.account


def test_a_token_can_be_narrowed_to_what_it_is_for() -> None:
    """An exporter's that can only send; several caveats allow what all of them do."""
    token = token_of(1)
    tokens = register(token)
    for caveats, may in (
        (("spantoll_capabilities=send",), {SEND}),
        (("spantoll_capabilities=read,topup",), {READ, TOPUP}),
        (("spantoll_capabilities=send,read", "spantoll_capabilities=read,topup"), {READ}),
        (("services=other:0,spantoll:0",), set(CAPABILITIES)),
        ((), set(CAPABILITIES)),
    ):
        credential = header(narrowed(token, *caveats), 1)
        for use in CAPABILITIES:
            if use in may:
                assert tokens.account(credential, use=use) == token.account
            else:
                with pytest.raises(PermissionDenied):
                    tokens.account(credential, use=use)


@pytest.mark.parametrize(
    "caveat",
    [
        "", "=", "spantoll", "other_valid_until=1", "spantoll_valid_until=", "spantoll_valid_until=-1", "spantoll_valid_until=1e12",
        "spantoll_valid_until= 99999999999", "SPANTOLL_VALID_UNTIL=99999999999", "spantoll_valid_until=٣", "spantoll_capabilities=",
        "spantoll_capabilities=send,", "spantoll_capabilities=everything", "services=", "services=spantoll", "services=spantoll:0,",
        "spantoll_body_sha256=00", "\x00",
    ],
)  # fmt: skip
def test_a_caveat_that_is_not_known_is_refused(caveat: str) -> None:
    """Whoever added it meant to narrow the token, so to pass over it would widen it."""
    token = token_of(1)
    credential = header(narrowed(token, f"spantoll_valid_until={UNIX + 60}", caveat), 1)
    assert "not known here" in refused(register(token), credential)


def test_a_token_of_other_services_is_not_ours() -> None:
    """A `services` caveat that leaves us out."""
    token = token_of(1)
    with pytest.raises(PermissionDenied, match="other services"):
        register(token).account(header(narrowed(token, "services=loop:0"), 1))


def test_a_caveat_cannot_be_taken_away_changed_or_moved() -> None:
    """Whoever has a narrowed token has no other."""
    token = token_of(1)
    tokens = register(token)
    found = macaroons.decode(narrowed(token, f"spantoll_valid_until={UNIX + 60}", "spantoll_capabilities=send"))
    first, second = found.caveats
    for caveats in (
        (),
        (first,),
        (second,),
        (second, first),
        (first, b"spantoll_capabilities=read"),
        (b"spantoll_valid_until=9999999999", second),
    ):
        assert "not known here" in refused(tokens, header(replace(found, caveats=caveats).encode(), 1))


# --- beside keys ------------------------------------------------------------------------------------------------------------------


def test_keys_and_tokens_open_side_by_side() -> None:
    """A key stays a key; a token works where no key is asked for, too; a disabled account is refused with either."""
    accounts = Accounts(Credit(), clock=ManualClock())
    token = token_of(1)
    accounts.load([Account(name=token.account, created_unix_nano=1)], [], [token])
    credential = header(written(token), 1)
    assert accounts.account(credential) == token.account
    assert accounts.account(None) == "default"
    accounts.put_key(AccountKey(sha256=digest("spt_one"), account="acme", hint="spt_one", created_unix_nano=1))
    accounts.put(Account(name="acme", created_unix_nano=1))
    assert accounts.account("Bearer spt_one") == "acme"
    assert accounts.account(credential, use=READ) == token.account
    for wrong in (None, f"Bearer {written(token)}:{preimage_of(1).hex()}", "L402", "L402x y:z"):
        with pytest.raises(Unauthenticated):
            accounts.account(wrong)
    accounts.put(Account(name=token.account, created_unix_nano=1, enabled=False))
    with pytest.raises(AccountDisabled):
        accounts.account(credential)


# --- the configuration ------------------------------------------------------------------------------------------------------------


def test_selling_accounts_closes_the_door_to_those_without_one() -> None:
    """A receiver that others reach may be open to whoever has paid; nobody else comes in."""
    reached = ("otlp.grpc.endpoint=0.0.0.0:4317", "otlp.grpc.insecure=true", "lightning.backend=off")
    with pytest.raises(ConfigError, match="anyone there could send"):
        load(None, environ={}, assignments=reached)
    selling = (*reached[:2], "lightning.dev.allow_off_loopback=true", "l402.enabled=true")
    assert load(None, environ={}, assignments=selling).l402.enabled


@pytest.mark.parametrize("key", ["l402.enabled", "lightning.address"])
@pytest.mark.parametrize("missing", ["customer.endpoint=", "lightning.backend=off"])
def test_what_could_not_be_asked_for_is_said(key: str, missing: str) -> None:
    """Both need the customers' listener and a wallet."""
    with pytest.raises(ConfigError, match=f"{key}: has no effect"):
        load(None, environ={}, assignments=(f"{key}=true", missing))
