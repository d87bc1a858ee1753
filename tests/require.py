"""What a test needs beside Python: skipped with its reason on a machine that lacks it, a failure where SPANTOLL_REQUIRE is set."""

from __future__ import annotations

import os
import shutil

import pytest

from tests.sampling import WHOLE


def need(found: object, reason: str) -> None:
    """Skip the test for `reason` unless `found`; under SPANTOLL_REQUIRE=1 (CI, which installs everything) fail instead."""
    if found:
        return
    if os.environ.get("SPANTOLL_REQUIRE"):
        pytest.fail(f"SPANTOLL_REQUIRE is set, but {reason}")
    pytest.skip(reason)


def need_time(what: str) -> None:
    """Skip a test that takes long, and is of use to those who change `what`; under SPANTOLL_REQUIRE=1 everything is tried."""
    if not WHOLE:
        pytest.skip(f"{what}: tried where SPANTOLL_REQUIRE=1 is set, for it takes long")


def need_program(name: str, package: str) -> str:
    """The path of a program, e.g. promtool of Debian's package prometheus."""
    path = shutil.which(name)
    need(path, f"{name} is not installed (Debian package {package})")
    assert path is not None
    return path
