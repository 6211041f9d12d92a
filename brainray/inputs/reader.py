"""Reads the bytes of images ahead, with retries, and distinguishes an outage of the storage from bad images.

An image that stays unreadable is data, an `ImageError`. An unavailable storage raises `Outage`, so that a mount that
drops half-way does not turn the rest of the input into error rows. Knows no Ray, no torch, no decoder.
"""

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass

from brainray import storage
from brainray.errors import ImageError, ImageReason, Outage, StorageError
from brainray.storage.retry import ConcurrencyLimit, RetryPolicy, RetryState

from .frames.sources import Image
from .ranges import RangeRead, RangeReader
from .unread import MOST_FILE_BYTES

# Reads in flight while the processor decodes: enough to hide the latency of a disk or a network share.
READS_IN_FLIGHT = 8
# A bucket answers later, but many requests in parallel; and as results are taken in order, one late answer delays the
# rest. Images/s of one shard by reads in flight:
#   latency                        8    16    32    64
#   50 ms                        165   301   494   645
#   30 ms, one in fifty 250 ms     -   170   218   362
# `retry.MOST_AT_ONCE` limits the reads of a whole process.
BUCKET_READS_IN_FLIGHT = 96
# Reads are started in bursts, when this share of them is left, because single ones wake client and store each time. CPU
# time per image with a store on the same machine:
#              client    store
#   single    0.35 ms  1.14 ms
#   bursts    0.27 ms  1.02 ms
_REFILL_AT = 0.5
# Bytes of a shard that are in flight or wait to be decoded, by their listed sizes: limits memory for large files.
AHEAD_BYTES = 64 << 20
_UNKNOWN_BYTES = 1 << 20  # assumed for a file that was listed without its size
# The last reads of a worker whose share of failures decides about an outage. With fewer, a few neighbouring files that
# were deleted since the listing would count as one; with more, a shard may end before an outage is noticed.
OUTAGE_WINDOW = 32
# Reasons that the storage gives for one image, and that say nothing about the others.
_OF_ONE_IMAGE = ("too_large", "archived", "unsupported", "empty")

_REMEDY = (
    "is the input still mounted and readable? Finished parts are kept: run the same command to go on, or with "
    "--max-unread 100% to give such images error rows"
)


@dataclass(frozen=True, slots=True)
class ReadResult:
    """The result of one read: the bytes or the error of each image, and the number of retries."""

    images: tuple[Image, ...]
    retries: int
    unread: str | None = None  # why the storage could not give it; None: it could, or the image itself is the cause


