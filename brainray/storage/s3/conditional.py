"""Creates an object exactly once: by conditional writes, or by a ballot where a store has none.

AWS, MinIO and others decide by `If-None-Match` and `If-Match`. Some stores accept the headers and ignore them, so each
bucket is probed once per process. The ballot is a weaker guarantee; see `ballot`.
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

_MARK = "brainray-writer"  # metadata key: identifies our own write after its answer was lost
SETTLE_S = 3.0  # wait of a ballot, until earlier candidates must be listed


@dataclass(frozen=True, kw_only=True, slots=True)
class Conditions:
    """The conditional headers of writes that a store honours."""

    if_none_match: bool
    if_match: bool


class Probe:
    """Finds out which conditions each bucket honours, once per process. Safe to share between threads."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], Conditions] = {}
        self._lock = threading.Lock()

    def ask(self, requests: Requests, folder: str) -> Conditions:
        """The conditions that the bucket of `folder` honours. Writes a small hidden object there, and removes it."""
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
    """Whether a write whose condition does not hold is refused for that. Any other refusal counts as no."""
    try:
        requests.persist(partial(requests.put_once, uri, b"", **condition))
    except Changed:
        return True
    except StorageError as exc:
        if exc.reason == "read_failed":
            raise
    return False


def write_first(requests: Requests, uri: str, data: bytes) -> bool:
    """Create an object by `If-None-Match`; False if it exists already.

    The answer may be lost after the store has written. So the object carries a random mark in its metadata: when a
    retry finds the object there, the mark shows whether this call wrote it.
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
    """Create `<folder>/<name>` on a store without conditional writes; False if another writer did or may have.

    Each writer puts a candidate, waits `settle_s` until earlier candidates must be listed, and lists them: the first by
    name, which begins with the time, wins. Both can win only if one writer stalls for more than `settle_s` between
    listing the candidates and writing, or before its candidate appears. Clocks need not agree: a late writer finds the
    object. A winner whose listing took longer than `settle_s` lists again. A killed writer's candidate stays, and no
    later writer wins: the folder counts as taken, like any folder that a killed claim leaves.
    """
    target = join(folder, name)
    if requests.keys(folder):
        return False
    own = f".candidate-{time.time_ns():020d}-{secrets.token_hex(8)}"
    requests.put(join(folder, own), data)
    while True:
        sleep(settle_s)
        listed_s = time.clock_gettime(time.CLOCK_BOOTTIME)
        present = requests.keys(folder)
        candidates = [key for key in present if key.startswith(".candidate-")]
        if name in present or own not in candidates or candidates[0] != own:
            requests.remove(join(folder, own))
            return False
        if time.clock_gettime(time.CLOCK_BOOTTIME) - listed_s < settle_s:
            break
    requests.put(target, data)
    requests.remove(join(folder, own))
    return True
