"""What holds for every test: one seed a run, all of a machine's processors for the whole suite, and Hypothesis without a clock."""

from __future__ import annotations

import logging
import os
from collections.abc import Generator, Iterator
from typing import Final, TypeVar

import pytest
from hypothesis import HealthCheck, settings

from tests import sampling

#: Hypothesis loads "ci" by itself where CI is set: the same examples each time, so that a change fails for what it changed.
settings.register_profile(
    "spantoll",
    settings.get_profile("ci" if os.environ.get("CI") else "default"),
    deadline=None,  # and no judgement of how long the drawing took: a busy machine is not a fault
    suppress_health_check=[HealthCheck.too_slow],
    print_blob=True,
)
settings.load_profile("spantoll")


Report = TypeVar("Report", pytest.TestReport, pytest.CollectReport)

#: How a reason begins that no installation can take away.
FORBIDDEN: Final = "Skipped: this kernel "


def _required(report: Report) -> Report:
    """The report, where nothing may be skipped: a skip is a failure, whoever skipped and by what means."""
    if sampling.WHOLE and report.skipped and not hasattr(report, "wasxfail") and isinstance(report.longrepr, tuple):
        reason = report.longrepr[2]
        if not reason.startswith(FORBIDDEN):
            report.outcome = "failed"
            report.longrepr = f"SPANTOLL_REQUIRE is set, and this was not tried. {reason}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    return _required((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    return _required((yield))


@pytest.fixture(autouse=True)
def _logs_as_they_were() -> Iterator[None]:
    """Who silences or raises the process's logs does so for this test alone: the next one may read them."""
    found = [logging.getLogger(), logging.getLogger("receiver"), logging.getLogger("asyncio")]
    disabled, levels = logging.root.manager.disable, [one.level for one in found]
    yield
    logging.disable(disabled)
    for one, level in zip(found, levels, strict=True):
        one.setLevel(level)


def pytest_report_header() -> str:
    """Said at the top of each run."""
    how = "everything is tried" if sampling.WHOLE else "of the longest series a sample is tried (SPANTOLL_REQUIRE=1: everything)"
    return f"seed of this run: {sampling.VARIABLE}={sampling.SEED}; {how}"


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """A process for each processor, at most 8; named files and tests run in this one, where a debugger and print can be used."""
    named = any(".py" in argument for argument in config.args)
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return 0 if named or processors == 1 else min(processors, 8)
