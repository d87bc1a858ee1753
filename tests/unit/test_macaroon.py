"""What a macaroon may do is read from the macaroon: the rights, what is beyond receiving, what is missing, and what is no macaroon."""

from __future__ import annotations

import base64
import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receiver.lightning.credential import Credential, CredentialRefused
from receiver.lightning.macaroon import BAKE, NEEDED, NoMacaroon, rights
from tests.fake_nodes import NEEDED as BAKED
from tests.fake_nodes import bake

#: As LND 0.21.2 bakes them into its files.
ADMIN = [
    *(
        (entity, action)
        for entity in ("address", "info", "invoices", "message", "offchain", "onchain", "peers")
        for action in ("read", "write")
    ),
    *(("macaroon", action) for action in ("generate", "read", "write")),
    *(("signer", action) for action in ("generate", "read")),
]
INVOICE = [("address", "read"), ("address", "write"), ("invoices", "read"), ("invoices", "write"), ("onchain", "read")]
READONLY = [(entity, "read") for entity in ("address", "info", "invoices", "macaroon", "message", "offchain", "onchain", "peers", "signer")]
#: A macaroon that a real node baked, for the methods of NEEDED and two more; its root key is gone with its node.
REAL = bytes.fromhex(
    "0201036c6e6402d901030a106200d08f583fb95702ab698d03fe1cc31201301ac0010a03757269121b2f6c6e7270632e4c696768746e69"
    "6e672f416464496e766f696365121f2f6c6e7270632e4c696768746e696e672f4368616e6e656c42616c616e636512182f6c6e7270632e"
    "4c696768746e696e672f476574496e666f121d2f6c6e7270632e4c696768746e696e672f4c697374496e766f69636573121e2f6c6e7270"
    "632e4c696768746e696e672f4c6f6f6b7570496e766f69636512222f6c6e7270632e4c696768746e696e672f537562736372696265496e"
    "766f6963657300000620c921c19bf15dcb756c30c7669ebf6178df1a2421ce3f4c03b2d6a1dec3cf8200"
)


def test_a_real_macaroon_is_read() -> None:
    """The bytes that LND itself wrote."""
    found = rights(REAL)
    assert found.allowed == {*NEEDED, "uri:/lnrpc.Lightning/ListInvoices", "uri:/lnrpc.Lightning/ChannelBalance"}
    assert (found.beyond_receiving, found.missing, found.sees_balance) == ([], [], True)
    assert found.unneeded == ["uri:/lnrpc.Lightning/ListInvoices"]


def test_what_each_of_lnds_own_files_may() -> None:
    """`admin.macaroon` can pay; `invoice.macaroon` cannot, but may not say who the node is; read-only makes no invoices."""
    admin, invoice, readonly = (rights(bake(*each)) for each in (ADMIN, INVOICE, READONLY))
    assert {"offchain:write", "onchain:write", "macaroon:generate", "signer:generate"} <= set(admin.beyond_receiving)
    assert admin.missing == []
    assert (invoice.beyond_receiving, invoice.missing) == ([], ["uri:/lnrpc.Lightning/GetInfo"])
    assert readonly.missing == ["uri:/lnrpc.Lightning/AddInvoice"]


@pytest.mark.parametrize(
    "right",
    [
        "uri:/lnrpc.Lightning/SendPaymentSync",
        "uri:/routerrpc.Router/SendPaymentV2",
        "uri:/lnrpc.Lightning/SendCoins",
        "uri:/lnrpc.Lightning/BakeMacaroon",
        "uri:/lnrpc.Lightning/OpenChannelSync",
        "uri:/some.Later/Call",
        "offchain:write",
        "onchain:write",
        "macaroon:generate",
        "signer:generate",
        "new:thing",
    ],
)
def test_every_right_that_is_not_known_to_be_harmless_is_beyond_receiving(right: str) -> None:
    """A call that a later LND adds is refused until somebody knows what it does."""
    entity, _, action = right.partition(":")
    assert rights(bake(*BAKED, (entity, action))).beyond_receiving == [right]


def test_wide_rights_serve_as_well_as_single_calls() -> None:
    """`invoices:read invoices:write info:read offchain:read`, as guides recommend, is enough and cannot pay."""
    found = rights(bake(("invoices", "read"), ("invoices", "write"), ("info", "read"), ("offchain", "read")))
    assert (found.missing, found.beyond_receiving, found.unneeded, found.sees_balance) == ([], [], [], True)


def test_conditions_are_shown() -> None:
    """A macaroon that ends, or holds for one address only, says so; what it may do is not less visible for that."""
    found = rights(bake(*BAKED, caveats=("time-before 2027-01-01T00:00:00Z", "ipaddr 10.0.0.1")))
    assert found.caveats == ("time-before 2027-01-01T00:00:00Z", "ipaddr 10.0.0.1")
    assert found.missing == []


def test_the_command_bakes_what_is_needed() -> None:
    """Every needed call stands in it by its name, and none that could pay."""
    calls = BAKE.split()[4:]
    entity_action = [tuple(call.split(":", 1)) for call in calls]
    found = rights(bake(*entity_action))  # type: ignore[arg-type] -- pairs
    assert (found.missing, found.beyond_receiving, found.unneeded, found.sees_balance) == ([], [], [], True)


def test_a_macaroon_that_was_cut_is_none() -> None:
    """A file that was copied in part is refused as such, wherever it ends."""
    for cut in range(len(REAL)):
        with pytest.raises(NoMacaroon):
            rights(REAL[:cut])


@given(st.binary(max_size=400))
def test_noise_is_no_macaroon(noise: bytes) -> None:
    """Whatever stands in the file, it is refused or read, and never anything else."""
    for text in (noise, b"\x02" + noise, REAL[:30] + noise):
        with contextlib.suppress(NoMacaroon):
            assert isinstance(rights(text).allowed, frozenset)


@pytest.mark.parametrize("text", [b"MDAxM2xvY2F0aW9uIGxuZAo=", base64.b64encode(REAL), b"{}", b"\x01" + REAL[1:], REAL + b"x"])
def test_other_forms_are_none(text: bytes) -> None:
    """Version 1, base64, JSON, another version, something after its end: LND takes none of them."""
    with pytest.raises(NoMacaroon):
        rights(text)


# Where a secret is kept


def test_a_credential_comes_from_a_file_or_the_environment(tmp_path: Path) -> None:
    """White space around text goes, bytes stay as they are; `repr` shows where it is and never what it is."""
    file = tmp_path / "secret"
    for written, read in ((b" text\n", b"text"), (b"\x02\n \n", b"\x02\n \n")):
        file.write_bytes(written)
        assert Credential(file=str(file)).read() == read
    kept = Credential(env="NODE_KEY", environ={"NODE_KEY": "canary\n"})
    assert kept.read() == b"canary"
    assert "canary" not in repr(kept) + repr(vars(Credential(file=str(file))))
    assert "NODE_KEY" in repr(kept)


def test_a_credential_that_is_not_there_says_where_it_should_be(tmp_path: Path) -> None:
    """An empty variable, an empty file, none, a folder, and a file that is far too large."""
    (tmp_path / "empty").write_bytes(b"\n")
    (tmp_path / "large").write_bytes(b"x" * 20_000)
    for file in ("empty", "large", "none", "."):
        with pytest.raises(CredentialRefused, match=str(tmp_path)):
            Credential(file=str(tmp_path / file)).read()
    with pytest.raises(CredentialRefused, match="NODE_KEY"):
        Credential(env="NODE_KEY", environ={}).read()
