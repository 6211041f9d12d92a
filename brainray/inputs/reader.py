"""The bytes of images, read ahead. Slow or flaky reads are tried again, and an outage is told from bad images.

An image that stays unreadable is data, an `ImageError`. A storage that is gone raises `Outage`, so that a mount that
drops half-way does not turn the rest of an archive into error rows. Knows no Ray, no torch, no decoder.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass

from brainray import storage
from brainray.errors import ImageError, Outage, StorageError
from brainray.storage.retry import ConcurrencyLimit, RetryPolicy, RetryState

from .ranges import Image, RangeRead, RangeReader

# Reads in flight while the processor decodes: enough to hide the latency of a disk or a network share.
READS_IN_FLIGHT = 8
# A bucket answers later, and to many at once; and as contents are taken in order, one late answer holds up the rest.
# Images/s of one shard with 8, 16, 32 and 64: 165, 301, 494, 645 where each answer takes 50 ms; with 16, 32 and 64 170,
# 218, 362 where it takes 30 ms, but one in fifty 250 ms. `limit.MOST_AT_ONCE` bounds those of a whole process.
BUCKET_READS_IN_FLIGHT = 96
# Reads are begun in bursts, when this share of them is left: one at a time, each wakes client and store anew. With a
# store on the same machine that took 0.35 and 1.14 ms of processor an image, and in bursts 0.27 and 1.02.
_REFILL_AT = 0.5
# Contents of a shard in flight or waiting to be decoded, by their listed sizes: a shard of large files stays in memory.
AHEAD_BYTES = 64 << 20
_UNKNOWN_BYTES = 1 << 20  # a file that was listed without its size
# Reads of a worker that are looked at together. Fewer, and the handful of files deleted since the listing, which lie
# side by side in it, would pass for an outage; more, and a shard may end before an outage is seen.
OUTAGE_WINDOW = 32

_WHAT_TO_DO = (
    "is the input still mounted and readable? Finished parts are kept: run the same command to go on, or with "
    "--max-unread 100% to give such images error rows"
)


@dataclass(frozen=True, slots=True)
class ReadResult:
    """What came of one read: the bytes of each image in it, or why not, and how often it was tried again."""

    images: tuple[Image, ...]
    retries: int
    unread: str | None = None  # why the read failed, for whatever reason but the images'


class Reader:
    """Reads for all threads of one worker, each with a shard of its own, and watches over the storage for them all.

    `outage_share` is the share of unreadable images, of the last `OUTAGE_WINDOW`, above which the storage is to blame;
    1.0 switches every check for an outage off. `roots` are the inputs of the run. `limit` says how many may read at
    once. `sleep` waits between two attempts; without it an outage ends the wait.
    """

    def __init__(
        self,
        *,
        policy: RetryPolicy | None = None,
        limit: ConcurrencyLimit | None = None,
        outage_share: float = 0.5,
        roots: Sequence[str] = (),
        sleep: Callable[[float], None] | None = None,
        read: Callable[[RangeRead], tuple[Image, ...]] | None = None,
    ) -> None:
        self._policy = policy or RetryPolicy()
        self._limit = limit or ConcurrencyLimit()
        self._outage_share = outage_share
        self._roots = tuple(roots)
        self._read = read or RangeReader()
        self._unreadable: deque[bool] = deque(maxlen=OUTAGE_WINDOW)
        self._lock = threading.Lock()  # guards the deque
        self._last_good: RangeRead | None = None
        self._outage: str | None = None
        self._outage_known = threading.Event()
        self._sleep = sleep or self._pause

    def read_ahead(
        self,
        pieces: Sequence[RangeRead],
        pool: Executor,
        *,
        ahead: int = READS_IN_FLIGHT,
    ) -> Iterator[ReadResult]:
        """The contents of a shard in order, with `ahead` reads beyond the one handed out.

        Fewer where those would be more than `AHEAD_BYTES`. Raises `Outage` as soon as any thread of this `Reader` knows
        of one, and instead of the last content where that could not be read and neither can what could be read before.
        """
        self._raise_outage()
        reads = _Reads(self._content, pool, pieces, ahead)
        read = unread = 0
        try:
            while (result := reads.take()) is not None:
                content = result.result()
                del result  # it holds the content, too
                self._raise_outage()
                read += 1
                if content.unread is not None:
                    unread += 1
                    if read == len(pieces):
                        self._look_again(content.unread, all_failed=unread == len(pieces))
                yield content
                del content  # else one more would be held while the next is waited for
        finally:
            reads.cancel()

    def _pause(self, seconds: float) -> None:
        self._outage_known.wait(seconds)

    def _content(self, piece: RangeRead) -> ReadResult:
        """One read, in a thread of the pool. Raises `Outage` where there is one, not to wait for nothing."""
        tries = RetryState(policy=self._policy, in_bucket=_in_bucket(piece.uri))
        try:
            images = self._persist(piece, tries)
        except StorageError as exc:
            detail = f"{exc} (tried {tries.count} times)" if tries.count > 1 else str(exc)
            self._note_unreadable(detail)
            return ReadResult((ImageError(exc.reason, detail),) * piece.images, tries.count - 1, unread=detail)
        with self._lock:
            self._unreadable.append(False)
        self._last_good = piece
        return ReadResult(images, tries.count - 1)

    def _persist(self, piece: RangeRead, tries: RetryState) -> tuple[Image, ...]:
        def read_once() -> tuple[Image, ...]:
            with self._limit.slot():
                self._raise_outage()
                return self._read(piece)

        return tries.persist(read_once, self._sleep)

    def _note_unreadable(self, detail: str) -> None:
        with self._lock:
            self._unreadable.append(True)
            count = sum(self._unreadable)
            full = len(self._unreadable) == OUTAGE_WINDOW
        if full and count > self._outage_share * OUTAGE_WINDOW:
            self._declare(f"{count} of the last {OUTAGE_WINDOW} images could not be read (the last: {detail})")

    def _look_again(self, detail: str, *, all_failed: bool) -> None:
        """At the end of a shard whose last read failed: a loss that its rows are too few to tell by the window.

        What could be read a moment ago is read again; where nothing could, the inputs are looked for.
        """
        if self._outage_share >= 1:
            return
        loss = None
        if self._last_good is not None:
            loss = self._loss_of(self._last_good)
        elif all_failed:
            loss = next(filter(None, map(_loss, self._roots)), None)
        if loss is not None:
            self._declare(f"the last image of a shard could not be read ({detail}) and {loss}")
            self._raise_outage()

    def _loss_of(self, piece: RangeRead) -> str | None:
        try:
            self._persist(piece, RetryState(policy=self._policy, in_bucket=_in_bucket(piece.uri)))
        except StorageError as exc:
            return f"what could be read before can not be read now ({exc})"
        return None

    def _declare(self, what: str) -> None:
        self._outage = self._outage or " ".join(f"{what}; {_WHAT_TO_DO}".splitlines())
        self._outage_known.set()

    def _raise_outage(self) -> None:
        if self._outage is not None:
            raise Outage(self._outage)


class _Reads:
    """Reads under way, or done and not yet taken, in order."""

    def __init__(
        self,
        read: Callable[[RangeRead], ReadResult],
        pool: Executor,
        pieces: Iterable[RangeRead],
        ahead: int,
    ) -> None:
        self._read = read
        self._pool = pool
        self._pieces = iter(pieces)
        self._ahead = ahead
        self._next = next(self._pieces, None)
        self._held: deque[tuple[Future[ReadResult], int]] = deque()
        self._held_bytes = 0

    def take(self) -> Future[ReadResult] | None:
        """The first, with up to `ahead` more begun; None at the end."""
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
            self._next = next(self._pieces, None)

    def _has_room(self, size_bytes: int) -> bool:
        fits = len(self._held) <= self._ahead and self._held_bytes + size_bytes <= AHEAD_BYTES
        return fits or not self._held

    def cancel(self) -> None:
        for result, _ in self._held:
            result.cancel()


def reads_in_flight(uris: Iterable[str]) -> int:
    """How many reads to keep ahead in a shard of such files."""
    return BUCKET_READS_IN_FLIGHT if any(map(_in_bucket, uris)) else READS_IN_FLIGHT


def _in_bucket(uri: str) -> bool:
    return uri.startswith("s3://")


def _size(size_bytes: int | None) -> int:
    return _UNKNOWN_BYTES if size_bytes is None else size_bytes


def _loss(root: str) -> str | None:
    """What has become of an input of which nothing can be read any more, None where it is still there."""
    try:
        # A mount point without its mount is an empty folder. A bucket's names may be millions, and one is enough.
        there = storage.exists(root) if _in_bucket(root) else storage.list_names(root)
        return None if there else f"the input {root} is gone or empty"
    except StorageError as exc:
        is_file = not _in_bucket(root) and storage.exists(root) and not storage.is_folder(root)
        return None if is_file else f"the input {exc}"
