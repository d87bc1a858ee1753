"""The failures of the world that Spantoll names. Imports nothing of ours.

Three kinds that never mix: *expected outcomes* are enum values; *failures of the world* are the typed exceptions below,
which carry facts; *our own bugs* are `assert`. A foreign exception is translated at the border that met it.
"""

from __future__ import annotations


class ReceiverError(Exception):
    """Base of every error that Spantoll raises on purpose. `str()` of it is a sentence that says what to do."""


class MalformedExport(ReceiverError):
    """The body is no OTLP export request, or not in the encoding that its headers name. A resend cannot mend it."""


class ExportTooLarge(ReceiverError):
    """A request is over one of the limits of a single request. A resend of the same request cannot mend it."""

    def __init__(self, *, what: str, found: int, limit: int) -> None:
        self.what = what  #: what was measured, with its unit: "bytes on the wire", "bytes after inflation", "spans"
        self.found = found  #: how many; the least that is known where counting stopped at the limit
        self.limit = limit
        super().__init__(f"{found:,} {what} in one request, the limit is {limit:,}: send smaller batches (or raise the receiver's limit)")


class UnsupportedEncoding(ReceiverError):
    """A `Content-Type` or `Content-Encoding` that the receiver does not speak."""


class Unauthenticated(ReceiverError):
    """The request's credential names no account."""


class PermissionDenied(ReceiverError):
    """The credential is known, but may not do this."""


class AccountDisabled(PermissionDenied):
    """The operator disabled the account that the credential names."""

    def __init__(self, account: str) -> None:
        self.account = account
        super().__init__(f"account {account!r} is disabled, nothing was stored: ask the operator")


class CreditExhausted(ReceiverError):
    """The account has no credit left for this request. Nothing of it was stored, and a resend meets the same until somebody tops up."""

    def __init__(self, detail: str, *, account: str, balance_msat: int, topup_url: str) -> None:
        self.account = account
        self.balance_msat = balance_msat  #: available
        self.topup_url = topup_url
        super().__init__(detail)


class NotFound(ReceiverError):
    """Nothing is known under the name that was given."""


class Conflict(ReceiverError):
    """What was asked for contradicts what is there already."""


class InvalidValue(ReceiverError):
    """A value that was given is none that is allowed here; the sentence says which are."""


class Overloaded(ReceiverError):
    """There is no room just now; the same request may succeed after `retry_after_seconds`."""

    def __init__(self, *, reason: str, retry_after_seconds: float, detail: str = "") -> None:
        #: stable, one of the `reason` label's values: "memory", "account_spans", "ledger_unavailable", "payment_pending", "shutdown",
        #: "starting", "internal"
        self.reason = reason
        self.retry_after_seconds = retry_after_seconds
        super().__init__(detail or f"the receiver has no room just now ({reason}): send again in {retry_after_seconds:g} s")


class PaymentPending(Overloaded):
    """The credential is a token whose invoice has not been seen settled yet; it is being looked at now."""

    def __init__(self, *, retry_after_seconds: float) -> None:
        super().__init__(
            reason="payment_pending",
            retry_after_seconds=retry_after_seconds,
            detail="the invoice of this token has not been seen paid yet, nothing was stored: it is being looked up, send again in"
            f" {retry_after_seconds:g} s",
        )


class TooManyRequests(ReceiverError):
    """Strangers ask for invoices more often than the operator allows."""

    def __init__(self, detail: str, *, retry_after_seconds: float) -> None:
        self.retry_after_seconds = retry_after_seconds
        super().__init__(detail)


class CreditHeld(Overloaded):
    """As CreditExhausted, but the operator lets clients keep the spans: the same request succeeds once somebody has topped up."""

    def __init__(self, detail: str, *, account: str, balance_msat: int, topup_url: str, retry_after_seconds: float) -> None:
        self.account = account
        self.balance_msat = balance_msat  #: available
        self.topup_url = topup_url
        super().__init__(reason="credit_exhausted", retry_after_seconds=retry_after_seconds, detail=detail)


class ConfigError(ReceiverError):
    """All that is wrong with a configuration, found in one reading."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems  #: a sentence each, with the key's path, what was found and what is allowed
        super().__init__("\n".join(problems))