class Reader:
    """Reads for all threads of one worker, each with a shard of its own, and detects outages over all of them.

    `outage_share` is the share of failed reads, of the last `OUTAGE_WINDOW`, above which the storage counts as
    unavailable; 1.0 switches the detection off. `roots` are the inputs of the run. `limit` bounds the concurrent reads.
    `sleep` waits between two attempts; without it an outage ends the wait.
    """

    def __init__(
        self,
        *,
        policy: RetryPolicy | None = None,
        limit: ConcurrencyLimit | None = None,
        outage_share: float = 0.5,
        roots: Sequence[str] = (),
        most_bytes: int = MOST_FILE_BYTES,
        sleep: Callable[[float], None] | None = None,
        read: Callable[[RangeRead], tuple[Image, ...]] | None = None,
    ) -> None:
        self._policy = policy or RetryPolicy()
        self._limit = limit or ConcurrencyLimit()
        self._outage_share = outage_share
        self._roots = tuple(roots)
        self._read = read or RangeReader(most_bytes=most_bytes)
        self._failures: deque[ImageReason | None] = deque(maxlen=OUTAGE_WINDOW)  # None: the read succeeded
        self._lock = threading.Lock()  # guards the deque
        self._last_good: RangeRead | None = None
        self._other_good: RangeRead | None = None  # the last one of another file
        self._outage: str | None = None
        self._outage_known = threading.Event()
        self._sleep = sleep or self._pause

    def read_ahead(
        self,
        reads: Sequence[RangeRead],
        pool: Executor,
        *,
        ahead: int = READS_IN_FLIGHT,
    ) -> Iterator[ReadResult]:
        """The results of a shard's reads in order, with up to `ahead` reads (at most `AHEAD_BYTES`) in flight.

        Raises `Outage` as soon as any thread of this `Reader` has detected one. Also where the last read fails, and so
        does a repetition of one that succeeded before.
        """
        self._raise_outage()
        queue = _ReadQueue(self._read_with_retries, pool, reads, ahead)
        done = unread = 0
        try:
            while (future := queue.take()) is not None:
                result = future.result()
                del future  # it holds the result, too
                self._raise_outage()
                done += 1
                if result.unread is not None:
                    unread += 1
                    if done == len(reads):
                        self._check_for_outage(reads[-1], result.unread, all_failed=unread == len(reads))
                yield result
                del result  # else one more is in memory while the next is awaited
        finally:
            queue.cancel()

    def _pause(self, seconds: float) -> None:
        self._outage_known.wait(seconds)

    def _read_with_retries(self, read: RangeRead) -> ReadResult:
        """One read with its retries, in a thread of the pool. Raises `Outage` where one is known."""
        tries = RetryState(policy=self._policy, in_bucket=_in_bucket(read.uri))
        try:
            images = self._persist(read, tries)
        except StorageError as exc:
            detail = f"{exc} (tried {tries.count} times)" if tries.count > 1 else str(exc)
            errors = (ImageError(exc.reason, detail),) * read.images
            if exc.reason in _OF_ONE_IMAGE:
                return ReadResult(errors, tries.count - 1)
            self._note_failure(read, exc.reason, detail)
            return ReadResult(errors, tries.count - 1, unread=detail)
        with self._lock:
            self._failures.append(None)
        if self._last_good is not None and self._last_good.uri != read.uri:
            self._other_good = self._last_good
        self._last_good = read
        return ReadResult(images, tries.count - 1)

    def _persist(self, read: RangeRead, tries: RetryState) -> tuple[Image, ...]:
        def read_once() -> tuple[Image, ...]:
            with self._limit.slot():
                self._raise_outage()
                return self._read(read)

        return tries.persist(read_once, self._sleep)

    def _note_failure(self, read: RangeRead, reason: ImageReason, detail: str) -> None:
        """Count a failed read, and detect an outage.

        Files that are not found are one only where the storage has lost more than them: else a list of files that were
        deleted long ago would read as an outage. After a look for that, the counting begins anew.
        """
        with self._lock:
            self._failures.append(reason)
            failed = [reason for reason in self._failures if reason is not None]
            too_many = len(self._failures) == OUTAGE_WINDOW and len(failed) > self._outage_share * OUTAGE_WINDOW
            missing = failed.count("not_found")
            is_doubtful = too_many and len(failed) - missing <= self._outage_share * OUTAGE_WINDOW
            if is_doubtful:
                self._failures.clear()
        if not too_many:
            return
        loss = self._find_loss(read) if is_doubtful else None
        if not is_doubtful or loss is not None:
            because = f" and {loss}" if loss else ""
            self._declare(
                f"{len(failed)} of the last {OUTAGE_WINDOW} images could not be read (the last: {detail}){because}"
            )

    def _check_for_outage(self, read: RangeRead, detail: str, *, all_failed: bool) -> None:
        """Detect an outage at the end of a shard whose last read failed, where the window is not full yet.

        Repeats a read of another file that succeeded before; where none did, checks that the inputs exist.
        """
        if self._outage_share >= 1:
            return
        loss = self._find_loss(read) if all_failed or self._last_good is not None else None
        if loss is not None:
            self._declare(f"the last image of a shard could not be read ({detail}) and {loss}")
            self._raise_outage()

    def _find_loss(self, read: RangeRead) -> str | None:
        """What the storage has lost beside a file that could not be read; None where nothing is known to be lost.

        An archive that was removed tells nothing of other files, although it could be read before.
        """
        good = (self._last_good, self._other_good)
        witness = next((one for one in good if one is not None and one.uri != read.uri), None)
        if witness is not None:
            return self._loss_of(witness)
        lost_root = next(filter(None, map(_loss, self._roots)), None)
        below_a_root = any(read.uri.startswith(root.rstrip("/") + "/") for root in self._roots)
        return lost_root if lost_root or below_a_root else _loss_around(read.uri)

    def _loss_of(self, read: RangeRead) -> str | None:
        try:
            self._persist(read, RetryState(policy=self._policy, in_bucket=_in_bucket(read.uri)))
        except StorageError as exc:
            return f"what could be read before can not be read now ({exc})"
        return None

    def _declare(self, problem: str) -> None:
        self._outage = self._outage or " ".join(f"{problem}; {_REMEDY}".splitlines())
        self._outage_known.set()

    def _raise_outage(self) -> None:
        if self._outage is not None:
            raise Outage(self._outage)


