"""Compile the captures that `spantoll demo` plays, and the truth it checks itself against, into `receiver/data/demo.json.gz`.

    python -m tests.data.compile_demo            write it
    python -m tests.data.compile_demo --check    exit 1 when the packaged file is not current

The truth comes from the captures' model server and from genai-prices, never from Spantoll.
"""

from __future__ import annotations

import base64
import gzip
import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from receiver.demo.script import OUTSIDE
from tests.captures import CAPTURES, Visible, exports, truth_of

OUT = Path(__file__).parents[2] / "receiver" / "data" / "demo.json.gz"

#: capture, transport it is played over, what it shows
PLAYED = [
    ("openinference-langgraph-team", "grpc", "LangGraph and the Anthropic SDK tell of the same call in two traces"),
    ("strands-agents-tools", "grpc", "Strands agents repeat the sum of their calls"),
    ("crewai-litellm-openai-double", "http", "CrewAI, LiteLLM and OpenAI are instrumented on top of each other"),
    ("google-adk-transfer", "http", "Google ADK hands over between agents"),
    ("openinference-openai-export-retry-duplicates", "http", "an exporter lost acknowledgements and sent its spans again"),
    ("vercel-ai-sdk-v6-otlp-json", "json", "Vercel AI SDK: the outer span repeats the inner one, in OTLP/JSON"),
]


def compile_demo() -> bytes:
    captures: list[dict[str, Any]] = []
    agents: dict[str, dict[str, int]] = defaultdict(lambda: {"calls": 0, "input_tokens": 0, "output_tokens": 0, "cost_pusd": 0})
    naive = {"input_tokens": 0, "output_tokens": 0}
    for name, transport, shows in PLAYED:
        folder = CAPTURES / name
        truth = truth_of(folder)
        bodies = sorted(folder.glob("export-*.otlp.json")) if transport == "json" else exports(folder)
        captures.append(
            {
                "name": name,
                "transport": transport,
                "shows": shows,
                "exports": [base64.b64encode(path.read_bytes()).decode() for path in bodies],
            }
        )
        naive["input_tokens"] += truth["naive_sum"]["input"]
        naive["output_tokens"] += truth["naive_sum"]["output"]
        for call in truth["calls"]:
            assert call["observability"] == "usage on span", f"{name}: a call that no span shows cannot be checked"
            visible = Visible.of(call)
            cost = visible.list_price_pusd(call)
            assert cost is not None, f"{name}: {call['response_model']} is not judged by the price referee"
            row = agents[call["agent"] or OUTSIDE]
            row["calls"] += 1
            row["input_tokens"] += visible.numbers["input_tokens"]
            row["output_tokens"] += visible.numbers["output_tokens"]
            row["cost_pusd"] += cost
    document = {"captures": captures, "agents": dict(sorted(agents.items())), "plain_sum": naive}
    return gzip.compress(json.dumps(document, separators=(",", ":")).encode(), 9, mtime=0)


def main() -> int:
    compiled = compile_demo()
    if "--check" in sys.argv[1:]:
        current = OUT.exists() and gzip.decompress(OUT.read_bytes()) == gzip.decompress(compiled)
        print(f"{OUT.name} is {'current' if current else 'NOT current: run python -m tests.data.compile_demo'}")
        return 0 if current else 1
    OUT.write_bytes(compiled)
    print(f"{OUT.name}: {len(compiled):,} bytes, {len(PLAYED)} captures")
    return 0


if __name__ == "__main__":
    sys.exit(main())
