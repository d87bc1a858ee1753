"""From `[lightning]` to a node: contradictions said at once, a wallet that can pay refused, and `spantoll lightning check`."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from aiohttp import web
from click.testing import CliRunner, Result

from receiver.cli.lightning import lightning as verb
from receiver.config import ConfigError, Lightning, LightningLnbits, LightningLnd, load
from receiver.lightning.backends import open_client
from receiver.lightning.dev import MemoryShelf
from receiver.lightning.lnbits import LnbitsClient
from receiver.lightning.lnd import LndClient
from receiver.lightning.macaroon import BAKE
from tests.fake_nodes import ADMIN_KEY, KEY, NEEDED, PAYEE, FakeLnbits, FakeLnd, bake, served
from tests.fakes import ManualClock


def problems(*assignments: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(None, environ={}, assignments=assignments)
    return caught.value.problems


# The configuration


@pytest.mark.parametrize(("backend", "secret"), [("lnd", "macaroon"), ("lnbits", "key")])
def test_a_node_needs_an_address_and_one_credential(backend: str, secret: str, tmp_path: Path) -> None:
    """Each thing that lacks is named by its key; a file and a variable at once leave open which one counts."""
    chosen, at = f"lightning.backend={backend}", f"lightning.{backend}"
    lacking = problems(chosen)
    assert [problem.partition(":")[0] for problem in lacking] == [f"{at}.{secret}_file, {at}.{secret}_env", f"{at}.url"]
    (tmp_path / "f").write_text("x")
    both = problems(chosen, f"{at}.url=https://node:8080", f"{at}.{secret}_file={tmp_path / 'f'}", f"{at}.{secret}_env=NODE")
    assert len(both) == 1
    assert "both are set" in both[0]


@pytest.mark.parametrize(("backend", "secret"), [("lnd", "macaroon"), ("lnbits", "key")])
def test_a_credential_does_not_travel_readably(backend: str, secret: str, tmp_path: Path) -> None:
    """Plain text is for this machine only; a user name and password in the address are no address."""
    chosen, at = (f"lightning.backend={backend}", f"lightning.{backend}.{secret}_env=NODE"), f"lightning.{backend}"
    assert "plain text" in problems(*chosen, f"{at}.url=http://node.lan:8080")[0]
    for url in ("https://me:secret@node", "node:8080", "ftp://node", "https://node/?key=1"):
        assert f"{at}.url" in problems(*chosen, f"{at}.url={url}")[0]
    for url in ("http://127.0.0.1:8080", "http://[::1]:8080", "http://localhost:8080/", "https://node.lan/lnd"):
        assert load(None, environ={}, assignments=(*chosen, f"{at}.url={url}")).lightning.backend == backend
    (tmp_path / "c").write_text("x")
    assert "has no effect" in problems(*chosen, f"{at}.url=http://localhost:1", f"{at}.cert_file={tmp_path / 'c'}")[0]


def test_the_sections_of_other_wallets_do_not_matter() -> None:
    """Half a section for LND is nobody's business while the dev wallet is used."""
    assert load(None, environ={}, assignments=("lightning.lnd.url=https://node:8080",)).lightning.backend == "dev"


def test_the_readme_shows_the_command_and_a_section_that_are_right(tmp_path: Path) -> None:
    """The macaroon is baked by the README's line as by that of `lightning check`, and its configuration names keys that exist."""
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    assert BAKE in readme.replace(" \\\n  ", " ")
    (toml,) = [block for block in re.findall(r"```toml\n(.*?)```", readme, re.DOTALL) if "[lightning.lnd]" in block]
    for key in ("cert_file", "macaroon_file"):
        (tmp_path / key).write_text("x")
        toml = re.sub(rf'{key} = "[^"]*"', f'{key} = "{tmp_path / key}"', toml)
    (tmp_path / "spantoll.toml").write_text(toml)
    assert load(tmp_path / "spantoll.toml", environ={}).lightning.lnd.url == "https://localhost:8080"


# Opening


async def opened(lightning: Lightning) -> object:
    client = await open_client(lightning, shelf=MemoryShelf(), clock=ManualClock())
    if client is not None:
        await client.close()
    return client


async def test_each_backend_is_opened_by_its_name(tmp_path: Path) -> None:
    """Without asking a node, so that one which is down does not keep the daemon from starting."""
    file = tmp_path / "m"
    file.write_bytes(bake(*NEEDED))
    lnd = LightningLnd(url="https://127.0.0.1:9", macaroon_file=str(file))
    assert isinstance(await opened(Lightning(backend="lnd", lnd=lnd)), LndClient)
    lnbits = LightningLnbits(url="https://127.0.0.1:9", key_env="NOT_SET")
    assert isinstance(await opened(Lightning(backend="lnbits", lnbits=lnbits)), LnbitsClient)
    assert await opened(Lightning(backend="off")) is None


@pytest.mark.parametrize("macaroon", [bake(*NEEDED, ("offchain", "write")), b"nonsense", b"", bake(("info", "read"))])
async def test_a_wrong_macaroon_ends_the_start(macaroon: bytes, tmp_path: Path) -> None:
    """That it could pay is known without asking, and is a mistake of the configuration, told by the key's name."""
    file = tmp_path / "m"
    file.write_bytes(macaroon)
    with pytest.raises(ConfigError, match=r"lightning\.lnd\.macaroon_file"):
        await opened(Lightning(backend="lnd", lnd=LightningLnd(url="https://127.0.0.1:9", macaroon_file=str(file))))


