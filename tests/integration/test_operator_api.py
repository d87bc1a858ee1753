"""How commands reach the books: through the daemon that holds the folder, or by opening it, and never past the lock."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click
import pytest
from aiohttp import web

from receiver import app
from receiver.access.operator_token import OperatorCredentials, ensure_token
from receiver.access.operator_url import write_url
from receiver.access.tls import Tls, TlsFiles
from receiver.cli import operator_api as module
from receiver.cli.operator_api import Failed, OperatorApi, operator_api, segment
from receiver.config import Config, load
from receiver.errors import Conflict
from receiver.store.folder import Folder, FolderInUse
from receiver.web.guard import Guard
from receiver.web.server import Request, Route, WebServer, json_response, response
from tests.integration.test_operator_web import self_signed


def config(folder: Path, *assignments: str) -> Config:
    return load(None, environ={}, assignments=(f"store.directory={folder}", *assignments))


class Served:
    """Answers of a stand-in for the daemon's operator's listener, and the questions that it had."""

    def __init__(self) -> None:
        self.questions: list[tuple[str, str, str]] = []
        self.go_on = asyncio.Event()

    async def echo(self, request: Request) -> web.Response:
        self.questions.append((request.method, request.path, request.header("Authorization")))
        return json_response({"name": request.path_value("name"), "wait": request.query("wait"), "body": await request.json_object()})

    async def refuse(self, _request: Request) -> web.Response:
        raise Conflict("there is one already\x1b[31m")

    async def foreign(self, _request: Request) -> web.Response:
        return response(b"<html>", "text/html")

    async def wait(self, _request: Request) -> web.Response:
        await self.go_on.wait()
        return json_response({"waited": True})

    def server(self, token: str, **options: Any) -> WebServer:
        routes = (
            Route("GET", "/echo/{name}", self.echo, "echo"),
            Route("POST", "/echo/{name}", self.echo, "echo"),
            Route("POST", "/refuse", self.refuse, "refuses"),
            Route("GET", "/foreign", self.foreign, "is none of ours"),
            Route("GET", "/wait", self.wait, "waits"),
        )
        endpoint = "127.0.0.1:0"
        guard = Guard(endpoint=endpoint, credentials=OperatorCredentials(token=token))
        return WebServer(endpoint=endpoint, routes=routes, guard=guard, **options)


@pytest.fixture
def served() -> Served:
    return Served()


@pytest.fixture
async def running(served: Served, tmp_path: Path) -> AsyncIterator[Path]:
    """A data folder that is held, with a listener that its file names."""
    with Folder(tmp_path / "data") as folder:
        server = served.server(ensure_token(folder.directory))
        await server.start()
        write_url(folder.directory, server.bound[0], tls=False)
        yield folder.directory
        await server.stop()


async def ask(folder: Path, act: Callable[[OperatorApi], Any], *assignments: str) -> Any:
    """Run `act` with the API of a folder, in a thread as the command line is none of the daemon's."""

    def run() -> Any:
        with operator_api(config(folder, *assignments)) as api:
            return act(api)

    return await asyncio.to_thread(run)


async def test_a_running_daemon_is_asked(running: Path, served: Served) -> None:
    """With its token, on the port that it has; values of paths and queries arrive as they were."""
    name = "acme/team é?&"
    answer = await ask(running, lambda api: api.call("POST", f"/echo/{segment(name)}", {"a": 1}, {"wait": "1 & 2", "not": None}))
    assert answer == {"name": name, "wait": "1 & 2", "body": {"a": 1}}
    assert served.questions[0][2] == f"Bearer {ensure_token(running)}"
    assert (await ask(running, lambda api: api.call("GET", "/echo/x")))["body"] == {}


async def test_a_refusal_is_the_servers_sentence(running: Path) -> None:
    """As an error of the command line with exit code 1, safe for a terminal; programs find status and word."""
    with pytest.raises(click.ClickException) as refused:
        await ask(running, lambda api: api.call("POST", "/refuse"))
    assert isinstance(refused.value, Failed)
    assert refused.value.exit_code == 1
    assert refused.value.message == "there is one already\\u001b[31m"
    assert (refused.value.status, refused.value.error) == (409, "conflict")
    with pytest.raises(Failed, match="nothing is served"):
        await ask(running, lambda api: api.call("GET", "/nowhere"))


