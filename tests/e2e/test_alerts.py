"""deploy/prometheus: every rule holds on its stories, names only what the daemon shows, and fires and resolves in a real Prometheus."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import re
import subprocess
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import pytest
from aiohttp import web

from receiver.cli import main
from receiver.config import paths
from receiver.core.window import Trigger
from receiver.metrics.families import FAMILIES, Kind
from receiver.otlp.status import REASONS
from tests.e2e.daemon import PATIENCE_SECONDS, Daemon, daemon, eventually
from tests.e2e.ports import free_port
from tests.e2e.prometheus import DEPLOYED, operator_key, scraping
from tests.exports import agent, export, model_call
from tests.fake_nodes import FakeLnd
from tests.require import need, need_program

pytestmark = pytest.mark.e2e
PROTOBUF = "application/x-protobuf"
#: Reasons that no row of the refusals' table names: Overloaded carries its own.
OVERLOADED = {"memory", "account_spans", "ledger_unavailable", "shutdown", "starting", "internal", "disk_full", "store"}


def rules() -> list[dict[str, Any]]:
    need(importlib.util.find_spec("yaml"), "PyYAML is not installed")
    import yaml

    document = yaml.safe_load((DEPLOYED / "alerts.yml").read_text())
    return [rule for group in document["groups"] for rule in group["rules"]]


# --- the files ---------------------------------------------------------------------------------------------------------------------


def test_promtool_takes_the_configuration_and_the_rules() -> None:
    """Its lint included: no rule twice."""
    promtool = need_program("promtool", "prometheus")
    for words in (["check", "config", "--syntax-only", "prometheus.yml"], ["check", "rules", "--lint-fatal", "alerts.yml"]):
        checked = subprocess.run([promtool, *words], cwd=DEPLOYED, capture_output=True, text=True, timeout=60, check=False)
        assert checked.returncode == 0, checked.stdout + checked.stderr


def test_every_rule_speaks_and_is_silent_as_its_stories_say() -> None:
    """All of them, by promtool."""
    promtool = need_program("promtool", "prometheus")
    tested = subprocess.run([promtool, "test", "rules", "tests.yml"], cwd=DEPLOYED, capture_output=True, text=True, timeout=60, check=False)
    assert tested.returncode == 0, tested.stdout + tested.stderr


def test_no_rule_is_without_a_story() -> None:
    """Each fires in one, so none has an expression that can never be true."""
    stories = (DEPLOYED / "tests.yml").read_text()
    fires = set(re.findall(r'ALERTS\{alertname="(\w+)", alertstate="firing"\}', stories)) | {"CreditLow"}
    assert "exp_labels: {severity: ticket, instance: a, job: spantoll, account: acme}" in stories  # CreditLow's, held with its texts
    assert fires == {rule["alert"] for rule in rules()}


def test_every_rule_says_what_to_do() -> None:
    """A severity of the three, a summary of one line, a description."""
    for rule in rules():
        assert rule["labels"]["severity"] in ("page", "ticket", "info"), rule["alert"]
        assert len(rule["annotations"]["summary"]) < 100, rule["alert"]
        assert len(rule["annotations"]["description"]) > 60, rule["alert"]


def test_rules_name_only_what_the_daemon_shows() -> None:
    """Every metric, label, reason and trigger in an expression is one that there is: a typing error would be silent for ever."""
    names: dict[str, set[str]] = {}
    for family in FAMILIES:
        ends = ("_bucket", "_count", "_sum") if family.kind is Kind.HISTOGRAM else ("",)
        for end in ends:
            names[family.full_name + end] = {*family.labels, "instance", "job", *(["le"] if end == "_bucket" else [])}
    known = {"reason": {*REASONS, *OVERLOADED, "no_usage"}, "trigger": {trigger.value for trigger in Trigger}}
    for rule in rules():
        expr = rule["expr"]
        for metric, _, matchers in re.findall(r"\b(spantoll_\w+)(\{([^}]*)\})?", expr):
            assert metric in names, (rule["alert"], metric)
            for label, values in re.findall(r'(\w+)!?=~?"([^"]*)"', matchers):
                assert label in names[metric], (rule["alert"], metric, label)
                assert label not in known or set(values.split("|")) <= known[label], (rule["alert"], label, values)


def test_rules_send_people_to_verbs_and_settings_that_there_are() -> None:
    """What somebody is told to run at three in the morning runs, and the setting that they look for is in config.toml."""
    settings = {".".join(path) for path in paths()}
    sections = {path[0] for path in paths()}
    for rule in rules():
        text = rule["annotations"]["description"]
        for first, second in re.findall(r"`spantoll ([a-z-]+)(?: ([a-z-]+))?", text):
            verb = main.commands[first]
            assert not isinstance(verb, click.Group) or second in verb.commands, (rule["alert"], first, second)
        for setting in re.findall(r"\b((?:\w+\.)+\w+)\b", text.replace("[[", "").replace("]]", "")):
            assert setting.split(".")[0] not in sections or setting in settings, (rule["alert"], setting)


# --- fired and resolved by a real Prometheus ---------------------------------------------------------------------------------------


def ask(one: Daemon, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
    """A call of the operator's API."""
    request = urllib.request.Request(  # noqa: S310 -- loopback
        one.operator + path,
        method=method,
        data=None if body is None else json.dumps(body).encode(),
        headers={"Authorization": f"Bearer {one.token}", **({} if body is None else {"Content-Type": "application/json"})},
    )
    with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS) as answer:  # noqa: S310 -- loopback
        return json.load(answer)


