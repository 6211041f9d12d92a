"""The tree of exceptions: one class for each thing somebody must do about it, each with the exit code of the command.

An image that cannot be scored is no job failure: `ImageError` is caught where the image is handled and becomes a row.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, get_args

ImageReason = Literal[
    "not_found",
    "forbidden",
    "empty",
    "not_an_image",
    "truncated",
    "too_large",
    "unsupported",
    "read_failed",
]
IMAGE_REASONS: tuple[str, ...] = get_args(ImageReason)


class BrainrayError(Exception):
    """A failure with a message for people: one line that names the thing and says what to do."""

    exit_code = 1


class BadRequest(BrainrayError):
    """The command, a file it names or its configuration is wrong; correct it and run again."""

    exit_code = 2


class TooManyFailed(BrainrayError):
    """More images failed than allowed. Every row is written; the summary counts the reasons.

    Raised by `brainray.score`, it carries the `ScoreResult` of the run.
    """

    exit_code = 3

    def __init__(self, message: str, *, result: Any = None) -> None:  # noqa: ANN401  a type of a package below
        super().__init__(message)
        self.result = result


class OtherModel(BrainrayError):
    """The output holds a run of another model or image spec; give another output."""

    exit_code = 4


class OutputHeld(BrainrayError):
    """Another run holds the output, or has taken it over; wait for it to end."""

    exit_code = 5


class StorageError(BrainrayError):
    """A file could not be listed, read or written. `reason` is one of `IMAGE_REASONS`."""

    def __init__(self, reason: ImageReason, message: str) -> None:
        super().__init__(message)
        self.reason: ImageReason = reason

    def __reduce__(self) -> tuple[type["StorageError"], tuple[ImageReason, str]]:
        return type(self), (self.reason, str(self))


class OutOfRange(StorageError):
    """The stretch asked for lies outside the file (416)."""


class Throttled(StorageError):
    """The store asks for fewer requests at once: 503 SlowDown, 429. The same request may succeed a moment later."""


class Changed(StorageError):
    """A condition of the request does not hold (412): another has written the object, or it is there already."""


class WrongRegion(StorageError):
    """The bucket lies in another region than the requests are signed for."""


@contextmanager
def as_bad_request(option: str) -> Iterator[None]:
    """What cannot be listed, read or written within is what an option of the command names: `BadRequest`."""
    try:
        yield
    except StorageError as exc:
        raise BadRequest(f"{option} {exc}") from exc


class NoProgress(BrainrayError):
    """Nothing was finished for so long that the run was given up. Run the same command again to go on."""


class Outage(BrainrayError):
    """So many images in a row could not be read that it is the storage, not the images; finished parts are kept."""


class VerificationError(BrainrayError):
    """Rows and images listed differ: the run is not published. Run the same command again; a defect if it stays."""


class Unreachable(BrainrayError):
    """Ray's dashboard was silent for longer than the caller is patient. What runs on the cluster may still run."""


class ImageError(Exception):
    """Why one image cannot be scored. Data, not a failure of the job."""

    def __init__(self, reason: ImageReason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason: ImageReason = reason
        self.detail = detail

    def __reduce__(self) -> tuple[type["ImageError"], tuple[ImageReason, str]]:
        return type(self), (self.reason, self.detail)