async def test_what_is_no_answer_of_ours_is_said_to_be_none(running: Path) -> None:
    """Another program, a proxy's page."""
    with pytest.raises(Failed, match="none of a Spantoll daemon"):
        await ask(running, lambda api: api.call("GET", "/foreign"))


async def test_a_long_poll_may_take_its_time_and_others_may_not(running: Path, served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon that does not answer is said not to."""
    monkeypatch.setattr(module, "TIMEOUT_SECONDS", 0.05)
    with pytest.raises(Failed, match="does not answer"):
        await ask(running, lambda api: api.call("GET", "/wait"))
    asyncio.get_running_loop().call_later(0.2, served.go_on.set)
    assert await ask(running, lambda api: api.call("GET", "/wait", wait_seconds=60)) == {"waited": True}


async def test_a_daemon_without_a_listener_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It holds the folder, and says nowhere how it is reached; a file that another process left is not believed."""
    monkeypatch.setattr(module, "STARTING_SECONDS", 0.0)
    with Folder(tmp_path) as folder:
        ensure_token(folder.directory)
        (tmp_path / "operator.url").write_text(f"http://127.0.0.1:1\n{os.getpid() + 1}\n")
        with pytest.raises(Failed, match=f"process {os.getpid()}.*operator.endpoint"):
            await ask(tmp_path, lambda api: api.call("GET", "/echo/x"))


async def test_a_daemon_that_is_just_starting_is_waited_for(running: Path) -> None:
    """It holds the lock a moment before it listens."""
    url = running / "operator.url"
    text = url.read_text()
    url.unlink()
    asyncio.get_running_loop().call_later(0.15, url.write_text, text)
    assert (await ask(running, lambda api: api.call("GET", "/echo/x")))["name"] == "x"


async def test_a_token_that_others_can_read_is_not_used(running: Path, served: Served) -> None:
    """The command says what to do, and sends nothing."""
    (running / "operator.token").chmod(0o644)
    with pytest.raises(Failed, match=r"operator\.token"):
        await ask(running, lambda api: api.call("GET", "/echo/x"))
    assert served.questions == []


async def test_a_listener_that_is_gone_is_said_to_be(running: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the look at the lock and the question the daemon may end."""
    monkeypatch.setattr(module, "STARTING_SECONDS", 0.3)
    write_url(running, ("127.0.0.1", 1), tls=False)
    with pytest.raises(Failed, match="does not answer") as refused:
        await ask(running, lambda api: api.call("GET", "/echo/x"))
    assert ensure_token(running) not in str(refused.value)


async def test_tls_is_spoken_and_only_the_daemons_own_certificate_is_believed(served: Served, tmp_path: Path) -> None:
    """Whatever name it is for: it stands in the configuration of both."""
    (tmp_path / "one").mkdir()
    (tmp_path / "other").mkdir()
    certificate, key = self_signed(tmp_path / "one")
    other, other_key = self_signed(tmp_path / "other")
    with Folder(tmp_path / "data") as folder:
        server = served.server(ensure_token(folder.directory), ssl_context=Tls(TlsFiles(certificate, key)).ssl_context)
        await server.start()
        write_url(folder.directory, server.bound[0], tls=True)
        try:
            mine = (f"tls.cert_file={certificate}", f"tls.key_file={key}")
            assert (await ask(folder.directory, lambda api: api.call("GET", "/echo/x"), *mine))["name"] == "x"
            foreign = (f"tls.cert_file={other}", f"tls.key_file={other_key}")
            with pytest.raises(Failed, match="TLS"):
                await ask(folder.directory, lambda api: api.call("GET", "/echo/x"), *foreign)
            assert len(served.questions) == 1
        finally:
            await server.stop()


# --- without a daemon ----------------------------------------------------------------------------------------------------------------


def test_without_a_daemon_the_books_are_opened_and_closed_again(tmp_path: Path) -> None:
    """The same API over the same books, held by this process meanwhile, and nothing left running."""
    before = threading.active_count()
    folder = tmp_path / "data"
    with operator_api(config(folder)) as api:
        made = api.call("POST", "/api/v1/accounts", {"account": "acme"})
        assert made["key"].startswith("spt_")
        with operator_api(config(folder)) as second:
            assert second.url == api.url, "a second command goes through the first"
            assert second.call("GET", "/api/v1/accounts/acme")["account"] == "acme"
    with Folder(folder):
        pass
    with operator_api(config(folder)) as api:
        assert [account["account"] for account in api.call("GET", "/api/v1/accounts")["accounts"]] == ["acme", "default"]
    assert threading.active_count() == before


def test_commands_at_once_all_act(tmp_path: Path) -> None:
    """Eight commands without a daemon: one opens the books, the others ask it, and go on by themselves when it has ended."""
    folder = tmp_path / "data"

    def command(number: int) -> None:
        for turn in range(3):
            with operator_api(config(folder)) as api:
                api.call("POST", "/api/v1/accounts", {"account": f"account-{number}-{turn}"})

    with ThreadPoolExecutor(8) as commands:
        list(commands.map(command, range(8)))
    with operator_api(config(folder)) as api:
        assert len(api.call("GET", "/api/v1/accounts")["accounts"]) == 1 + 8 * 3


def test_a_command_outlives_the_one_whose_books_it_asked(tmp_path: Path) -> None:
    """Where nobody listens any more nothing was heard, so it is asked again where somebody does."""
    folder = tmp_path / "data"
    with ExitStack() as first:
        opener = first.enter_context(operator_api(config(folder)))
        with operator_api(config(folder)) as second:
            assert second.url == opener.url
            first.close()
            assert second.call("POST", "/api/v1/accounts", {"account": "acme"})["account"] == "acme"
            assert second.url != opener.url
    with Folder(folder):
        pass


async def test_a_daemon_waits_for_a_command_and_not_for_a_daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A look at the lock takes a moment, in which a daemon that starts must not give up; one that stays is named."""
    settled = config(tmp_path)
    with Folder(tmp_path) as command:
        asyncio.get_running_loop().call_later(0.1, command.close)
        async with app._held(settled) as mine:
            assert mine.directory == tmp_path
            monkeypatch.setattr(app, "COMMAND_SECONDS", 0.1)
            with pytest.raises(FolderInUse, match=str(os.getpid())):
                async with app._held(settled):
                    pytest.fail("two have the folder")


def test_a_stale_file_sends_the_token_nowhere(tmp_path: Path) -> None:
    """After a crash somebody else may listen there; without the lock the file is not even read."""
    write_url(tmp_path, ("127.0.0.1", 1), tls=False)
    with operator_api(config(tmp_path)) as api:
        assert not api.url.endswith(":1")
        assert api.call("GET", "/api/v1/accounts")["key_required"] is False


def test_a_fault_inside_is_not_swallowed_and_the_books_are_closed(tmp_path: Path) -> None:
    """Whatever ends the command, Ctrl-C too, the lock is given back."""
    for fault in (Failed("no"), KeyboardInterrupt(), ValueError("bug")):
        with pytest.raises(type(fault)), operator_api(config(tmp_path)):
            raise fault
        with Folder(tmp_path):
            pass


def test_a_folder_that_cannot_be_used_is_one_sentence(tmp_path: Path) -> None:
    """A file in its place, or books that are none."""
    (tmp_path / "file").write_text("x")
    with pytest.raises(Failed, match=r"store\.directory"), operator_api(config(tmp_path / "file")):
        pytest.fail("it was opened")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "spantoll.db").write_bytes(b"no database at all" * 1_000)
    with pytest.raises(Failed), operator_api(config(tmp_path / "data")):
        pytest.fail("it was opened")
    with Folder(tmp_path / "data"):
        pass
