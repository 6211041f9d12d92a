"""Types of the functions that callers pass in: one that shows a message, a clock, a wait; and one that shows nothing.

Code that takes these instead of `print`, `time.monotonic` and `time.sleep` is tested without waiting.
"""

from collections.abc import Callable

Say = Callable[[str], None]  # shows one line of text to the user
Clock = Callable[[], float]  # returns seconds
Sleep = Callable[[float], None]  # waits for so many seconds


def ignore(_: object) -> None:
    """Takes the messages that the caller does not ask for."""
