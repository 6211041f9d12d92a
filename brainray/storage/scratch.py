"""Temporary folders on this machine, one per command.

A killed command leaves its folder behind, which may hold many gigabytes: the next command removes it. Must not remove
the folder of a process that is alive.
"""

import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from brainray.errors import BadRequest, StorageError

_PREFIX = "brainray-"
_HELD = ".held"  # a file that the owner of the folder keeps locked while it lives


@contextmanager
def scratch_folder() -> Iterator[str]:
    """An empty folder, removed at the end. Folders of processes that have died are removed first.

    Raises `StorageError` where its disk is full.
    """
    temporary_folder()
    _remove_abandoned()
    try:
        with tempfile.TemporaryDirectory(prefix=_PREFIX, ignore_cleanup_errors=True) as folder, held(folder):
            yield folder
    except OSError as exc:  # of a temporary file: those of the user have a `StorageError`
        if exc.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise no_room() from exc


def no_room() -> StorageError:
    """The error for a folder of temporary files without room."""
    return StorageError(
        "read_failed",
        f"{tempfile.gettempdir()}: no space left for temporary files; make room there, or set TMPDIR to a folder "
        "with more, and run the same command again",
    )


def temporary_folder() -> str:
    """The folder for temporary files. Raises `BadRequest` where none can be written to."""
    try:
        return tempfile.gettempdir()
    except FileNotFoundError as exc:
        raise BadRequest("no folder for temporary files can be written to; set TMPDIR to one with room") from exc


@contextmanager
def held(folder: str) -> Iterator[None]:
    """Keep the folder's lock file locked. It is renamed into place locked: an unlocked one means a dead owner."""
    new = os.path.join(folder, f"{_HELD}.new")
    file = os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        os.rename(new, os.path.join(folder, _HELD))
        yield
    finally:
        os.close(file)


def _remove_abandoned() -> None:
    with suppress(OSError):  # a folder that cannot be removed must not end a run
        for found in os.scandir(tempfile.gettempdir()):
            if found.name.startswith(_PREFIX) and found.is_dir(follow_symlinks=False):
                remove_if_abandoned(found.path)


def remove_if_abandoned(folder: str) -> None:
    """Remove a folder that was `held` by a process that has died; leave any other."""
    try:
        file = os.open(os.path.join(folder, _HELD), os.O_RDWR | os.O_NOFOLLOW)
    except OSError:  # another user's folder, or one without a lock file
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return
    else:
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(file)
