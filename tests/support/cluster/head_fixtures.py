"""One Ray head for the test files that name this one in `pytest_plugins`."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from support.cluster.heads import start_head


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that need the head come last, so that it is there for them only; those that kill it, last of all."""
    items.sort(key=lambda item: sum(name in getattr(item, "fixturenames", ()) for name in ("heads", "doomed_head")))


class Heads:
    """One for all tests that need one, for it takes ten seconds to start; another one where that was killed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open = ExitStack()
        self._started: tuple[str, int] | None = None

    def running(self) -> tuple[str, int]:
        if self._started is None:
            self._started = self._open.enter_context(start_head(self._folder))
        return self._started

    def kill(self) -> None:
        """It and all its processes."""
        os.killpg(self.running()[1], signal.SIGKILL)
        self.close()

    def close(self) -> None:
        self._open.close()
        self._started = None


@pytest.fixture(scope="session")
def heads(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Heads]:
    with closing(Heads(tmp_path_factory.mktemp("head"))) as heads:
        yield heads


@pytest.fixture
def head(heads: Heads) -> str:
    """The address of the head's dashboard."""
    return heads.running()[0]


@pytest.fixture
def doomed_head(heads: Heads) -> tuple[str, Callable[[], None]]:
    """The address, and what kills the head."""
    return heads.running()[0], heads.kill
