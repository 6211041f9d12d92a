"""Folders and files to be listed, and folders that may not be read."""

import errno
import os

import pytest


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")


@pytest.fixture
def forbid(monkeypatch):
    """Makes folders unreadable, also for root."""
    forbidden = set()
    scandir = os.scandir

    def scan(path):
        if os.fspath(path) in forbidden:
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", scan)
    return lambda path: forbidden.add(os.fspath(path))
