"""The bytes of images, read ahead. Slow or flaky reads are tried again, and an outage is told from bad images.

An image that stays unreadable is data, an `ImageError`. A storage that is gone raises `Outage`, so that a mount that
drops half-way does not turn the rest of an archive into error rows. Knows no Ray, no torch, no decoder.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from itertools import islice

from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from . import storage
from .errors import BadRequest, ImageError, Outage, StorageError

# Reads in flight while the processor decodes: enough to hide the latency of a disk or a network share, and few enough
# that a shard of large files stays in memory.
READS_IN_FLIGHT = 8
# Reads of a worker that are looked at together. Fewer, and the handful of files deleted since the listing, which lie
# side by side in it, would pass for an outage; more, and a shard may end before an outage is seen.
OUTAGE_WINDOW = 32

_WHAT_TO_DO = (
    "is the input still mounted and readable? Finished parts are kept: run the same command to go on, or with "
    "--max-unread 100% to give such images error rows"
)


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """How often a read that failed for the storage's sake is tried, with random waits that grow ("full jitter").

    Full jitter: https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
    """

    attempts: int = 4  # the first one counted
    first_wait_s: float = 0.1  # the longest the first wait can be; the next is up to twice as long, and so on
    longest_wait_s: float = 5.0

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise BadRequest(f"a read has {self.attempts} attempts; it must have 1 or more")
        if self.first_wait_s < 0 or self.longest_wait_s < 0:
            raise BadRequest(f"waits of {self.first_wait_s:g} and {self.longest_wait_s:g} s; they must be 0 or more")


@dataclass(frozen=True, slots=True)
class Content:
    """What came of reading one file: its bytes, or why not, and how often it was tried again."""

    data: bytes | ImageError
    retries: int


class Reader:
    """Reads for all threads of one worker, each with a shard of its own, and watches over the storage for them all.

    `outage_share` is the share of unreadable images, of the last `OUTAGE_WINDOW`, above which the storage is to blame;
    1.0 switches every check for an outage off. `roots` are the inputs of the run. `sleep` waits between two attempts;
    without it an outage ends the wait.
    """

    def __init__(
        self,
        *,
        policy: RetryPolicy | None = None,
        outage_share: float = 0.5,
        roots: Sequence[str] = (),
        sleep: Callable[[float], None] | None = None,
        read: Callable[[str], bytes] = storage.read_bytes,
    ) -> None:
        policy = policy or RetryPolicy()
        self._outage_share = outage_share
        self._roots = tuple(roots)
        self._read = read
        self._unreadable: deque[bool] = deque(maxlen=OUTAGE_WINDOW)
        self._lock = threading.Lock()  # guards the deque
        self._last_good: str | None = None
        self._outage: str | None = None
        self._outage_known = threading.Event()
        self._attempts = Retrying(
            sleep=sleep or self._pause,
            stop=stop_after_attempt(policy.attempts),
            wait=wait_random_exponential(multiplier=policy.first_wait_s, max=policy.longest_wait_s),
            retry=retry_if_exception(_may_pass),
            reraise=True,
        )

    def read_ahead(self, uris: Sequence[str], pool: Executor, *, ahead: int = READS_IN_FLIGHT) -> Iterator[Content]:
        """The contents of a shard's files in order, with `ahead` reads beyond the one handed out.

        Raises `Outage` as soon as any thread of this `Reader` knows of one, and instead of the last content where that
        could not be read and neither can what could be read before.
        """
        self._raise_outage()
        submitted = (pool.submit(self._content, uri) for uri in uris)
        reads: deque[Future[Content]] = deque(islice(submitted, ahead + 1))
        read = unread = 0
        try:
            while reads:
                content = reads.popleft().result()
                self._raise_outage()
                read += 1
                if isinstance(content.data, ImageError):
                    unread += 1
                    if read == len(uris):
                        self._look_again(content.data.detail, all_failed=unread == len(uris))
                yield content
                del content  # else one more would be held while the next is waited for
                reads.extend(islice(submitted, 1))
        finally:
            for waiting in reads:
                waiting.cancel()

    def _pause(self, seconds: float) -> None:
        self._outage_known.wait(seconds)

    def _content(self, uri: str) -> Content:
        """Read one file in a thread of the pool. Raises `Outage` where there is one, not to wait for nothing."""
        try:
            for attempt in self._attempts:
                with attempt:
                    self._raise_outage()
                    data = self._read(uri)
        except StorageError as exc:
            retries = attempt.retry_state.attempt_number - 1
            detail = f"{exc} (tried {retries + 1} times)" if retries else str(exc)
            self._note_unreadable(detail)
            return Content(ImageError(exc.reason, detail), retries)
        with self._lock:
            self._unreadable.append(False)
        self._last_good = uri
        return Content(data, attempt.retry_state.attempt_number - 1)

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

    def _loss_of(self, uri: str) -> str | None:
        try:
            self._attempts(self._read, uri)
        except StorageError as exc:
            return f"what could be read before can not be read now ({exc})"
        return None

    def _declare(self, what: str) -> None:
        self._outage = self._outage or " ".join(f"{what}; {_WHAT_TO_DO}".splitlines())
        self._outage_known.set()

    def _raise_outage(self) -> None:
        if self._outage is not None:
            raise Outage(self._outage)


def _may_pass(exc: BaseException) -> bool:
    """Whether the same read may succeed a moment later: an I/O error, a stale handle, a timeout, a short read."""
    return isinstance(exc, StorageError) and exc.reason == "read_failed"


def _loss(root: str) -> str | None:
    """What has become of an input of which nothing can be read any more, None where it is still there."""
    try:
        # A mount point without its mount is an empty folder.
        return None if storage.list_names(root) else f"the input {root} is gone or empty"
    except StorageError as exc:
        is_file = storage.exists(root) and not storage.is_folder(root)
        return None if is_file else f"the input {exc}"
