"""A real Prometheus scrapes the daemon, and promtool finds nothing to say."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.captures import all_bodies, scenarios
from tests.e2e.daemon import daemon, eventually
from tests.e2e.prometheus import prometheus
from tests.require import need_program

pytestmark = pytest.mark.e2e


def test_promtool_finds_no_fault_in_the_metrics(tmp_path: Path) -> None:
    """Names, units, help and types are as Prometheus's own linter wants them, with every family in use."""
    promtool = need_program("promtool", "prometheus")
    with daemon(tmp_path, "prices.accept_start_before=3650d") as one:
        for body in all_bodies(scenarios()[:20]):
            assert one.post(body, "application/x-protobuf")[0] == 200
        one.release()
        text = one.get("/metrics")
    checked = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, text=True, timeout=60, check=False)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


def test_a_real_prometheus_scrapes_what_the_daemon_shows(tmp_path: Path) -> None:
    """The cost that PromQL adds up is the cost on /metrics, and the created timestamps keep the first increment."""
    with daemon(tmp_path, "prices.accept_start_before=3650d") as one:
        for body in all_bodies(scenarios()[:20]):
            assert one.post(body, "application/x-protobuf")[0] == 200
        one.release()
        shown = one.metric("spantoll_cost_usd_total")
        assert shown > 0
        config = tmp_path / "prometheus.yml"
        config.write_text(
            f"scrape_configs:\n- job_name: spantoll\n  scrape_interval: 1s\n  static_configs:\n  - targets: ['{one.operator.removeprefix('http://')}']\n"
        )
        with prometheus(tmp_path, config) as running:
            result = eventually(lambda: running.query("sum(spantoll_cost_usd_total)"), what="Prometheus shows the cost")
            assert float(result[0]["value"][1]) == pytest.approx(shown, abs=1e-12)
            assert running.query("up{job='spantoll'}")[0]["value"][1] == "1"
            exemplars = eventually(
                lambda: running.get("query_exemplars", query="spantoll_cost_usd_total", start="0", end="9999999999"), what="an exemplar"
            )
            labels = exemplars[0]["exemplars"][0]["labels"]
            assert len(labels["trace_id"]) == 32
