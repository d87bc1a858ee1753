"""Where the real nodes come from, and the truth that they tell beside the daemon's books.

`SPANTOLL_LIGHTNING_TOOLS` names a folder with `regtest.py` (a library: `RegtestNet(folder)` starts btcd and two LND nodes that were built
before) and `lnbits.py` (`LnbitsServer(folder)`, which needs an interpreter with LNbits, `SPANTOLL_LNBITS_PYTHON`).
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.e2e.daemon import PATIENCE_SECONDS, Daemon, daemon, eventually
from tests.require import need

TOOLS = "SPANTOLL_LIGHTNING_TOOLS"
LNBITS_PYTHON = "SPANTOLL_LNBITS_PYTHON"
ACCOUNT = "default"


def tool(name: str) -> Any:
    """The module `regtest` or `lnbits`; the test is skipped, or fails under SPANTOLL_REQUIRE, where it cannot be had."""
    folder = os.environ.get(TOOLS, "")
    need(folder, f"{TOOLS} is not set: it names the folder with regtest.py and lnbits.py, which start real Lightning nodes")
    need(Path(folder, f"{name}.py").is_file(), f"there is no {name}.py in {folder} ({TOOLS})")
    if folder not in sys.path:
        sys.path.insert(0, folder)
    regtest = importlib.import_module("regtest")
    try:
        regtest.binaries()
    except regtest.RegtestError as error:
        need(False, f"the nodes are not built: {error}")
    if name == "lnbits":
        python = os.environ.get(LNBITS_PYTHON, "")
        need(python and Path(python).is_file(), f"{LNBITS_PYTHON} is not set: it names a Python that has LNbits installed")
    return importlib.import_module(name)


def call(daemon_: Daemon, method: str, path: str, body: Any = None) -> Any:
    """The operator's API; raises HTTPError for a refusal, OSError when nobody is there."""
    headers = {"Authorization": f"Bearer {(daemon_.folder / 'spantoll-data' / 'operator.token').read_text().strip()}"}
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(  # noqa: S310 -- loopback
        daemon_.operator + path, data, headers | {"Content-Type": "application/json"}, method=method
    )
    with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS) as answer:  # noqa: S310 -- loopback
        return json.loads(answer.read())


def top_up(daemon_: Daemon, amount_sat: int) -> dict[str, Any]:
    """A new top-up of the account, as the API shows it."""
    made: dict[str, Any] = call(daemon_, "POST", f"/api/v1/accounts/{ACCOUNT}/topups", {"amount_sat": amount_sat})
    return made


def shown(daemon_: Daemon, payment_hash: str) -> dict[str, Any]:
    found: dict[str, Any] = call(daemon_, "GET", f"/api/v1/accounts/{ACCOUNT}/topups/{payment_hash}")
    return found


def credited_msat(daemon_: Daemon) -> int:
    """All that the account was ever credited, as its balance and its debits come to."""
    posted_msat = int(call(daemon_, "GET", f"/api/v1/accounts/{ACCOUNT}/credit")["posted_msat"])
    return posted_msat + round(daemon_.metric("spantoll_credit_debited_msat_total", account=ACCOUNT))


def credited(daemon_: Daemon, payment_hash: str) -> dict[str, Any]:
    """The top-up, once it is settled."""

    def look() -> dict[str, Any] | None:
        found = shown(daemon_, payment_hash)
        return found if found["state"] == "settled" else None

    settled: dict[str, Any] = eventually(look, what=f"the credit of {payment_hash}")
    return settled


@dataclass
class Truth:
    """What the receiving LND node says that it was paid since this was made: all that the books may show, and no more."""

    node: Any
    since_index: int

    @classmethod
    def of(cls, node: Any) -> Truth:
        newest = node.call("GET", "/v1/invoices?reversed=true&num_max_invoices=1").get("invoices") or [{"add_index": "0"}]
        return cls(node, int(newest[-1]["add_index"]))

    def settled(self) -> dict[str, int]:
        """Payment hash -> msat received, of every invoice for our account that the node has been paid."""
        import base64

        path = f"/v1/invoices?index_offset={self.since_index}&num_max_invoices=1000"
        rows = self.node.call("GET", path).get("invoices") or []
        return {
            base64.b64decode(row["r_hash"]).hex(): int(row["amt_paid_msat"])
            for row in rows
            if row["state"] == "SETTLED" and row["memo"].startswith("Spantoll credit")
        }

    def holds(self, daemon_: Daemon) -> dict[str, int]:
        """Waits until the credits are the settlements, then looks at every way in which the books tell of them. Returns them."""
        settled = self.settled()
        eventually(lambda: credited_msat(daemon_) == sum(settled.values()), what=f"credits of {sum(settled.values())} msat")
        assert self.settled() == settled
        hold(daemon_, settled)
        return settled


def hold(daemon_: Daemon, settled: dict[str, int]) -> None:
    """The statement has one line for each settlement and its amount, the metric their sum, and the books add up."""
    statement = call(daemon_, "GET", f"/api/v1/accounts/{ACCOUNT}/statement?since=2020-01-01")
    lines = {line["id"].removeprefix("ln:"): line["amount_msat"] for line in statement["lines"] if line["code"] == "topup"}
    assert len(lines) == sum(line["code"] == "topup" for line in statement["lines"])
    assert lines == settled
    assert credited_msat(daemon_) == sum(settled.values())
    assert daemon_.metric("spantoll_credit_topped_up_msat_total", account=ACCOUNT) == sum(settled.values())
    assert call(daemon_, "GET", "/api/v1/audit")["balanced"] is True


def lnd_settings(node: Any, *, url: str = "") -> tuple[str, ...]:
    """`[lightning]` for a node of the network; `url`: of a proxy before it, in plain text."""
    reached = (f"lightning.lnd.url={url}",) if url else (f"lightning.lnd.url={node.rest_url}", f"lightning.lnd.cert_file={node.tls_cert}")
    return (
        "lightning.backend=lnd",
        "lightning.network=regtest",
        f"lightning.lnd.macaroon_file={node.receive_macaroon}",
        "lightning.max_unpaid=99",
        *reached,
    )


def check(*settings: str) -> subprocess.CompletedProcess[str]:
    """`spantoll lightning check`."""
    options = [word for setting in settings for word in ("--set", setting)]
    command = [sys.executable, "-m", "receiver", "lightning", "check", "--format", "table", *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False)


@contextmanager
def lives(folder: Path, *settings: str, fault: str = "") -> Iterator[Daemon]:
    """A daemon that may be killed, by us or by its fault, at any time after it is ready."""
    with daemon(folder, *settings, env={"SPANTOLL_FAULT": fault}) as running:
        yield running


GONE = (OSError, urllib.error.URLError, json.JSONDecodeError)
