"""Captures of real instrumentations: every call once, every cost exact, every name that is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from receiver import app
from receiver.config import Config
from receiver.otlp.export import Encoding
from tests.captures import MORE_CAPTURES, exports, judge, scenarios, truth_of


def reported(folder: Path) -> dict[str, object]:
    offline = app.offline(Config())
    for path in exports(folder):
        offline.feed(path.read_bytes(), Encoding.PROTOBUF)
    return offline.finish()


@pytest.mark.parametrize("folder", [*scenarios(), *scenarios(MORE_CAPTURES)], ids=lambda folder: folder.name)
def test_a_capture_is_counted_priced_and_attributed_as_it_happened(folder: Path) -> None:
    """What the report says is what the model server logged."""
    verdict = judge(truth_of(folder), reported(folder))
    assert verdict.findings == []
    assert verdict.silent == 0
    assert (verdict.right, verdict.priced_right, verdict.named_right) == (verdict.calls, verdict.priced, verdict.named)


def test_the_captures_are_all_there() -> None:
    """A missing folder would make the suite greener than it is."""
    assert len(scenarios()) == 98
    calls = [
        call
        for folder in scenarios()
        for call in truth_of(folder)["calls"]
        if call["observability"] == "usage on span" and "unreachable" not in call
    ]
    assert len(calls) == 889
