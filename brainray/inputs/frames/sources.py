"""What readers of frames, slices and pages are given, and what they give."""

from collections.abc import Callable

from brainray.errors import ImageError

Fetch = Callable[[int, int], bytes]  # start, length -> bytes of the file
Image = bytes | ImageError
Spans = list[tuple[int, int]] | ImageError  # where each frame begins and ends in the file
Once = Callable[[Callable[[], Spans]], Spans]  # makes the spans of a file, or has them


def within(data: bytes) -> Fetch:
    """Reads parts of bytes as those of a file."""
    return lambda start, length: data[start : start + max(0, length)]
