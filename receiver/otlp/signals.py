"""OTLP's other signals: what a client hears that sends metrics or logs to a receiver of traces.

SDKs send all signals to one endpoint, so this is no attack and no typing error: it is the default of many set-ups.
"""

from __future__ import annotations

import logging
from typing import Final

from receiver.otlp.status import NotServed

logger = logging.getLogger(__name__)

TRACES_SERVICE: Final = "opentelemetry.proto.collector.trace.v1.TraceService"
#: gRPC service -> signal (opentelemetry-proto, opentelemetry/proto/collector/*)
OTHER_SERVICES: Final = {
    "opentelemetry.proto.collector.metrics.v1.MetricsService": "metrics",
    "opentelemetry.proto.collector.logs.v1.LogsService": "logs",
}
#: HTTP path -> signal
OTHER_PATHS: Final = {"/v1/metrics": "metrics", "/v1/logs": "logs"}


class OtherSignals:
    """Refuses or drops them, and says once a signal in the log how traces are turned on."""

    def __init__(self, *, discard: bool) -> None:
        self.discard = discard  #: accept and drop, to spare clients the error log
        self._said: set[str] = set()

    def meet(self, signal: str) -> None:
        """A request of `signal` came: returns when it is to be dropped, raises NotServed when it is to be refused."""
        if signal not in self._said:
            self._said.add(signal)
            logger.warning(
                "a client sends %s, which are %s here: only traces are read. Turn traces on with OTEL_TRACES_EXPORTER=otlp, "
                "and turn %s off with OTEL_%s_EXPORTER=none",
                signal,
                "dropped" if self.discard else "refused",
                signal,
                signal.upper(),
            )
        if not self.discard:
            raise NotServed(
                f"this receiver reads traces, no {signal}: set OTEL_{signal.upper()}_EXPORTER=none in the client, "
                "or discard_other_signals = true in the receiver"
            )
