"""Who sends: one line per (account, service, scope, version), for `GET /api/v1/sources` and the log's first-spans line.

It answers the newcomer's first questions: do my spans arrive, are model calls among them, do they show usage, and how was
it decided whether their input counts contain the cached tokens.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Final

from receiver.core.attribution import Charge
from receiver.core.calls.call import Missing
from receiver.core.span import Source

#: Names come from clients, so there is a limit: 10,000 lines are about 5 MiB. Further sources share one line per account.
MAX_SOURCES: Final = 10_000
OVERFLOW: Final = "__overflow__"


#: What makes one source: the paying account, the service, and the scope and version of the instrumentation.
SourceKey = tuple[str, str, str, str]


class SourceLine:
    """What one source has sent since the start."""

    __slots__ = ("cache_modes", "calls", "calls_without_usage", "last_seen_unix_nano", "spans")

    def __init__(self) -> None:
        self.spans = 0
        self.calls = 0
        self.calls_without_usage = 0
        self.cache_modes: Counter[tuple[str, str]] = Counter()  #: (mode, evidence) -> calls that showed cache counts
        self.last_seen_unix_nano = 0


class Sources:
    """The lines, bounded."""

    def __init__(self, *, most: int = MAX_SOURCES) -> None:
        self._most = most
        self._lines: dict[SourceKey, SourceLine] = {}

    def spans(self, account: str, source: Source, count: int, *, unix_nano: int) -> bool:
        """Count accepted spans; True when this is the first word from that source."""
        key = (account, source.service, source.scope, source.scope_version)
        line = self._lines.get(key)
        first = line is None
        if line is None:
            line = self._line(key)
        line.spans += count
        line.last_seen_unix_nano = max(line.last_seen_unix_nano, unix_nano)
        return first

    def closed(self, charges: Iterable[Charge], missing: Iterable[Missing]) -> None:
        """Count what a closed Group came to."""
        lines = self._lines
        for charge in charges:
            key = (charge.account, charge.service, charge.scope, charge.scope_version)
            line = lines.get(key) or self._line(key)
            line.calls += 1
            if charge.cache_evidence:
                line.cache_modes[charge.cache_mode, charge.cache_evidence] += 1
        for lack in missing:
            if lack.reason == "no_usage":
                source = lack.span.source
                self._line((lack.account, source.service, source.scope, source.scope_version)).calls_without_usage += 1

    def lines(self) -> list[tuple[SourceKey, SourceLine]]:
        """Every line, in no order."""
        return list(self._lines.items())

    def as_json(self) -> list[dict[str, object]]:
        """A row per source, by account, service, scope and version."""
        return [
            {
                "account": account,
                "service": service or None,
                "scope": scope or None,
                "version": version or None,
                "spans": line.spans,
                "calls": line.calls,
                "calls_without_usage": line.calls_without_usage,
                "cache_modes": [
                    {"mode": mode, "evidence": evidence, "calls": calls} for (mode, evidence), calls in sorted(line.cache_modes.items())
                ],
                "last_seen_unix_nano": line.last_seen_unix_nano,
            }
            for (account, service, scope, version), line in sorted(self._lines.items())
        ]

    def _line(self, key: SourceKey) -> SourceLine:
        line = self._lines.get(key)
        if line is None:
            if len(self._lines) >= self._most:
                key = (key[0], OVERFLOW, OVERFLOW, "")
            line = self._lines.setdefault(key, SourceLine())
        return line
