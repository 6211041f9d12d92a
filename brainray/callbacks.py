"""Types of functions that callers pass in: where messages go, which clock counts, how to wait. Tests pass their own."""

from collections.abc import Callable

Say = Callable[[str], None]  # shows one line to whoever runs the command
Clock = Callable[[], float]  # seconds
Sleep = Callable[[float], None]  # seconds
