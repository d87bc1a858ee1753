"""`spantoll credit token`: buy an account of somebody's daemon over Lightning (L402). Asks its customers' listener; needs no operator."""

from __future__ import annotations

import hashlib
import http.client
import json
import re
import ssl
import sys
import time
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote, urlsplit

import click

from receiver.cli.credit import show_invoice
from receiver.cli.operator_api import Failed
from receiver.cli.options import formatted
from receiver.core.credit import format_sat
from receiver.logs import printable

#: A node makes an invoice within a second or two, over Tor within ten.
TIMEOUT_SECONDS: Final = 30.0
#: A payment whose preimage the payer has is seen by the daemon within a second; a node that hangs is not waited for for ever.
SETTLING_SECONDS: Final = 60.0
_RETRY_SECONDS: Final = 1.0
_LONGEST_ANSWER_BYTES: Final = 1024 * 1024
_PREIMAGE: Final = re.compile(r"[0-9a-fA-F]{64}")
_TOPUPS: Final = "/api/v1/credit/topups"


@click.command()
@formatted
@click.option("--sat", type=click.IntRange(min=1), metavar="N", help="How much, in satoshi.")
@click.option("--url", default="http://localhost:8101", show_default=True, metavar="URL", help="The customers' listener of the daemon.")
@click.option("--token", envvar="SPANTOLL_TOKEN", show_envvar=True, metavar="TOKEN", help="One that you have: to finish buying it.")
@click.option(
    "--preimage",
    envvar="SPANTOLL_PREIMAGE",
    show_envvar=True,
    metavar="HEX",
    help="The proof of payment of its invoice; with --sat: top up.",
)
@click.option(
    "--cacert", type=click.Path(exists=True, dir_okay=False), metavar="FILE", help="Trust this certificate (PEM) of an https URL."
)
@click.option("--qr/--no-qr", default=None, help="Show the invoice as a QR code. Default: on a terminal.")
def token(
    *,
    output_format: str,
    sat: int | None,
    url: str,
    token: str | None,
    preimage: str | None,
    cacert: str | None,
    qr: bool | None,
) -> None:
    """Buy an account without an operator: pay an invoice, and the token is the account.

    The daemon must sell them (l402.enabled). The wallet that pays shows a preimage as its proof of payment; token and preimage together
    are the key of the account, in exporters and here. Whoever has both can use it up, so keep them like a key.

    \b
    Examples:
      spantoll credit token --sat 1000 --url https://spantoll.example.com
      spantoll credit token --token AgEI... --preimage 6c93...              when it was paid elsewhere: the header to set
      spantoll credit token --token AgEI... --preimage 6c93... --sat 5000   top up the same account

    Exit codes: 0 done, 1 it could not be done, 2 the command line is wrong.
    """  # noqa: D301 -- click wants the backspace itself, which keeps the lines below it as they are
    if sat is None and not (token and preimage):
        raise click.UsageError("say how much to buy with --sat, or name the --token and --preimage that you have")
    if token is not None and preimage is None:
        raise click.UsageError("a --token is used with the --preimage of its invoice")
    if preimage is not None and _PREIMAGE.fullmatch(preimage) is None:
        raise click.UsageError("--preimage: must be 64 hexadecimal digits")
    daemon = _Daemon(url, cacert)
    as_json, terminal = output_format == "json", sys.stdout.isatty()
    qr = terminal and not as_json if qr is None else qr
    if token and preimage:
        credential = f"L402 {token}:{preimage}"
        if sat is not None:
            made = daemon.ask("POST", _TOPUPS, {"amount_sat": sat}, credential)
            if as_json:
                click.echo(json.dumps(made, indent=2))
            else:
                show_invoice(made, qr=qr, again="")
            return
        _show(daemon.settled(credential), credential, as_json=as_json)
        return
    assert sat is not None
    sold = daemon.buy(sat)
    if as_json:
        click.echo(json.dumps({name: sold[name] for name in ("account", "token", "topup")}, indent=2))
        return
    show_invoice(sold["topup"], qr=qr, again="")
    if not _somebody_answers():
        click.echo(f"token: {printable(sold['token'])}")
        click.echo("Pay the invoice, then: spantoll credit token --token TOKEN --preimage PROOF_OF_PAYMENT", err=True)
        return
    paid = click.prompt(
        "Paid? The preimage that your wallet shows as proof of payment", value_proc=_proof_of(sold["topup"]["payment_hash"])
    )
    credential = f"L402 {sold['token']}:{paid}"
    _show(daemon.settled(credential), credential, as_json=False)


