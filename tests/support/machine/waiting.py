"""Waiting for what other processes do."""

import time
from collections.abc import Callable
from typing import TypeVar

Found = TypeVar("Found")
HANGS_S = 240.0  # who waits so long waits in vain; what it waits for takes seconds, on a busy machine a minute or two


def until(condition: Callable[[], Found], timeout_s: float = HANGS_S, *, step_s: float = 0.005) -> Found:
    """Wait until a condition holds or the time is over; gives what it last was."""
    deadline = time.monotonic() + timeout_s
    while not (met := condition()) and time.monotonic() < deadline:
        time.sleep(step_s)
    return met


def wait_for(condition: Callable[[], Found], what: str, *, timeout_s: float = HANGS_S, step_s: float = 0.01) -> Found:
    """The same; a test fails where it does not come true."""
    met = until(condition, timeout_s, step_s=step_s)
    assert met, f"after {timeout_s:g} s still not: {what}"
    return met
