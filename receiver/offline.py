"""The same lines without a daemon: exports from files become one report."""

from __future__ import annotations

from typing import Any, Final

from receiver.core.journal import Acceptance
from receiver.core.outcome import Outcome, Theory, work_out
from receiver.core.report import report
from receiver.core.usage import Reader
from receiver.core.window import Trigger, Window, WindowLimits
from receiver.otlp.decode import Decoder, run
from receiver.otlp.export import Encoding
from receiver.store.memory import MemoryJournal

#: All files are one stream under one account, as if one exporter had sent them.
ACCOUNT: Final = "default"
_NEVER: Final = float("inf")
_NO_LIMIT: Final = 1 << 62


class Offline:
    """Feed exports, then finish: every trace is taken as complete at the end, however long its real time was."""

    def __init__(self, *, decoder: Decoder, reader: Reader, theory: Theory) -> None:
        self._decoder = decoder
        self._reader = reader
        self._theory = theory
        self._journal = MemoryJournal(max_bytes=_NO_LIMIT)
        limits = WindowLimits(
            max_bytes=_NO_LIMIT,
            max_traces=_NO_LIMIT,
            max_trace_spans=_NO_LIMIT,
            decision_wait=_NEVER,
            seen_horizon=_NEVER,
            seen_max_bytes=_NO_LIMIT,
        )
        self._window = Window(limits, records=self._journal.records)
        self._spans = 0
        self._duplicates = 0
        self._traces: set[bytes] = set()
        self.rejected = 0  #: spans that the receiver would have rejected (invalid ids)

    def feed(self, body: bytes, encoding: Encoding) -> int:
        """Take one export; returns its number of new spans.

        Raises:
            MalformedExport, ExportTooLarge: as the daemon would refuse it.
        """
        decode = self._decoder.protobuf if encoding is Encoding.PROTOBUF else self._decoder.json
        decoded = run(decode(body, received_unix_nano=0))
        new = self._window.unseen(ACCOUNT, decoded.spans)
        self.rejected += decoded.rejected.total()
        self._duplicates += len(decoded.spans) - len(new)
        if new:
            for span in new:
                self._reader.read(span)
            self._journal.put(Acceptance(ACCOUNT, 0, new))
            self._window.hold(ACCOUNT, new, now=0.0)
            self._spans += len(new)
            self._traces.update(span.trace_id for span in new)
        return len(new)

    def finish(self, notes: tuple[str, ...] = ()) -> dict[str, Any]:
        """Release everything and report ("spantoll.report/1")."""
        outcomes: list[Outcome] = []
        for group in self._window.release_all(now=0.0, trigger=Trigger.MANUAL):
            outcome = work_out(group, self._theory, self._journal.cumulative)
            self._journal.settle(outcome.close)
            outcomes.append(outcome)
        return report(
            [charge for outcome in outcomes for charge in outcome.close.charges],
            [lack for outcome in outcomes for lack in outcome.counted.missing],
            traces=len(self._traces),
            spans=self._spans,
            duplicate_spans=self._duplicates,
            notes=notes,
        )
