"""Both listeners under generated requests: schemathesis reads `openapi.json` and sends what it allows, and what it does not.

No answer is a fault of ours, and each has a status, a type and a body that the document describes. What a test by hand would not think
of is the point; the seed is fixed, so a failure repeats.
"""

from __future__ import annotations

import asyncio
import copy
import importlib.util
import json
import re
import sys
from pathlib import Path

from receiver.web.openapi import document
from tests.integration.test_daemon_credit import TOKEN, serving
from tests.require import need

SEED = 7
#: Requests for each way into each operation: some 1,500 in all.
EXAMPLES = 30
#: A hang is a failure.
PATIENCE_SECONDS = 240
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
#: Writes to any path of this machine, as the operator may ask for.
LEFT_OUT = "^/api/v1/backup$"


def of_listener(listener: str) -> dict[str, object]:
    """The document with what one listener serves."""
    found = copy.deepcopy(document())
    for path, methods in list(found["paths"].items()):
        found["paths"][path] = {name: each for name, each in methods.items() if listener in each["x-spantoll-listeners"]}
        if not found["paths"][path]:
            del found["paths"][path]
    return found


async def test_generated_requests_meet_no_fault(tmp_path: Path) -> None:
    """The customers' listener first, as the account that everyone has without a key; then the operator's with its token."""
    need(importlib.util.find_spec("schemathesis"), "schemathesis is not installed")
    async with serving(tmp_path / "data", "lightning.address=true", "lightning.public_per_hour=0") as (daemon, ports):
        for listener in ("customer", "operator"):
            file = tmp_path / f"{listener}.json"
            file.write_text(json.dumps(of_listener(listener)))
            options = {
                "--url": f"http://127.0.0.1:{ports[listener]}",
                "--checks": CHECKS,
                "--phases": "examples,coverage,fuzzing",
                "--max-examples": str(EXAMPLES),
                "--seed": str(SEED),
                "--exclude-path-regex": LEFT_OUT,
            }
            if listener == "operator":
                options["--header"] = f"Authorization: Bearer {TOKEN}"
            run = await asyncio.create_subprocess_exec(
                sys.executable,
                "-c",
                "import sys; from schemathesis.cli import schemathesis; sys.exit(schemathesis())",
                "run",
                str(file),
                "--continue-on-failure",
                *(part for option in options.items() for part in option),
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                cwd=tmp_path,
            )
            said, _ = await asyncio.wait_for(run.communicate(), PATIENCE_SECONDS)
            assert run.returncode == 0, said.decode()
            sent = re.search(r"(\d+) generated, (\d+) passed", said.decode())
            assert sent is not None, said.decode()
            assert sent[1] == sent[2]
            assert int(sent[1]) > 100, said.decode()
        found = await daemon.offices.books.ledger.audit()  # type: ignore[union-attr]  # it has books
        assert found.balanced, "whatever was asked, the books add up"