class _Daemon:
    """A customers' listener, as one of its customers."""

    def __init__(self, url: str, cacert: str | None) -> None:
        self._at = urlsplit(url)
        if self._at.scheme not in ("http", "https") or not self._at.hostname:
            raise click.UsageError("--url: must be a URL such as https://spantoll.example.com")
        self._tls = ssl.create_default_context(cafile=cacert) if self._at.scheme == "https" else None

    def buy(self, sat: int) -> dict[str, Any]:
        status, answer = self._call("POST", _TOPUPS, {"amount_sat": sat}, None)
        if status == 402 and isinstance(answer.get("token"), str):
            return answer
        if status < 300 or status == 401:
            raise Failed("this daemon sells no accounts (l402.enabled): ask its operator for a key")
        raise _refused(status, answer)

    def ask(self, method: str, path: str, body: Mapping[str, Any] | None, credential: str) -> dict[str, Any]:
        """An answer to who has paid; what was paid just now is waited for."""
        ends = time.monotonic() + SETTLING_SECONDS
        while True:
            status, answer = self._call(method, path, body, credential)
            if status < 300:
                return answer
            if answer.get("error") != "payment_pending" or time.monotonic() >= ends:
                raise _refused(status, answer)
            time.sleep(_RETRY_SECONDS)

    def settled(self, credential: str) -> dict[str, Any]:
        """The balance of the account."""
        return self.ask("GET", "/api/v1/credit", None, credential)

    def _call(self, method: str, path: str, body: Mapping[str, Any] | None, credential: str | None) -> tuple[int, dict[str, Any]]:
        headers = {"Accept": "application/json", **({"Authorization": credential} if credential else {})}
        content = None
        if body is not None:
            content = json.dumps(body).encode()
            headers["Content-Type"] = "application/json"
        host, port = self._at.hostname or "", self._at.port
        connection = (
            http.client.HTTPConnection(host, port, timeout=TIMEOUT_SECONDS)
            if self._tls is None
            else http.client.HTTPSConnection(host, port, timeout=TIMEOUT_SECONDS, context=self._tls)
        )
        try:
            connection.request(method, self._at.path.rstrip("/") + path, body=content, headers=headers)
            answer = connection.getresponse()
            found = json.loads(answer.read(_LONGEST_ANSWER_BYTES))
            if isinstance(found, dict):
                return answer.status, found
        except ValueError:
            pass
        except (OSError, http.client.HTTPException) as error:
            raise Failed(f"the daemon at {self._at.geturl()} does not answer ({str(error) or type(error).__name__})") from error
        finally:
            connection.close()
        raise Failed(f"what answers at {self._at.geturl()} is no Spantoll daemon: --url is that of its customers' listener")


def _somebody_answers() -> bool:
    return sys.stdin.isatty()


def _refused(status: int, answer: Mapping[str, Any]) -> Failed:
    return Failed(str(answer.get("message") or f"HTTP {status}"), status=status, error=str(answer.get("error") or ""))


def _proof_of(payment_hash: str) -> Any:
    def judged(text: str) -> str:
        text = text.strip().lower()
        if _PREIMAGE.fullmatch(text) is None or hashlib.sha256(bytes.fromhex(text)).hexdigest() != payment_hash:
            raise click.UsageError("this is not the preimage of that invoice: it has 64 hexadecimal digits, and comes with the payment")
        return text

    return judged


def _show(balance: dict[str, Any], credential: str, *, as_json: bool) -> None:
    """The account and the header that opens it."""
    headers = f"authorization={quote(credential, safe='')}"  # OTLP's environment holds values percent-encoded
    if as_json:
        click.echo(
            json.dumps({"account": balance["account"], "authorization": credential, "otlp_headers": headers, "balance": balance}, indent=2)
        )
        return
    click.echo(f"account {printable(balance['account'])} has {format_sat(balance['posted_msat'])} sat. Its key:")
    click.echo(f"  Authorization: {credential}")
    click.echo("For an OpenTelemetry SDK or the collector:")
    click.echo(f'  export OTEL_EXPORTER_OTLP_TRACES_HEADERS="{headers}"')
