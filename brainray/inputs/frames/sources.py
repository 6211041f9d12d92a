"""What readers of frames, slices and pages are given, and what they give."""

from collections.abc import Callable

from brainray.errors import ImageError

Fetch = Callable[[int, int], bytes]  # start, length -> bytes of the file
Image = bytes | ImageError
Spans = list[tuple[int, int]] | ImageError  # where each frame begins and ends in the file
Once = Callable[[Callable[[], Spans]], Spans]  # makes the spans of a file, or has them
Unpacked = bytes | ImageError  # a whole file
Keep = Callable[[Callable[[], Unpacked]], Unpacked]  # unpacks a file, or has it unpacked


class Frames(int):
    """The number of frames of a file that cannot be told from its size alone, or why it is not known: it is 0 then."""

    each_bytes: int | None  # of a packed file: the bytes of a frame when it is unpacked; None: not known
    packed: bool
    unread: ImageError | None

    def __new__(
        cls,
        frames: int,
        *,
        packed: bool = False,
        each_bytes: int | None = None,
        unread: ImageError | None = None,
    ) -> "Frames":
        made = super().__new__(cls, frames)
        made.packed, made.each_bytes, made.unread = packed, each_bytes, unread
        return made


def is_unread(frames: int) -> bool:
    """Whether a number of frames is none, for the file could not be read."""
    return isinstance(frames, Frames) and frames.unread is not None


def within(data: bytes) -> Fetch:
    """Reads parts of bytes as those of a file."""
    return lambda start, length: bytes(data[start : start + max(0, length)])
