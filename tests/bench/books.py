"""What calls used and cost, by agent and model: as it should be, and as `/metrics` shows it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Final

from prometheus_client.parser import text_string_to_metric_families

from receiver import app, config
from receiver.otlp.export import Encoding

#: (measure, agent, model) -> amount; measures are calls, cost_pusd and the four disjoint types of tokens.
Books = Counter[tuple[str, str, str]]
Sample = tuple[str, dict[str, str], float]

#: The captures keep the prices of the days on which they were made, however old they are.
OLD_SPANS: Final = "prices.accept_start_before=3650d"
_TOKENS: Final = {
    "uncached_input_tokens": "input_uncached",
    "cache_read_tokens": "cache_read",
    "cache_write_tokens": "cache_write",
    "output_tokens": "output",
}


def of_files(cycles: Iterable[Iterable[bytes]]) -> Books:
    """What these bodies come to as files, all of them one stream."""
    offline = app.offline(config.load(environ={}, assignments=(OLD_SPANS,)))
    for bodies in cycles:
        for body in bodies:
            offline.feed(body, Encoding.PROTOBUF)
    books: Books = Counter()
    for call in offline.finish()["calls"]:
        labels = (call["agent"] or "unknown", call["priced_model"] or call["model"] or "unknown")
        books["calls", *labels] += 1
        books["cost_pusd", *labels] += call["cost_pusd"] or 0
        for field, measure in _TOKENS.items():
            books[measure, *labels] += call[field]
    return +books


def samples(text: str) -> Iterator[Sample]:
    """(name, labels, value) of every sample of a text exposition."""
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            yield sample.name, dict(sample.labels), sample.value


def of_metrics(shown: Iterable[Sample]) -> Books:
    """What a scrape shows."""
    books: Books = Counter()
    for name, labels, value in shown:
        if name == "spantoll_calls_total":
            books["calls", labels["agent"], labels["model"]] += round(value)
        elif name == "spantoll_tokens_total":
            books[labels["type"], labels["agent"], labels["model"]] += round(value)
        elif name == "spantoll_cost_usd_total":
            books["cost_pusd", labels["agent"], labels["model"]] += round(value * 1e12)  # exact below some 2,000 USD a series
    return +books


def differences(worth: Books, shown: Books) -> list[str]:
    """Where the two differ, a sentence each; first the totals, for they tell a lost call from a lost name."""
    found = []
    for measure in sorted({key[0] for key in worth.keys() | shown.keys()}):
        want, got = (sum(amount for key, amount in books.items() if key[0] == measure) for books in (worth, shown))
        if want != got:
            found.append(f"{measure}: {got:,} shown, {want:,} acknowledged")
    for key in sorted(worth.keys() | shown.keys()):
        if worth[key] != shown[key]:
            measure, agent, model = key
            found.append(f"{measure} of agent {agent}, model {model}: {shown[key]:,} shown, {worth[key]:,} acknowledged")
    return found
