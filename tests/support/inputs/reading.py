"""A storage that fails as told, and readers that read it without waiting."""

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from brainray.errors import Outage, StorageError, Throttled
from brainray.inputs.ranges import RangeRead
from brainray.inputs.reader import (
    READS_IN_FLIGHT,
    Reader,
)


class Disk:
    """A storage whose files fail as told: a reason for each attempt, the last one for ever; None is a success."""

    def __init__(self, failures=None):
        self.failures = failures or {}
        self.attempts = Counter()
        self._lock = threading.Lock()

    def read(self, piece):
        uri = piece.uri
        with self._lock:
            attempt = self.attempts[uri]
            self.attempts[uri] += 1
        reasons = self.failures.get(uri, [None])
        reason = reasons[min(attempt, len(reasons) - 1)]
        if reason == "throttled":
            raise Throttled("read_failed", f"{uri}: fewer requests, please")
        if reason:
            raise StorageError(reason, f"{uri}: broken")
        return (uri.encode(),)


def whole(uris):
    return [RangeRead(uri, None) for uri in uris]


def reader(disk=None, **options):
    read = {"read": disk.read} if disk else {}
    return Reader(**{"sleep": lambda seconds: None} | read | options)


def read_all(reader, uris):
    with ThreadPoolExecutor(READS_IN_FLIGHT) as pool:
        return list(reader.read_ahead(whole(uris), pool))


def read_until_outage(reader, uris, match):
    contents = []
    with ThreadPoolExecutor(READS_IN_FLIGHT) as pool, pytest.raises(Outage, match=match):
        contents.extend(reader.read_ahead(whole(uris), pool))
    return contents


def names(count, prefix="/in/"):
    return [f"{prefix}{i:03}" for i in range(count)]


def all_fail(uris, reason):
    return Disk({uri: [reason] for uri in uris})
