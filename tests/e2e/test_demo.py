"""`spantoll demo` as a user runs it: both acts, on the real daemon, and an exit code that is 0 only when everything agrees."""

from __future__ import annotations

import subprocess
import sys

from receiver.demo.paying import TOPUP_SAT
from receiver.demo.script import Script


def test_the_demo_plays_both_acts_and_agrees_with_the_truth() -> None:
    """Calls, tokens and cost equal the truth; then an export is refused, an invoice is paid, the export is taken, the books balance."""
    ended = subprocess.run([sys.executable, "-m", "receiver", "demo"], capture_output=True, text=True, timeout=170, check=False)
    told = ended.stdout
    assert ended.returncode == 0, told + ended.stderr
    script = Script.load()
    assert "All of it agrees with the truth" in told
    for word in (
        f"{script.spans} spans",
        "FAILED_PRECONDITION",
        "HTTP 402",
        f"{TOPUP_SAT:,} sat",
        "lnbcrt",
        "settled",
        "The books balance",
    ):
        assert word in told, f"{word!r} was not told:\n{told}"
