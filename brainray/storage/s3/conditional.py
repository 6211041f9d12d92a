"""Of many who try to write an object first, one succeeds: by conditional writes, or by a ballot where a store has none.

With `If-None-Match` and `If-Match` the store decides, as AWS and MinIO do. Some stores take the headers and ignore
them, so each bucket is tried once per process. The ballot is a promise of a lesser kind; see `ballot`.
"""

import secrets
import threading
import time
from dataclasses import dataclass
from functools import partial

from brainray.callbacks import Sleep
from brainray.errors import Changed, StorageError

from .requests import Requests
from .uris import join, split

_MARK = "brainray-writer"  # object metadata: tells our own write from another's after an answer was lost
SETTLE_S = 3.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Conditions:
    """Which conditions of a write the store honours."""

    if_none_match: bool
    if_match: bool


class Probe:
    """What each bucket of each store honours, tried once and remembered. Every thread may ask."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], Conditions] = {}
        self._lock = threading.Lock()

    def ask(self, requests: Requests, folder: str) -> Conditions:
        """`folder`: where a small hidden object may be written for a moment."""
        bucket, _ = split(folder)
        with requests.translated("s3:PutObject", folder):
            endpoint, is_aws = requests.clients.endpoint, requests.clients.is_aws
        if is_aws:
            return Conditions(if_none_match=True, if_match=True)
        with self._lock:
            if (endpoint, bucket) not in self._known:
                self._known[endpoint, bucket] = _try_conditions(
                    requests, join(folder, f".probe-{secrets.token_hex(8)}")
                )
            return self._known[endpoint, bucket]


def _try_conditions(requests: Requests, uri: str) -> Conditions:
    requests.put(uri, b"")
    try:
        return Conditions(
            if_none_match=_refused(requests, uri, IfNoneMatch="*"),
            if_match=_refused(requests, uri, IfMatch='"00000000000000000000000000000000"'),
        )
    finally:
        requests.remove(uri)


def _refused(requests: Requests, uri: str, **condition: str) -> bool:
    """Whether a write that must fail does. A store that says it knows no such condition lacks it, too."""
    try:
        requests.persist(partial(requests.put_once, uri, b"", **condition))
    except Changed:
        return True
    except StorageError as exc:
        if exc.reason == "read_failed":
            raise
    return False


def write_first(requests: Requests, uri: str, data: bytes) -> bool:
    """Write an object that is not there, by `If-None-Match`; False where another was first.

    An answer may be lost after the store has written. So each writer leaves its mark, and who is told at the second try
    that the object is there looks whose it is.
    """
    mark = secrets.token_hex(16)
    tries = requests.tries()
    try:
        requests.persist(partial(requests.put_once, uri, data, IfNoneMatch="*", Metadata={_MARK: mark}), tries)
    except Changed:
        if tries.count == 1:
            return False
        found = requests.head(uri)
        return found is not None and found.get("Metadata", {}).get(_MARK) == mark
    return True


def ballot(requests: Requests, folder: str, name: str, data: bytes, *, settle_s: float, sleep: Sleep) -> bool:
    """Write `<folder>/<name>` first, on a store without conditional writes; False where another did or may have.

    Each writes a candidate, waits until those who began before it must be seen, and looks: the first candidate by name,
    which begins with the time, wins. Two can win only where a writer is halted, or one of its requests takes, longer
    than `settle_s` just between its look and its write, or before its candidate is there; the clocks need not agree,
    for who comes later sees the object itself. A winner that needed longer looks again. A killed writer's candidate
    stays and lets nobody win: the folder counts as taken, as any folder that a killed claim leaves.
    """
    target = join(folder, name)
    if requests.keys(folder):
        return False
    own = f".candidate-{time.time_ns():020d}-{secrets.token_hex(8)}"
    requests.put(join(folder, own), data)
    while True:
        sleep(settle_s)
        looked_s = time.clock_gettime(time.CLOCK_BOOTTIME)
        present = requests.keys(folder)
        candidates = [key for key in present if key.startswith(".candidate-")]
        if name in present or own not in candidates or candidates[0] != own:
            requests.remove(join(folder, own))
            return False
        if time.clock_gettime(time.CLOCK_BOOTTIME) - looked_s < settle_s:
            break
    requests.put(target, data)
    requests.remove(join(folder, own))
    return True
