"""Types of the functions that callers pass in: one that shows a message, a clock, a wait.

Code that takes these instead of `print`, `time.monotonic` and `time.sleep` is tested without waiting.
"""

from collections.abc import Callable

Say = Callable[[str], None]  # shows one line of text to the user
Clock = Callable[[], float]  # returns seconds
Sleep = Callable[[float], None]  # waits for so many seconds
