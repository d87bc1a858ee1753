"""Integers become text: prometheus_client's own encoders, fed in slices.

Encoding takes 15 us a sample with the interpreter lock held, so a scrape of 10,000 series in one go would stop the daemon for
a second. Here a family is encoded some samples at a time, each slice as a small family of its own; between two slices the event
loop runs. Everything is copied before the first slice: one scrape shows one moment.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.samples import Exemplar, Sample

from receiver.metrics.families import PREFIX, Family, Kind

#: Samples of one slice: 3 to 5 ms.
SLICE: Final = 250

_NANO: Final = 10**9
_EOF: Final = b"# EOF\n"


class Collector(Protocol):
    """What an encoder of prometheus_client asks for."""

    def collect(self) -> Iterable[Metric]:
        """Families."""


class _One:
    """A single family."""

    def __init__(self, metric: Metric) -> None:
        self._metric = metric

    def collect(self) -> Iterable[Metric]:
        return (self._metric,)


class Mark(NamedTuple):
    """An example of what is in a counter or a bucket."""

    trace_id: str  #: hex
    amount: int  #: stored units
    unix_nano: int


class Point(NamedTuple):
    """One series of a family at the moment of the scrape."""

    labels: tuple[str, ...]
    value: float = 0
    created_unix_nano: int = 0  #: 0: not known
    mark: Mark | None = None
    buckets: tuple[int, ...] = ()  #: of a histogram: how many in each bucket, not cumulative, the last one above all bounds
    marks: tuple[Mark | None, ...] = ()  #: of its buckets
    total: int = 0  #: of a histogram: the sum, in stored units


@dataclass(frozen=True, slots=True)
class Shown:
    """A family with its points: made one by one, of a copy that was taken when this was made."""

    family: Family
    labels: tuple[str, ...]
    points: Iterable[Point]


async def exposition(shown: list[Shown], accept: str, *, created_in_text: bool) -> tuple[str, bytes]:
    """(Content-Type, body) in the format that an `Accept` header asks for; yields to the event loop between slices."""
    encode, content_type = choose_encoder(accept)
    is_openmetrics = content_type.startswith("application/openmetrics-text")
    parts: list[bytes] = []
    for one in shown:
        for part in _encoded(one, encode, is_openmetrics=is_openmetrics, created_in_text=created_in_text):
            parts.append(part)
            await asyncio.sleep(0)
    if is_openmetrics:
        parts.append(_EOF)
    return content_type, b"".join(parts)


def _encoded(shown: Shown, encode: Callable[[Collector], bytes], *, is_openmetrics: bool, created_in_text: bool) -> Iterator[bytes]:
    family = shown.family
    apart = created_in_text and not is_openmetrics and family.kind in (Kind.COUNTER, Kind.HISTOGRAM)
    created: list[Sample] = []  # in the plain format a family of its own
    samples = _samples(shown, openmetrics=is_openmetrics, created=created if apart else None)
    yield from _slices(Metric(PREFIX + family.name, family.help, family.kind.value, family.unit), samples, encode)
    if apart:
        metric = Metric(f"{PREFIX}{family.name}_created", f"When the series began: {family.help}", "gauge")
        yield from _slices(metric, iter(created), encode)


def _slices(metric: Metric, samples: Iterator[Sample], encode: Callable[[Collector], bytes]) -> Iterator[bytes]:
    """A family's text, slice by slice; only the first carries the lines that describe it."""
    first = True
    for sample in samples:
        metric.samples.append(sample)
        if len(metric.samples) >= SLICE:
            yield _text(metric, encode, described=first)
            metric.samples.clear()
            first = False
    if first or metric.samples:
        yield _text(metric, encode, described=first)


def _text(metric: Metric, encode: Callable[[Collector], bytes], *, described: bool) -> bytes:
    text = encode(_One(metric)).removesuffix(_EOF)
    while not described and text.startswith(b"# "):
        text = text.partition(b"\n")[2]
    return text


def _samples(shown: Shown, *, openmetrics: bool, created: list[Sample] | None) -> Iterator[Sample]:
    family = shown.family
    name = PREFIX + family.name
    suffix = {Kind.COUNTER: "_total", Kind.INFO: "_info"}.get(family.kind, "")
    for point in shown.points:
        labels = dict(zip(shown.labels, point.labels, strict=True))
        if family.kind is Kind.HISTOGRAM:
            yield from _buckets(family, name, labels, point, exemplars=openmetrics)
        else:
            yield Sample(name + suffix, labels, point.value, None, _exemplar(point.mark, family) if openmetrics else None)
        if point.created_unix_nano and (openmetrics or created is not None):
            began = Sample(name + "_created", labels, point.created_unix_nano / _NANO)
            if created is None:
                yield began
            else:
                created.append(began)


def _buckets(family: Family, name: str, labels: dict[str, str], point: Point, *, exemplars: bool) -> Iterator[Sample]:
    count = 0
    bounds = [str(bound / family.scale) for bound in family.buckets]
    for bound, inside, mark in zip((*bounds, "+Inf"), point.buckets, point.marks, strict=True):
        count += inside
        yield Sample(name + "_bucket", {**labels, "le": bound}, count, None, _exemplar(mark, family) if exemplars else None)
    yield Sample(name + "_count", labels, count)
    yield Sample(name + "_sum", labels, point.total / family.scale)


def _exemplar(mark: Mark | None, family: Family) -> Exemplar | None:
    return None if mark is None else Exemplar({"trace_id": mark.trace_id}, mark.amount / family.scale, mark.unix_nano / _NANO)
