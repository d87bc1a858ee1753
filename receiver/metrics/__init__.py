"""What a scrape shows: our own integers, rendered by prometheus_client when somebody asks."""

from __future__ import annotations

from receiver.metrics.collector import Metrics, MetricsOptions
from receiver.metrics.families import FAMILIES, PREFIX, Family, Kind
from receiver.metrics.labels import OVERFLOW, UNKNOWN

__all__ = ["FAMILIES", "OVERFLOW", "PREFIX", "UNKNOWN", "Family", "Kind", "Metrics", "MetricsOptions"]
