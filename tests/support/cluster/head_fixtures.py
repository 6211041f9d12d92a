"""One Ray head for the test files that name this one in `pytest_plugins`, and the environment of one who has none."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from support.cluster.heads import BIN, ENVIRONMENT, FRUGAL, Head, a_head
from support.machine.interpreters import bare_python


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that need the head come last, so that it is there for them only; those that kill it, last of all."""
    items.sort(key=lambda item: sum(name in getattr(item, "fixturenames", ()) for name in ("heads", "doomed_head")))


class Heads:
    """One for all tests that need one, for it takes ten seconds to start; another one where that was killed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open = ExitStack()
        self._started: Head | None = None

    def running(self) -> Head:
        """It takes jobs of who brings the token of `ENVIRONMENT`."""
        if self._started is None:
            self._started = self._open.enter_context(a_head(self._folder, ENVIRONMENT))
        return self._started

    def kill(self) -> None:
        """It and all its processes."""
        os.killpg(self.running().pid, signal.SIGKILL)
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
    return heads.running().dashboard


@pytest.fixture
def doomed_head(heads: Heads) -> tuple[str, Callable[[], None]]:
    """The address, and what kills the head."""
    return heads.running().dashboard, heads.kill


@pytest.fixture
def plain(tmp_path: Path) -> dict[str, str]:
    """An environment with a home folder of its own, no setting of Ray's but `FRUGAL`, and a bare `python`."""
    (tmp_path / "home").mkdir()
    bare = Path(bare_python(tmp_path)).parent
    path = ":".join(folder for folder in os.environ["PATH"].split(":") if Path(folder) != BIN)
    names = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "VIRTUAL_ENV"))}
    # The package is there for `brainray`, as if it were installed; jobs get the one that is uploaded.
    return names | FRUGAL | {"HOME": str(tmp_path / "home"), "PATH": f"{bare}:{path}"}
