"""deploy/grafana: the file is what its code writes, and every query of it has an answer on a Prometheus that scraped a busy daemon."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from receiver.metrics.families import FAMILIES
from tests.captures import all_bodies, scenarios
from tests.e2e.daemon import daemon, eventually
from tests.e2e.prometheus import operator_key, scraping
from tests.e2e.test_alerts import ask
from tests.exports import agent, export, model_call
from tests.require import need

pytestmark = pytest.mark.e2e
DEPLOYED = Path(__file__).parents[2] / "deploy" / "grafana"
#: Queries without an answer here, by a part of their text, with the reason.
EMPTY = {
    "spantoll_label_overflow_total": "no label has too many values in this test",
}


def board() -> dict[str, Any]:
    document: dict[str, Any] = json.loads((DEPLOYED / "spantoll.json").read_text())
    return document


def queries() -> Iterator[tuple[str, str]]:
    """(panel, PromQL) of every panel."""
    for panel in board()["panels"]:
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"]


def test_the_file_is_what_its_code_writes() -> None:
    """Nobody edits it by hand."""
    need(importlib.util.find_spec("grafana_foundation_sdk"), "grafana-foundation-sdk is not installed")
    checked = subprocess.run(
        [sys.executable, "dashboard.py", "--check"], cwd=DEPLOYED, capture_output=True, text=True, timeout=60, check=False
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_every_family_is_on_the_dashboard_or_left_out_with_a_reason() -> None:
    """What is measured is shown; a name that is shown is one that is measured."""
    left_out = {
        "spantoll_unpriced_tokens_total": "the calls are shown, and are what has to be priced",
        "spantoll_cache_mode_guess_total": "a doubt of the same name is shown",
        "spantoll_usage_incomplete_total": "a doubt tells of it, GET /api/v1/sources says whose",
        "spantoll_bucket_clamped_total": "a doubt tells of it",
        "spantoll_response_cache_hits_total": "costs nothing and is rare",
        "spantoll_response_cache_hit_tokens_total": "costs nothing and is rare",
        "spantoll_parent_adopted_total": "for those who look into how calls were counted",
        "spantoll_receiver_refused_spans_total": "the requests are shown: many are refused before their spans are counted",
        "spantoll_receiver_sanitized_strings_total": "nothing is lost",
        "spantoll_receiver_wrong_protocol_connections_total": "met once, when an exporter is set up; the log says it",
        "spantoll_credit_low_balance_total": "balance and runway are shown",
        "spantoll_webhook_tries_total": "most daemons tell nobody; the log says what was not heard",
    }
    shown = set(re.findall(r"\bspantoll_\w+", " ".join(expr for _, expr in queries())))
    shown = {re.sub(r"_bucket$", "", name) for name in shown}
    names = {family.full_name for family in FAMILIES}
    assert shown <= names, shown - names
    assert names - shown == left_out.keys(), ((names - shown) - left_out.keys(), left_out.keys() - (names - shown))


def test_every_panel_says_what_it_is_and_none_covers_another() -> None:
    """A text behind each title, and a place of its own in a grid of 24."""
    taken: set[tuple[int, int]] = set()
    for panel in board()["panels"]:
        at = panel["gridPos"]
        assert panel["type"] == "row" or panel["description"], panel["title"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert at["x"] + at["w"] <= 24, panel["title"]
        assert not cells & taken, panel["title"]
        taken |= cells


def test_every_query_has_an_answer(tmp_path: Path) -> None:
    """After captures, resends, late spans, a wrong request and a payment no query is refused, and none is empty unsaid."""
    setting, key = operator_key(tmp_path)
    ready = ("prices.accept_start_before=3650d", "credit.start_balance_msat=100000000", setting)
    bodies = list(all_bodies(scenarios()))
    with daemon(tmp_path, *ready) as one, scraping(tmp_path, one, key) as prometheus:
        # In two halves, for a counter that a scrape has not seen before grows by nothing.
        first, second = bodies[::2], bodies[1::2]
        for body in [*first, *first[:20], export(model_call(0, 1)), b"no OTLP"]:
            one.post(body, "application/x-protobuf")
        one.release()
        closed = "sum(spantoll_calls_total) > 0 and sum(spantoll_window_traces) == 0"
        eventually(lambda: prometheus.query(closed), what="Prometheus saw the first half")
        for body in [*second, *second[:20], export(model_call(0, 2)), b"no OTLP"]:
            one.post(body, "application/x-protobuf")
        one.release()
        seen = 'sum(spantoll_late_span_total{outcome="charged"}) > 0'
        for trace in (77, 78):  # the same in the small: the second late span is what grows
            one.post(export(agent(trace, 1), model_call(trace, 2, parent=1)), "application/x-protobuf")
            one.release()
            one.post(export(model_call(trace, 3, parent=1)), "application/x-protobuf")
            one.release()
            eventually(lambda: prometheus.query(seen), what="Prometheus saw a late call")
        topup = ask(one, "POST", "/api/v1/accounts/default/topups", {"amount_sat": 1000})
        ask(one, "POST", "/api/v1/dev/pay", {"invoice": topup["bolt11"]})
        one.release()
        eventually(lambda: prometheus.query("sum(increase(spantoll_cost_usd_total[5m])) > 0"), what="Prometheus saw the cost grow")
        eventually(lambda: prometheus.query("sum(increase(spantoll_late_span_total[5m])) > 0"), what="and the late span")
        empty = []
        for title, expr in queries():
            promql = (
                expr.replace("$__rate_interval", "5m")
                .replace("$__range", "5m")
                .replace('"$instance"', '".*"')
                .replace('"$account"', '".*"')
            )
            assert "$" not in promql, expr
            found = prometheus.query(promql)
            if not found and not any(part in expr for part in EMPTY):
                empty.append(f"{title}: {promql}")
        assert not empty, "\n".join(empty)
        assert all(any(part in expr for _, expr in queries()) for part in EMPTY), "a reason for a query that is gone"
        for variable in board()["templating"]["list"]:
            if variable["type"] == "query":
                label = re.fullmatch(r"label_values\((\w+)(?:\{.*\})?, (\w+)\)", variable["query"])
                assert label, variable["query"]
                values = prometheus.get(f"label/{label[2]}/values", **{"match[]": label[1]})
                assert values, variable["name"]
