"""`GET /api/v1/overview`: equal to what it sums up, bounded whatever there is, and asked often without harm."""

from __future__ import annotations

import json
from pathlib import Path

from receiver.core.credit import format_sat
from receiver.core.span import Source
from receiver.web.overview import FRESH_SECONDS, LISTED
from tests.exports import CALL_PUSD, agent, export, model_call
from tests.fakes import ManualClock
from tests.integration.test_daemon_credit import ask, house, serving
from tests.integration.wire_helpers import http_call


async def test_it_says_what_the_metrics_the_window_and_the_books_say(tmp_path: Path) -> None:
    """Counted and provisional cost, calls without a price and without usage, the account, the wallet, the audit."""
    clock = ManualClock()
    async with serving(tmp_path, "credit.enforce=true", "credit.start_balance_msat=1000", clock=clock) as (daemon, ports):
        body = export(agent(1, 1), model_call(1, 2, parent=1), model_call(1, 3, parent=1, model="no-such-model"))
        assert (await http_call(ports["otlp.http"], body)).code == 200
        await ask(ports["operator"], "POST", "/-/release", {})
        silent = model_call(2, 2, parent=1)
        kept = [each for each in silent.attributes if not each.key.startswith("gen_ai.usage")]
        del silent.attributes[:]
        silent.attributes.extend(kept)
        assert (await http_call(ports["otlp.http"], export(agent(2, 1), silent, service="chat"))).code == 200
        await ask(ports["operator"], "POST", "/-/release", {})
        assert (await http_call(ports["otlp.http"], export(model_call(3, 1, parent=9)))).code == 200
        clock.advance(2)  # one request is no pace until a second has passed
        _, found = await ask(ports["operator"], "GET", "/api/v1/overview")
        _, window = await ask(ports["operator"], "GET", "/-/window")
        assert daemon.metrics.exact("cost_usd") == CALL_PUSD
    assert (found["ready"], found["reason"]) == (True, "")
    assert (found["calls"], found["cost_pusd"], found["cost_usd"]) == (2, CALL_PUSD, "0.0075")
    assert found["spans"] == {"accepted": 6, "duplicate": 0, "late": 0, "refused": 0, "rejected": 0}
    assert (found["open"]["traces"], found["open"]["spans"], found["open"]["provisional_pusd"]) == (1, 1, CALL_PUSD)
    assert found["open"]["rows"][0]["provisional_usd"] == "0.0075"
    assert [row["trace_id"] for row in window["traces"]] == [row["trace_id"] for row in found["open"]["rows"]]
    assert {(row["model"], row["reason"], row["calls"], row["tokens"]) for row in found["unpriced"]["rows"]} == {
        ("no-such-model", "unknown_model", 1, 1_500),
        ("gpt-4o", "no_usage", 1, 0),
    }
    assert (found["unpriced"]["total"], found["unpriced"]["calls"]) == (2, 2)
    [chat, app] = found["sources"]["rows"]
    assert (chat["service"], chat["lacks"]) == ("chat", {"model_calls": 0, "usage": 1, "cache_evidence": 0})
    assert (app["service"], app["spans"], app["calls"], app["lacks"]["usage"]) == ("app", 4, 2, 0)
    assert found["sources"]["lacking"] == 1
    [account] = found["accounts"]["rows"]
    assert (account["account"], account["balance_msat"], account["spans_left"]) == ("default", 1000 - 6 * 10, 94)
    assert account["balance_sat"] == format_sat(940)
    assert account["runway_seconds"] > 0
    assert (found["lightning"]["backend"], found["lightning"]["play_money"]) == ("dev", True)
    assert found["books"]["balanced"] is True


async def test_it_is_bounded(tmp_path: Path) -> None:
    """With thousands of everything: LISTED rows each, the ones that want attention first, beside the true numbers; a few KB in all."""
    async with house(tmp_path, "credit.enforce=true") as daemon:
        for number in range(3_000):
            source = Source(resource={"service.name": f"service-{number}"}, scope="scope", scope_version="1")
            daemon._sources.spans("default", source, 1 + number % 7, unix_nano=1)
            daemon.metrics._unpriced.row(("default", f"model-{number}", "no_rate"), now_unix_nano=1)[0] += number
        daemon._sources._lines["default", "service-77", "scope", "1"].calls_without_usage = 5
        found = await daemon.overview()
    for name in ("sources", "unpriced"):
        assert len(found[name]["rows"]) == LISTED
    assert found["sources"]["total"] == 3_000
    assert found["sources"]["rows"][0]["service"] == "service-77"
    calls = [row["calls"] for row in found["unpriced"]["rows"]]
    assert calls == sorted(calls, reverse=True)
    assert found["unpriced"]["calls"] == sum(range(3_000))
    assert len(json.dumps(found)) < 20_000


async def test_those_that_run_dry_come_first(tmp_path: Path) -> None:
    """An operator of many accounts sees the one that is about to be refused; one that is only metered never is."""
    clock = ManualClock()
    settings = ("credit.enforce=true", "credit.start_balance_msat=1000000")
    async with serving(tmp_path, *settings, clock=clock) as (_, ports):
        keys = {}
        for number in range(LISTED + 5):
            _, made = await ask(ports["operator"], "POST", "/api/v1/accounts", {"account": f"team-{number:02}"})
            keys[number] = made["key"]
        await ask(ports["operator"], "POST", "/api/v1/accounts", {"account": "metered", "enforce": False})
        await ask(ports["operator"], "POST", "/api/v1/accounts/team-29/adjust", {"amount_msat": -1_000_000, "id": "x"})
        assert (await http_call(ports["otlp.http"], export(model_call(1, 1)), key=keys[28])).code == 200
        clock.advance(FRESH_SECONDS)
        _, found = await ask(ports["operator"], "GET", "/api/v1/overview")
    names = [row["account"] for row in found["accounts"]["rows"]]
    assert names[:2] == ["team-29", "team-28"]
    assert len(names) == LISTED
    assert found["accounts"]["total"] == LISTED + 5 + 2
    assert found["accounts"]["rows"][0]["runway_seconds"] == 0


async def test_many_pages_cost_one_look(tmp_path: Path) -> None:
    """Within FRESH_SECONDS the same answer is given again, also to those who ask while it is put together."""
    clock = ManualClock()
    async with house(tmp_path, clock=clock) as daemon:
        first = await daemon.overview()
        assert await daemon.overview() is first
        clock.advance(FRESH_SECONDS)
        assert await daemon.overview() is not first