# `spantoll lightning check`


@contextmanager
def running(app: web.Application) -> Iterator[str]:
    """The address of `app`, served by a thread of its own: the verb under test runs a loop itself."""
    ready, urls, stops = threading.Event(), list[str](), list[Callable[[], None]]()

    async def serve() -> None:
        loop, stop = asyncio.get_running_loop(), asyncio.Event()
        async with served(app) as url:
            urls.append(url)
            stops.append(lambda: loop.call_soon_threadsafe(stop.set) and None)
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        assert ready.wait(10)
        yield urls[0]
    finally:
        stops[0]()
        thread.join(10)


def check(*assignments: str) -> Result:
    arguments = [argument for each in assignments for argument in ("--set", each)]
    return CliRunner().invoke(verb, ["check", "--format", "table", *arguments], env={"SPANTOLL_CONFIG": None})


def checked_lnd(fake: FakeLnd, folder: Path, *assignments: str) -> Result:
    (folder / "m").write_bytes(fake.macaroon)
    with running(fake.app()) as url:
        lnd = (
            "lightning.backend=lnd",
            "lightning.network=regtest",
            f"lightning.lnd.url={url}",
            f"lightning.lnd.macaroon_file={folder / 'm'}",
        )
        return check(*lnd, *assignments)


def test_a_node_that_is_well(tmp_path: Path) -> None:
    """Who it is, that it cannot pay, that its stream is heard, and how much it can receive."""
    result = checked_lnd(FakeLnd(macaroon=bake(*NEEDED, ("offchain", "read"))), tmp_path)
    assert result.exit_code == 0, result.output
    for words in ("cannot pay", PAYEE, "regtest", "LND 0.21.2-beta", "can be heard", "5,000.123 sat"):
        assert words in result.output
    assert "WRONG" not in result.output


def test_what_could_be_better_is_no_fault(tmp_path: Path) -> None:
    """Rights that nobody needs, conditions, and a balance that may not be seen are notes; top-ups work."""
    result = checked_lnd(FakeLnd(macaroon=bake(*NEEDED, ("onchain", "read"), caveats=("time-before 2027-01-01T00:00:00Z",))), tmp_path)
    assert result.exit_code == 0, result.output
    for words in ("onchain:read", "time-before 2027-01-01", "may not call ChannelBalance", BAKE):
        assert words in result.output


@pytest.mark.parametrize(
    ("fake", "words", "mends"),
    [
        (FakeLnd(macaroon=bake(*NEEDED, ("offchain", "write"))), "offchain:write", BAKE),
        (FakeLnd(macaroon=bake(("invoices", "read"), ("invoices", "write"))), "may not call uri:/lnrpc.Lightning/GetInfo", BAKE),
        (FakeLnd(network="testnet"), "on testnet, and lightning.network is regtest", ""),
        (FakeLnd(synced=False), "does not follow the chain", ""),
        (FakeLnd(refusal=(500, {"code": 2, "message": "wallet locked, unlock it"})), "wallet locked", ""),
        (FakeLnd(refusal=(500, {"code": 2, "message": "verification failed"})), "does not take the macaroon", BAKE),
    ],
)
def test_a_node_that_cannot_receive(fake: FakeLnd, words: str, mends: str, tmp_path: Path) -> None:
    """Each fault is said once, in words, with what mends it, and the status is 1; the credential is not shown."""
    result = checked_lnd(fake, tmp_path)
    assert result.exit_code == 1, result.output
    assert result.output.count(words) == 1, result.output
    assert mends in result.output
    assert fake.macaroon.hex() not in result.output


def test_a_node_without_room_to_receive(tmp_path: Path) -> None:
    """Less than the smallest top-up on the other side of its channels is a fault."""
    fake = FakeLnd(macaroon=bake(*NEEDED, ("offchain", "read")))
    result = checked_lnd(fake, tmp_path, "lightning.topup_min_sat=6000")
    assert result.exit_code == 1
    assert "less than the smallest top-up (6,000 sat)" in result.output


@pytest.mark.parametrize(("key", "status", "words"), [(KEY, 0, "'shop'"), (ADMIN_KEY, 1, "admin key"), ("0" * 32, 1, "Wallet not found")])
def test_an_lnbits_wallet(key: str, status: int, words: str, tmp_path: Path) -> None:
    """The invoice key opens it, the admin key is refused by name, a stranger's key opens nothing."""
    (tmp_path / "k").write_text(key)
    with running(FakeLnbits().app()) as url:
        lnbits = (f"lightning.lnbits.url={url}", f"lightning.lnbits.key_file={tmp_path / 'k'}")
        result = check("lightning.backend=lnbits", "lightning.network=regtest", *lnbits)
    assert result.exit_code == status, result.output
    assert words in result.output
    assert key not in result.output


def test_without_a_node_it_says_so() -> None:
    """The dev wallet is told for what it is; "off" is a choice; as JSON for programs."""
    assert "no money" in check().output
    result = CliRunner().invoke(verb, ["check", "--format", "json", "--set", "lightning.backend=off"], env={"SPANTOLL_CONFIG": None})
    assert result.exit_code == 0
    assert json.loads(result.output)["findings"][0]["grade"] == "note"
