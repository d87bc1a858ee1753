"""The networks, started once for all tests that leave them as they were."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.lightning.nodes import tool


@pytest.fixture(scope="session")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Any]]:
    """`networks(database)`: a running network whose nodes use that store, "bolt" or "sqlite"."""
    regtest = tool("regtest")
    running: dict[str, Any] = {}
    with ExitStack() as stack:

        def network(database: str) -> Any:
            if database not in running:
                running[database] = stack.enter_context(regtest.RegtestNet(tmp_path_factory.mktemp(database), database))
            return running[database]

        yield network


@pytest.fixture
def net(request: pytest.FixtureRequest, networks: Callable[[str], Any]) -> Any:
    """A network that other tests use as well; LND's default store unless the test names another."""
    return networks(getattr(request, "param", "bolt"))


@pytest.fixture
def new_net(tmp_path: Path) -> Iterator[Any]:
    """A network that nobody has used, for tests that begin at its beginning or break it."""
    regtest = tool("regtest")
    with regtest.RegtestNet(tmp_path / "net") as running:
        yield running
