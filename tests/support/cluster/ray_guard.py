"""The marker `ray`: set by fixture, and a test that starts Ray without it fails, in whatever process it does."""

import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.cluster.without_ray import sitecustomize

FIXTURES = {"local_ray", "cluster", "heads", "workspace", "new_workspace"}  # each starts a Ray
FOLDER = str(Path(sitecustomize.__file__).parent)

_popen = subprocess.Popen.__init__


def _start(process: Any, args: Any, bufsize: int = -1, executable: Any = None, *rest: Any, **named: Any) -> None:
    sitecustomize.refuse_server(executable or (args if isinstance(args, str | bytes | os.PathLike) else args[0]))
    _popen(process, args, bufsize, executable, *rest, **named)


# No audit hook in this process: it would be called a million times by torch, which asks for the id of each tensor.
subprocess.Popen.__init__ = _start  # type: ignore[method-assign]


def pytest_itemcollected(item: pytest.Item) -> None:
    if FIXTURES & set(getattr(item, "fixturenames", ())):
        item.add_marker("ray")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Iterator[None]:
    """Forbid, before any fixture of the test is set up."""
    if not item.get_closest_marker("ray"):
        _forbid()
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Iterator[None]:
    """Allow again, after the last fixture; a code that handled the refusal does not hide it."""
    try:
        return (yield)
    finally:
        started = _allow()
        assert not started, f"a test that starts Ray needs the marker `ray`; it started {', '.join(started)}"


def _forbid() -> None:
    handle, report = tempfile.mkstemp(prefix="brainray-ray-")
    os.close(handle)
    os.environ[sitecustomize.REPORT] = report
    os.environ["PYTHONPATH"] = os.pathsep.join([FOLDER, *filter(None, [os.environ.get("PYTHONPATH")])])


def _allow() -> list[str]:
    """What was started against the rule since `_forbid`."""
    report = os.environ.pop(sitecustomize.REPORT, None)
    if report is None:
        return []
    folders = os.environ["PYTHONPATH"].split(os.pathsep)
    os.environ["PYTHONPATH"] = os.pathsep.join(folder for folder in folders if folder != FOLDER)
    started = Path(report).read_text().split()
    os.unlink(report)
    return started
