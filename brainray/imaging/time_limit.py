"""Ends a process in which decoding one image takes too long, also where C code hangs and holds Python's lock.

The kernel's timer does it, by SIGALRM. A process has one such timer: it is set to the earliest end of what its threads
are at. For processes that somebody replaces, such as Ray's workers.
"""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from brainray.callbacks import Clock

LIMIT_S = 120.0  # of an image; one of 100 megapixels takes seconds, and the machine may be busy


class TimeLimit:
    """Limits each piece of work of the threads of this process."""

    def __init__(
        self,
        limit_s: float = LIMIT_S,
        *,
        clock: Clock = time.monotonic,
        set_timer: Callable[[float], object] = lambda seconds: signal.setitimer(signal.ITIMER_REAL, seconds),
    ) -> None:
        self._limit_s = limit_s
        self._clock, self._set_timer = clock, set_timer
        self._lock = threading.Lock()
        self._ends_s: dict[int, float] = {}  # by thread

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """The process ends unless the work inside does so in time."""
        thread = threading.get_ident()
        with self._lock:
            self._ends_s[thread] = self._clock() + self._limit_s
            self._set()
        try:
            yield
        finally:
            with self._lock:
                del self._ends_s[thread]
                self._set()

    def _set(self) -> None:
        left_s = min(self._ends_s.values()) - self._clock() if self._ends_s else 0.0
        self._set_timer(max(left_s, 0.001) if self._ends_s else 0.0)
