"""The script that refreshes the vendored list: it compiles what it should, and refuses what looks like an accident."""

from __future__ import annotations

import copy
import importlib.util
import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("genai_prices")

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def refresh() -> Any:
    spec = importlib.util.spec_from_file_location("refresh_prices", ROOT / "deploy" / "prices" / "refresh.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def vendored() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((ROOT / "receiver" / "data" / "prices.json").read_text())
    return loaded


def test_the_vendored_list_is_what_the_script_compiles(refresh: Any, vendored: dict[str, Any]) -> None:
    """Nobody edits the snapshot by hand; corrections stand in our patch."""
    text = refresh.serialise(refresh.compile_snapshot(datetime(2026, 11, 24, tzinfo=UTC).date()))
    assert text == (ROOT / "receiver" / "data" / "prices.json").read_text()
    assert json.loads(text) == vendored
    assert refresh.compare(vendored, vendored).refusals == []


def test_the_lists_licence_ships_with_it() -> None:
    """The data is MIT licensed: its notice goes where the data goes."""
    notice = (ROOT / "receiver" / "data" / "genai-prices.LICENSE.txt").read_text()
    assert "MIT License" in notice
    assert "Pydantic" in notice


def test_a_report_tells_what_changed(refresh: Any, vendored: dict[str, Any]) -> None:
    """A new model, one that is gone, and one that costs something else are three kinds of lines."""
    new = copy.deepcopy(vendored)
    models = new["providers"][0]["models"]
    gone = models.pop(0)["id"]
    models.append({"id": "brand-new", "match": "=brand-new", "prices": [{"rates": {"input": 1_000_000}}]})
    models[0]["prices"][0]["rates"]["input"] *= 2
    report = refresh.compare(vendored, new)
    assert f"- anthropic/{gone}" in report.lines
    assert "+ anthropic/brand-new" in report.lines
    assert f"~ anthropic/{models[0]['id']}" in report.lines
    assert any("standard start input: 0.8 USD/M -> 1.6 USD/M" in line for line in report.lines)
    assert report.refusals == []


@pytest.mark.parametrize("accident", ["truncated", "shrunk", "slipped"])
def test_an_accident_is_refused(refresh: Any, vendored: dict[str, Any], accident: str) -> None:
    """A truncated list, one that lost over 5 % of its models, and a slipped decimal point are not taken over without a look."""
    new = copy.deepcopy(vendored)
    match accident:
        case "truncated":
            new["providers"] = new["providers"][:5]
        case "shrunk":
            new["providers"] = [one for one in new["providers"] if one["id"] != "aws"]
        case "slipped":
            new["providers"][0]["models"][0]["prices"][0]["rates"]["output"] *= 100
    assert refresh.compare(vendored, new).refusals
