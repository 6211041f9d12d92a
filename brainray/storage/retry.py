"""Limits concurrent reads per process (AIMD) and decides how often a failed request is retried.

`ConcurrencyLimit` falls when the storage throttles and rises with time (additive increase, multiplicative decrease).
Every retry in the package follows a `RetryPolicy`. Retries must not be nested: a retried request is itself tried once.
Knows no images.
"""

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from brainray.callbacks import Sleep
from brainray.errors import BadRequest, Changed, StorageError, Throttled, WrongRegion

MOST_AT_ONCE = 64  # reads of a process at once, over all its shards
_BURST_S = 1.0  # throttled reads within this time are one burst, and halve the limit once
_RECOVERY_S = 30.0  # in which the limit grows from one read at once to the most

_Kind = Literal["throttled", "faltered", "refused", "final"]
_T = TypeVar("_T")


class ConcurrencyLimit:
    """Limits how many threads of a process read at once. Safe to share between threads.

    A `Throttled` read halves the limit. It grows again with time, whether or not reads succeed: a storage that is still
    overloaded throttles again.
    """

    def __init__(self, most: int = MOST_AT_ONCE, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = most
        self._clock = clock
        self._at_once = 0
        self._changed = threading.Condition()
        self._slowed_to = float(most)
        self._slowed_s = clock() - _RECOVERY_S

    @property
    def limit(self) -> int:
        grown = (self._clock() - self._slowed_s) * self._most / _RECOVERY_S
        return int(min(self._most, self._slowed_to + grown))

    @contextmanager
    def slot(self) -> Iterator[None]:
        """Hold one of the slots for reading; waits until one is free."""
        with self._changed:
            self._changed.wait_for(lambda: self._at_once < self.limit)
            self._at_once += 1
        try:
            yield
        except Throttled:
            self._slow_down()
            raise
        finally:
            with self._changed:
                self._at_once -= 1
                self._changed.notify(2)  # one for this slot, one for a slot that the limit may have gained

    def _slow_down(self) -> None:
        """Set the limit to half of the reads in flight: a limit that was not reached has not been too high."""
        with self._changed:
            now = self._clock()
            if now - self._slowed_s >= _BURST_S:
                self._slowed_to = max(1.0, min(self.limit, self._at_once) / 2)
                self._slowed_s = now


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """How often a failed request is tried, with random waits that grow ("full jitter").

    Full jitter: https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
    """

    # Attempts that may end by an I/O error, a timeout, a short read or a status 500, with the first one.
    attempts: int = 4
    refused_attempts: int = 3  # attempts that may end by a 403, which object stores now and then send without reason
    patience_s: float = 60.0  # all waits for one request while the store throttles; about 18 attempts
    first_wait_s: float = 0.1  # upper limit of the first wait; it doubles with each wait
    longest_wait_s: float = 10.0

    def __post_init__(self) -> None:
        if min(self.attempts, self.refused_attempts) < 1:
            raise BadRequest(f"{self.attempts} or {self.refused_attempts} attempts at a request; it needs 1 or more")
        if min(self.first_wait_s, self.longest_wait_s, self.patience_s) < 0:
            raise BadRequest(
                f"waits of {self.first_wait_s:g}, {self.longest_wait_s:g} and {self.patience_s:g} s; "
                "they must be 0 or more"
            )


# For the heartbeats of a lease. A beat makes several requests: with all their waits it must end long before the lease
# expires. The next beat tries again, so giving up early costs nothing, and Ctrl-C waits for the beat in progress.
HEARTBEAT_POLICY = RetryPolicy(attempts=2, refused_attempts=1, patience_s=5.0, longest_wait_s=2.0)


@dataclass(kw_only=True)
class RetryState:
    """Counts the attempts at one request and decides about the next one."""

    policy: RetryPolicy = field(default_factory=RetryPolicy)
    in_bucket: bool
    count: int = 0
    waited_s: float = 0.0
    _failures: Counter[_Kind] = field(default_factory=Counter)

    def persist(self, request: Callable[[], _T], sleep: Sleep) -> _T:
        """Make the request, and retry it after a wait if its failure may pass. It must not retry on its own."""
        while True:
            self.count += 1
            try:
                return request()
            except StorageError as exc:
                wait_s = self.wait_s(exc)
                if wait_s is None:
                    raise
            sleep(wait_s)

    def wait_s(self, exc: StorageError) -> float | None:
        """Seconds to wait before the next attempt after this failure; None: give up."""
        kind = self._kind(exc)
        self._failures[kind] += 1
        if self._exhausted(kind):
            return None
        longest = self.policy.first_wait_s * 2 ** min(self._failures.total() - 1, 30)
        wait_s = random.uniform(0, min(longest, self.policy.longest_wait_s))
        self.waited_s += wait_s
        return wait_s

    def _exhausted(self, kind: _Kind) -> bool:
        if kind == "throttled":
            return self.waited_s >= self.policy.patience_s
        most = {"faltered": self.policy.attempts, "refused": self.policy.refused_attempts, "final": 1}
        return self._failures[kind] >= most[kind]

    def _kind(self, exc: StorageError) -> _Kind:
        if isinstance(exc, Throttled):
            return "throttled"
        if exc.reason == "read_failed":
            return "final" if isinstance(exc, Changed) else "faltered"
        refused = exc.reason == "forbidden" and not isinstance(exc, WrongRegion)
        return "refused" if refused and self.in_bucket else "final"
