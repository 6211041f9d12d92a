"""Folders on this machine for what is needed while a command runs.

A command that is killed leaves its folder behind, and an audit's may hold many gigabytes: the next command removes it.
"""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_PREFIX = "brainray-"
_HELD = ".held"  # locked for as long as the process lives that made the folder


@contextmanager
def scratch_folder() -> Iterator[str]:
    """An empty folder, gone at the end, and those of processes that are no more with it."""
    _remove_abandoned()
    with tempfile.TemporaryDirectory(prefix=_PREFIX, ignore_cleanup_errors=True) as folder, _held(folder):
        yield folder


@contextmanager
def _held(folder: str) -> Iterator[None]:
    """It gets its name when it is locked: a file of that name that nobody has locked is a dead process's."""
    new = os.path.join(folder, f"{_HELD}.new")
    file = os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        os.rename(new, os.path.join(folder, _HELD))
        yield
    finally:
        os.close(file)


def _remove_abandoned() -> None:
    with suppress(OSError):  # that a folder cannot be removed is no reason to end a run
        for entry in os.scandir(tempfile.gettempdir()):
            if entry.name.startswith(_PREFIX) and entry.is_dir(follow_symlinks=False):
                _remove_if_abandoned(entry.path)


def _remove_if_abandoned(folder: str) -> None:
    try:
        file = os.open(os.path.join(folder, _HELD), os.O_RDWR | os.O_NOFOLLOW)
    except OSError:  # another user's, or not one of these
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return
    else:
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(file)
