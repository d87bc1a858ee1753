"""The keystone: the same exports over every transport, shuffled, each sent twice: the same numbers as from files."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import grpc
import pytest

from receiver import app
from receiver.config import Config
from receiver.otlp.export import Encoding
from tests.captures import all_bodies, scenarios
from tests.e2e.daemon import Daemon, daemon, samples
from tests.otlp_json import as_otlp_json

pytestmark = pytest.mark.e2e

Key = tuple[str, str, str, str, str]  # family, agent, model, provider, basis
#: The captures are of one month; their prices are asked for that month however old they are when the test runs.
OLD_SPANS = "prices.accept_start_before=3650d"


def by_series(report: dict[str, object]) -> Counter[Key]:
    """The report's calls, tokens and cost in the labels that /metrics has by default."""
    sums: Counter[Key] = Counter()
    for call in report["calls"]:  # type: ignore[attr-defined]  # JSON
        labels = (
            call["agent"] or "unknown",
            call["priced_model"] or call["model"] or "unknown",
            call["priced_provider"] or call["provider"] or "unknown",
            call["cost_basis"],
        )
        sums["calls", *labels] += 1
        sums["cost_pusd", *labels] += call["cost_pusd"] or 0
        for bucket in ("uncached_input_tokens", "cache_read_tokens", "cache_write_tokens", "output_tokens"):
            sums[bucket, *labels] += call[bucket]
    return +sums


def scraped(text: str) -> Counter[Key]:
    types = {
        "input_uncached": "uncached_input_tokens", "cache_read": "cache_read_tokens",
        "cache_write": "cache_write_tokens", "output": "output_tokens",
    }  # fmt: skip
    sums: Counter[Key] = Counter()
    for name, labels, value in samples(text):
        key = tuple(labels.get(label, "") for label in ("agent", "model", "provider", "basis"))
        if name == "spantoll_calls_total":
            sums["calls", *key] += round(value)  # type: ignore[index]  # five strings
        elif name == "spantoll_cost_usd_total":
            sums["cost_pusd", *key] += round(value * 1e12)  # type: ignore[index]  # five strings
        elif name == "spantoll_tokens_total":
            sums[types[labels["type"]], *key] += round(value)  # type: ignore[index]  # five strings
    return +sums


@pytest.fixture(scope="module")
def expected() -> Counter[Key]:
    offline = app.offline(Config())
    for body in all_bodies(scenarios()):
        offline.feed(body, Encoding.PROTOBUF)
    return by_series(offline.finish())


def send_grpc(one: Daemon, bodies: list[bytes]) -> None:
    with grpc.insecure_channel(one.grpc) as channel:
        export = channel.unary_unary("/opentelemetry.proto.collector.trace.v1.TraceService/Export")
        for body in bodies:
            assert export(body, timeout=60) == b""


def send_protobuf(one: Daemon, bodies: list[bytes]) -> None:
    for body in bodies:
        assert one.post(body, "application/x-protobuf") == (200, b"")


def send_json(one: Daemon, bodies: list[bytes]) -> None:
    for body in bodies:
        assert one.post(as_otlp_json(body), "application/json") == (200, b"{}")


@pytest.mark.parametrize("send", [send_grpc, send_protobuf, send_json])
def test_the_same_exports_give_the_same_numbers_over_every_transport(send: object, tmp_path: Path, expected: Counter[Key]) -> None:
    """Shuffled across exports and sent twice each, the captures come to what the files come to, series by series."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    bodies = [body for body in all_bodies(scenarios()) for _ in range(2)]
    random.Random(seed).shuffle(bodies)
    with daemon(tmp_path, OLD_SPANS, quick=False) as one:
        send(one, bodies)  # type: ignore[operator]  # one of the three above
        one.release()
        text = one.get("/metrics")
        assert scraped(text) == expected
        accepted = one.metric("spantoll_receiver_accepted_spans_total")
        assert one.metric("spantoll_receiver_duplicate_spans_total") >= accepted
        assert one.stop() == 0
