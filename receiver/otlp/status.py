"""What a client hears when a request is not stored: the only table from error to gRPC code, HTTP status and retry delay.

A client of OTLP keeps or drops a batch by the code alone (OTLP spec, Failures), so the code is a decision about data:
UNAVAILABLE / 503 asks for the same batch again, everything else loses it. Hence a fault of ours is never INTERNAL, UNKNOWN or 500,
and what a resend cannot mend never carries a delay. Another refusal is another row.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import grpc
from google.protobuf import any_pb2, duration_pb2, json_format
from google.rpc import error_details_pb2, status_pb2

from receiver.errors import (
    AccountDisabled,
    CreditExhausted,
    CreditHeld,
    ExportTooLarge,
    MalformedExport,
    Overloaded,
    PermissionDenied,
    ReceiverError,
    Unauthenticated,
    UnsupportedEncoding,
)
from receiver.otlp.export import Encoding, cut

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Mapping

    from google.protobuf.message import Message

logger = logging.getLogger(__name__)

#: `ErrorInfo.domain`: whose reasons these are.
DOMAIN: Final = "spantoll"
#: A fault of ours: the batch is asked for again, late enough not to hammer a broken house and within the 10 s that SDKs retry for.
FAULT_RETRY_SECONDS: Final = 4.0
#: Delays are spread by this share, so that the clients of one refusal do not come back as one flood.
JITTER: Final = 0.2
#: Of an HTTP status line: every client's parser takes some kilobytes, and a log line that people read is shorter.
MAX_REASON_PHRASE: Final = 400


class NotServed(ReceiverError):
    """Nothing answers at this path or method: another signal, or a typing error."""


class MethodNotAllowed(ReceiverError):
    """An HTTP method other than POST."""


class LengthRequired(ReceiverError):
    """An HTTP request that says neither how long its body is nor that it comes in chunks."""


class RequestTimedOut(ReceiverError):
    """The body came too slowly, or stopped."""


@dataclass(frozen=True, slots=True)
class Row:
    """How one kind of error reads on the wire."""

    error: type[ReceiverError]
    reason: str  #: the `reason` label, and in capitals `ErrorInfo.reason`; "" for errors that carry their own
    code: grpc.StatusCode
    http: int
    details: Callable[[ReceiverError], list[Message]] = lambda _: []
    metadata: Callable[[ReceiverError], Mapping[str, str]] = lambda _: {}  #: of the ErrorInfo: facts for programs, as in the message


def _bad_request(error: ReceiverError) -> list[Message]:
    """OTLP spec: a 400's details SHOULD hold what was bad."""
    violation = error_details_pb2.BadRequest.FieldViolation(field="body", description=cut(str(error), 512))
    return [error_details_pb2.BadRequest(field_violations=[violation])]


def _of_credit(error: ReceiverError) -> Mapping[str, str]:
    """Who has no credit, how much is left, and where to top up. Never an invoice: each retry would mint one."""
    assert isinstance(error, CreditExhausted | CreditHeld)
    return {"account": error.account, "balance_msat": str(error.balance_msat), "topup_url": error.topup_url}


def _of_account(error: ReceiverError) -> Mapping[str, str]:
    assert isinstance(error, AccountDisabled)
    return {"account": error.account}


#: First match wins. The codes follow the OTLP spec (specification.md, "Failures" and "OTLP/HTTP Response") and, for pairs that it
#: leaves open, the collector's map between gRPC and HTTP.
TABLE: Final[tuple[Row, ...]] = (
    Row(MalformedExport, "malformed", grpc.StatusCode.INVALID_ARGUMENT, 400, _bad_request),
    # Without RetryInfo RESOURCE_EXHAUSTED is final (OTLP spec, "OTLP/gRPC Throttling").
    Row(ExportTooLarge, "too_large", grpc.StatusCode.RESOURCE_EXHAUSTED, 413),
    Row(UnsupportedEncoding, "unsupported_encoding", grpc.StatusCode.INVALID_ARGUMENT, 415),
    Row(Unauthenticated, "unauthenticated", grpc.StatusCode.UNAUTHENTICATED, 401),
    # 402 and FAILED_PRECONDITION lose the batch in every client, once and with a line in its log. RESOURCE_EXHAUSTED without RetryInfo
    # would not: the SDKs of Python and Java send that again and again.
    Row(CreditExhausted, "credit_exhausted", grpc.StatusCode.FAILED_PRECONDITION, 402, metadata=_of_credit),
    Row(AccountDisabled, "account_disabled", grpc.StatusCode.PERMISSION_DENIED, 403, metadata=_of_account),
    Row(PermissionDenied, "permission_denied", grpc.StatusCode.PERMISSION_DENIED, 403),
    Row(NotServed, "not_served", grpc.StatusCode.UNIMPLEMENTED, 404),
    Row(MethodNotAllowed, "method_not_allowed", grpc.StatusCode.UNIMPLEMENTED, 405),
    Row(RequestTimedOut, "timed_out", grpc.StatusCode.DEADLINE_EXCEEDED, 408),
    Row(LengthRequired, "length_required", grpc.StatusCode.INVALID_ARGUMENT, 411),
    Row(CreditHeld, "credit_exhausted", grpc.StatusCode.UNAVAILABLE, 503, metadata=_of_credit),
    Row(Overloaded, "", grpc.StatusCode.UNAVAILABLE, 503),
)
#: Every `reason` that a table row names; Overloaded adds its own ("memory", "account_spans", "ledger_unavailable", "shutdown", ...).
REASONS: Final = tuple(dict.fromkeys(row.reason for row in TABLE if row.reason))


