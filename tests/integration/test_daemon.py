"""The composition root in this process: when it is ready, what it says when a part of it fails, and that nothing is left behind."""

from __future__ import annotations

import asyncio
import gc
import json
import sys
from pathlib import Path

import aiohttp
import pytest

from receiver import app
from receiver.app import Daemon
from receiver.config import Config, load
from receiver.errors import Overloaded
from receiver.otlp.listen import CannotListen
from tests.exports import CALL_PUSD, agent, export, model_call
from tests.fakes import ManualClock
from tests.integration.wire_helpers import grpc_call, http_call

FREE = tuple(f"{name}.endpoint=127.0.0.1:0" for name in ("otlp.grpc", "otlp.http", "operator", "customer"))
TOKEN = "spo_test"


def config(*assignments: str) -> Config:
    return load(None, environ={}, assignments=(*FREE, *assignments))


async def ask(port: int, method: str, path: str) -> tuple[int, dict[str, object]]:
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {TOKEN}"}  # aiohttp would name a type of its own for no body
    async with aiohttp.ClientSession(headers=headers) as session, session.request(method, f"http://127.0.0.1:{port}{path}") as answer:
        return answer.status, await answer.json()


async def test_it_is_ready_only_while_it_takes_exports() -> None:
    """Not before everything listens, and not from the moment on at which it begins to stop."""
    daemon = Daemon(config())
    assert daemon.ready() == (False, "exports are refused just now: starting")
    with pytest.raises(Overloaded):
        daemon.intake.admit(None, transport="grpc")
    async with daemon.serving() as ports:
        assert daemon.ready() == (True, "")
        assert (await ask(ports["operator"], "GET", "/-/ready"))[0] == 200
    assert daemon.ready() == (False, "exports are refused just now: shutdown")
    with pytest.raises(Overloaded):
        daemon.intake.admit(None, transport="grpc")


async def test_a_listener_that_answers_before_the_others_says_that_it_is_starting() -> None:
    """The operator's listener is up first; an export that comes so early is asked for again, on either transport."""
    daemon = Daemon(config())
    async with daemon.serving() as ports:
        daemon.intake.refusal = "starting"  # as it is until all listen
        status, answer = await ask(ports["operator"], "GET", "/-/ready")
        assert (status, answer["message"]) == (503, "exports are refused just now: starting")
        assert (await http_call(ports["otlp.http"], export(model_call(1, 1)))).code == 503
        refused = await grpc_call(ports["otlp.grpc"], export(model_call(1, 1)))
        assert (refused.code, refused.detail) != (0, None)
        assert refused.retry_info is not None


async def test_both_transports_reach_the_same_books() -> None:
    """The same spans over gRPC and HTTP count once."""
    daemon = Daemon(config(), clock=ManualClock(), operator_token=TOKEN)
    body = export(agent(1, 1), model_call(1, 2, parent=1))
    async with daemon.serving() as ports:
        assert (await grpc_call(ports["otlp.grpc"], body)).code == 0
        assert (await http_call(ports["otlp.http"], body)).code == 200
        assert (await ask(ports["operator"], "POST", "/-/release"))[1] == {"released_traces": 1}
    assert daemon.metrics.exact("cost_usd") == CALL_PUSD
    assert daemon.metrics.exact("receiver_duplicate_spans") == 2


async def test_a_release_that_fails_is_503_and_is_made_good(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Never 500: the operator hears that it is tried again, and it is."""
    daemon = Daemon(config(), operator_token=TOKEN)
    inner = daemon.journal.close
    faults = [OSError("no space left on device")]

    async def close(closes: object) -> None:
        if faults:
            raise faults.pop()
        await inner(closes)  # type: ignore[arg-type]  # as it came

    monkeypatch.setattr(type(daemon.journal), "close", lambda _self, closes: close(closes))
    async with daemon.serving() as ports:
        assert (await http_call(ports["otlp.http"], export(agent(1, 1), model_call(1, 2, parent=1)))).code == 200
        status, answer = await ask(ports["operator"], "POST", "/-/release")
        assert (status, answer["error"]) == (503, "internal")
        assert (await ask(ports["operator"], "POST", "/-/release"))[0] == 200
    assert daemon.metrics.exact("cost_usd") == CALL_PUSD
    assert [record for record in caplog.records if record.exc_info], "the log has the cause"


async def test_open_traces_stay_open_on_the_way_out_unless_asked_for() -> None:
    """`shutdown.release` is a choice: closing early loses names, not costs."""
    for release in (False, True):
        daemon = Daemon(config(f"shutdown.release={json.dumps(release)}"))
        async with daemon.serving() as ports:
            assert (await http_call(ports["otlp.http"], export(agent(1, 1), model_call(1, 2, parent=1)))).code == 200
        assert daemon.metrics.exact("cost_usd") == (CALL_PUSD if release else 0)
        assert daemon.window.traces == (0 if release else 1)


async def test_a_release_that_fails_on_the_way_out_does_not_stop_the_stopping(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is said, and every listener is closed."""
    daemon = Daemon(config("shutdown.release=true"))

    async def close(_self: object, _closes: object) -> None:
        raise OSError("an error of the disk")

    monkeypatch.setattr(type(daemon.journal), "close", close)
    async with daemon.serving() as ports:
        assert (await http_call(ports["otlp.http"], export(agent(1, 1), model_call(1, 2, parent=1)))).code == 200
    assert any("could not be closed on the way out" in record.message for record in caplog.records)
    with pytest.raises(OSError):
        await asyncio.open_connection("127.0.0.1", ports["operator"])


async def test_a_port_that_is_taken_leaves_no_listener_behind() -> None:
    """What had begun before it is stopped again, and the error is one sentence, not a group of exceptions."""
    first = Daemon(config())
    async with first.serving() as ports:
        taken = f"otlp.grpc.endpoint=127.0.0.1:{ports['otlp.grpc']}"
        second = Daemon(load(None, environ={}, assignments=(*FREE[1:], taken)))
        with pytest.raises(CannotListen, match=r"otlp\.grpc\.endpoint: cannot listen on"):
            async with second.serving():
                pass
        assert (await http_call(ports["otlp.http"], export(model_call(1, 1)))).code == 200


def test_a_part_that_fails_ends_the_daemon_with_its_cause_in_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A fault of ours in a task that should live for ever: exit code 1 and a line, no half-dead process."""

    async def dies(_self: Daemon) -> None:
        raise ZeroDivisionError("a bug of ours")

    monkeypatch.setattr(Daemon, "_watch_stalls", dies)
    thresholds, interval = gc.get_threshold(), sys.getswitchinterval()
    try:
        assert app.run(config(f"store.directory={json.dumps(str(tmp_path))}")) == 1
        assert gc.get_threshold() == app.GARBAGE_THRESHOLDS, "the collector must not walk all open spans every few seconds"
        assert gc.get_freeze_count() > 0
    finally:  # these are of the whole process
        gc.set_threshold(*thresholds)
        gc.unfreeze()
        sys.setswitchinterval(interval)
    [record] = [record for record in caplog.records if record.levelname == "ERROR"]
    assert record.exc_info is not None
    assert "a part of the daemon failed" in record.message
