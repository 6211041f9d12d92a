"""One Ray head for the test files that name this one in `pytest_plugins`."""

import os
import signal
from collections.abc import Callable, Iterator

import pytest
from heads import start_head


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that need the head come last, so that it is there for them only; those that kill it, last of all."""
    items.sort(key=lambda item: sum(name in getattr(item, "fixturenames", ()) for name in ("head", "doomed_head")))


@pytest.fixture(scope="session")
def started_head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, int]]:
    """One for all tests that need it, for it takes ten seconds to start."""
    with start_head(tmp_path_factory.mktemp("head")) as started:
        yield started


@pytest.fixture
def head(started_head: tuple[str, int]) -> str:
    """The address of the head's dashboard."""
    return started_head[0]


@pytest.fixture
def doomed_head(head: str, started_head: tuple[str, int]) -> tuple[str, Callable[[], None]]:
    """The address, and what kills the head with all its processes: no test comes after those that ask for this."""
    return head, lambda: os.killpg(started_head[1], signal.SIGKILL)