def test_credit_low_fires_and_a_payment_resolves_it(tmp_path: Path) -> None:
    """An account spends what lasts for minutes; somebody pays an invoice, and the alert is gone. Nothing else fires meanwhile."""
    setting, key = operator_key(tmp_path)
    with (
        daemon(tmp_path, setting, "credit.enforce=true", "credit.start_balance_msat=100000") as one,
        scraping(tmp_path, one, key) as prometheus,
    ):
        eventually(lambda: prometheus.query("up == 1") and prometheus.firing() == {}, what="Prometheus scrapes")
        for trace in range(1, 21):
            assert one.post(export(agent(trace, 1), model_call(trace, 2, parent=1)), PROTOBUF) == (200, b"")
        low = eventually(lambda: prometheus.firing().get("CreditLow"), what="CreditLow fires")
        assert (low["labels"]["account"], low["labels"]["severity"]) == ("default", "ticket")
        assert re.match(r"The credit of default lasts \d", low["annotations"]["summary"])
        assert set(prometheus.firing()) == {"CreditLow"}
        topup = ask(one, "POST", "/api/v1/accounts/default/topups", {"amount_sat": 1_000_000})
        assert ask(one, "POST", "/api/v1/dev/pay", {"invoice": topup["bolt11"]})
        eventually(lambda: prometheus.firing() == {}, what="CreditLow is resolved")


def test_credit_exhausted_fires(tmp_path: Path) -> None:
    """Exports that are refused for want of credit are told of, and no longer once somebody has paid."""
    setting, key = operator_key(tmp_path)
    with (
        daemon(tmp_path, setting, "credit.enforce=true", "credit.start_balance_msat=10") as one,
        scraping(tmp_path, one, key) as prometheus,
    ):
        trace = 0

        def refused_and_told() -> bool:
            nonlocal trace
            trace += 1
            assert one.post(export(agent(trace, 1), model_call(trace, 2, parent=1)), PROTOBUF)[0] == 402
            return "CreditExhausted" in prometheus.firing()

        eventually(refused_and_told, what="CreditExhausted fires")


@contextmanager
def lnd_at(port: int) -> Iterator[None]:
    """A Lightning node on this port, in a thread of its own."""
    loop, runner = asyncio.new_event_loop(), web.AppRunner(FakeLnd().app(), shutdown_timeout=0.1)

    async def start() -> None:
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()

    loop.run_until_complete(start())
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(PATIENCE_SECONDS)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(PATIENCE_SECONDS)
        loop.close()


def test_lightning_down_fires_and_resolves(tmp_path: Path) -> None:
    """The node goes away and comes back; spans are taken all the while."""
    setting, key = operator_key(tmp_path)
    port = free_port()
    macaroon = tmp_path / "receive.macaroon"
    macaroon.write_bytes(FakeLnd().macaroon)
    node = ("lightning.backend=lnd", "lightning.network=regtest", f"lightning.lnd.url=http://127.0.0.1:{port}")
    with daemon(tmp_path, setting, *node, f"lightning.lnd.macaroon_file={macaroon}") as one, scraping(tmp_path, one, key) as prometheus:
        with lnd_at(port):
            eventually(lambda: prometheus.query("spantoll_lightning_up == 1"), what="the node is met")
            eventually(lambda: prometheus.firing() == {}, what="nothing fires while it is there")
        down = eventually(lambda: prometheus.firing().get("LightningDown"), what="LightningDown fires")
        assert down["labels"]["severity"] == "ticket"
        assert one.post(export(agent(1, 1), model_call(1, 2, parent=1)), PROTOBUF) == (200, b"")
        with lnd_at(port):
            eventually(lambda: prometheus.firing() == {}, what="LightningDown is resolved")


def test_spantoll_down_fires(tmp_path: Path) -> None:
    """The daemon is killed, and Prometheus says so."""
    setting, key = operator_key(tmp_path)
    with daemon(tmp_path, setting) as one, scraping(tmp_path, one, key) as prometheus:
        eventually(lambda: prometheus.query("up == 1"), what="Prometheus scrapes")
        one.process.kill()
        eventually(lambda: "SpantollDown" in prometheus.firing(), what="SpantollDown fires")