@dataclass(frozen=True, slots=True)
class Refusal:
    """One refusal, ready to be written on either transport."""

    reason: str
    code: grpc.StatusCode
    http: int
    message: str  #: at most 1 KiB of UTF-8
    retry_after_seconds: float | None  #: None: final, a resend cannot mend it
    status: status_pb2.Status

    @property
    def trailers(self) -> tuple[tuple[str, bytes], ...]:
        """Trailing metadata of the gRPC answer.

        RetryInfo is sent twice: Go, .NET and the collector read it out of `grpc-status-details-bin`, the Python SDK reads only
        `google.rpc.retryinfo-bin`.
        """
        details = ("grpc-status-details-bin", self.status.SerializeToString())
        if self.retry_after_seconds is None:
            return (details,)
        return (("google.rpc.retryinfo-bin", _retry_info(self.retry_after_seconds).SerializeToString()), details)

    @property
    def retry_after(self) -> str | None:
        """The value of HTTP's `Retry-After`: whole seconds, at least 1, since fractions are not in its grammar (RFC 9110 10.2.3)."""
        return None if self.retry_after_seconds is None else str(max(1, math.ceil(self.retry_after_seconds)))

    @property
    def reason_phrase(self) -> str:
        """The message for HTTP's status line: visible ASCII, at most MAX_REASON_PHRASE characters.

        The OTLP/HTTP exporters of the Python and JavaScript SDKs log this phrase and nothing of the body, so without it their users read
        "Payment Required" and not where to pay.
        """
        return "".join(map(_visible, self.message[:MAX_REASON_PHRASE]))

    def body(self, encoding: Encoding) -> bytes:
        """The `google.rpc.Status` that every 4xx and 5xx carries, in the request's own encoding (OTLP spec)."""
        if encoding is Encoding.JSON:
            return json_format.MessageToJson(self.status, indent=None).encode()
        return bytes(self.status.SerializeToString())


def reason_of(error: Exception) -> str:
    """The stable word for an error, as the answer to its request and the `reason` label have it."""
    if isinstance(error, Overloaded):
        return error.reason
    return next((row.reason for row in TABLE if isinstance(error, row.error)), "internal")


class Refusals:
    """Turns errors into refusals. `rng` spreads the delays (a seeded one makes them repeatable in tests)."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._rows: dict[type[BaseException], Row | None] = {}

    def of(self, error: Exception) -> Refusal:
        """The refusal for `error`.

        What no row names is a fault of ours: logged here with its traceback, answered as UNAVAILABLE / 503 without its text (it may
        hold what a client sent).
        """
        row = self._row(type(error))
        if row is None:
            logger.error("an unexpected fault while a request was handled; the client was asked to send it again", exc_info=error)
            error = Overloaded(
                reason="internal",
                retry_after_seconds=FAULT_RETRY_SECONDS,
                detail=f"the receiver met an unexpected fault and stored nothing of this request: send again in {FAULT_RETRY_SECONDS:g} s",
            )
            row = self._row(Overloaded)
            assert row is not None
        assert isinstance(error, ReceiverError)
        reason, delay = row.reason, None
        if isinstance(error, Overloaded):
            reason = error.reason
            delay = max(0.0, error.retry_after_seconds) * self._rng.uniform(1 - JITTER, 1 + JITTER)
        message = cut(str(error))
        info = error_details_pb2.ErrorInfo(reason=reason.upper(), domain=DOMAIN, metadata=row.metadata(error))
        details: list[Message] = [info, *row.details(error)]
        if delay is not None:
            details.append(_retry_info(delay))
        status = status_pb2.Status(code=row.code.value[0], message=message, details=[_packed(detail) for detail in details])
        return Refusal(reason, row.code, row.http, message, delay, status)

    def _row(self, kind: type[Exception]) -> Row | None:
        """The first row whose error `kind` is or descends from."""
        if kind not in self._rows:
            self._rows[kind] = next((row for row in TABLE if issubclass(kind, row.error)), None)
        return self._rows[kind]


def _visible(character: str) -> str:
    """What may stand in a reason phrase and is read everywhere (RFC 9112 4, without obs-text)."""
    return character if " " <= character <= "~" else "?"


def _retry_info(seconds: float) -> error_details_pb2.RetryInfo:
    nanos = round(seconds * 1e9)
    return error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(seconds=nanos // 10**9, nanos=nanos % 10**9))


def _packed(detail: Message) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(detail, deterministic=True)  # an ErrorInfo holds a map
    return packed
