"""Faults at the storage seam: the process dies, or the file system fails, at the n-th change of the file system."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from brainray.storage import local

CHANGES = ("replace", "rename", "unlink", "link", "mkdir", "makedirs", "fsync", "rmdir")


class Killed(BaseException):
    """The process is dead: nothing it would do from here on happens, not even its cleaning up."""


class FailingOs:
    """The module `os` as `storage` sees it, with changes of the file system counted and one of them failing."""

    def __init__(self, at: int | None, error: OSError | None = None, *, syncs: bool = True) -> None:
        self.changes = 0
        self._counted = CHANGES if syncs else tuple(name for name in CHANGES if name != "fsync")
        self._at, self._error = at, error

    def __getattr__(self, name: str):
        function = getattr(os, name)
        if name not in self._counted:
            return function

        def counted(*args, **kwargs):
            self.fail_if_due()
            return function(*args, **kwargs)

        return counted

    def fail_if_due(self) -> None:
        self.changes += 1
        if self._at is None or self.changes < self._at:
            return
        if self._error is None:
            raise Killed
        if self.changes == self._at:
            raise self._error


class _FailingShutil:
    def __init__(self, failing: FailingOs) -> None:
        self._failing = failing

    def __getattr__(self, name: str):
        return getattr(shutil, name)

    def rmtree(self, *args, **kwargs):
        self._failing.fail_if_due()
        return shutil.rmtree(*args, **kwargs)


@contextmanager
def failing(monkeypatch, at: int | None, error: OSError | None = None, *, syncs: bool = True) -> Iterator[FailingOs]:
    """`storage` fails at change number `at`: the process is killed there, or that one change raises `error`.

    Without `syncs` these are no changes: one killed before a sync leaves what one leaves that is killed after it.
    """
    fault = FailingOs(at, error, syncs=syncs)
    with monkeypatch.context() as patch:
        patch.setattr(local, "os", fault)
        patch.setattr(local, "shutil", _FailingShutil(fault))
        yield fault


def mark_lease_dead(output: str) -> None:
    """Make the holder of the lease a process that is dead, as it would be had this one been killed."""
    for holder in Path(output, ".lease").glob("0*/holder.json"):
        said = json.loads(holder.read_text())
        holder.write_text(json.dumps(said | {"started_ticks": -1}))