class _ReadQueue:
    """The reads of a shard in order: in flight, or done and not yet taken."""

    def __init__(
        self,
        read: Callable[[RangeRead], ReadResult],
        pool: Executor,
        reads: Iterable[RangeRead],
        ahead: int,
    ) -> None:
        self._read = read
        self._pool = pool
        self._waiting = iter(reads)
        self._ahead = ahead
        self._next = next(self._waiting, None)
        self._held: deque[tuple[Future[ReadResult], int]] = deque()
        self._held_bytes = 0

    def take(self) -> Future[ReadResult] | None:
        """The next read, with up to `ahead` more started; None at the end."""
        if len(self._held) <= self._ahead * _REFILL_AT:
            self._refill()
        if not self._held:
            return None
        result, size_bytes = self._held.popleft()
        self._held_bytes -= size_bytes
        return result

    def _refill(self) -> None:
        while self._next is not None and self._has_room(size_bytes := _size(self._next.size_bytes)):
            self._held.append((self._pool.submit(self._read, self._next), size_bytes))
            self._held_bytes += size_bytes
            self._next = next(self._waiting, None)

    def _has_room(self, size_bytes: int) -> bool:
        fits = len(self._held) <= self._ahead and self._held_bytes + size_bytes <= AHEAD_BYTES
        return fits or not self._held

    def cancel(self) -> None:
        for result, _ in self._held:
            result.cancel()


def reads_in_flight(uris: Iterable[str]) -> int:
    """The number of reads to keep in flight for a shard of these files."""
    return BUCKET_READS_IN_FLIGHT if any(map(_in_bucket, uris)) else READS_IN_FLIGHT


def _in_bucket(uri: str) -> bool:
    return uri.startswith("s3://")


def _size(size_bytes: int | None) -> int:
    return _UNKNOWN_BYTES if size_bytes is None else size_bytes


def _loss(root: str) -> str | None:
    """How an input was lost; None where it still exists."""
    try:
        # A mount point without its mount is an empty folder. A bucket's names may be millions, and one is enough.
        there = storage.exists(root) if _in_bucket(root) else storage.list_names(root)
        return None if there else f"the input {root} is gone or empty"
    except StorageError as exc:
        is_file = not _in_bucket(root) and storage.exists(root) and not storage.is_folder(root)
        return None if is_file else f"the input {exc}"


def _loss_around(uri: str) -> str | None:
    """How the place of a listed file was lost, as an empty mount point or a missing bucket; None where it is there."""
    try:
        if _in_bucket(uri):
            storage.exists(uri)  # raises where there is no such bucket
            return None
        folder = uri
        while not storage.is_folder(folder) and os.path.dirname(folder) != folder:
            folder = os.path.dirname(folder)
        return None if storage.list_names(folder) else f"the folder {folder} is empty"
    except StorageError as exc:
        return None if exc.reason == "forbidden" else str(exc)
