"""The tree of exceptions: one class for each remedy, with the exit code of the command that ends by it.

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
    "archived",
]
IMAGE_REASONS: tuple[str, ...] = get_args(ImageReason)
# Why a medical image that could be read is not scored: the model knows single anatomical slices of the head.
ExclusionReason = Literal[
    "not_mr",
    "no_pixels",
    "localizer",
    "diffusion",
    "map",
    "projection",
    "susceptibility",
    "functional",
    "derived",
    "screen_save",
    "label_map",
    "blank",
]
EXCLUSION_REASONS: tuple[str, ...] = get_args(ExclusionReason)
ALWAYS_EXCLUDED = ("no_pixels", "blank")  # for they show nothing
INSTALL = "pip install 'brainray[{}]'"  # what `error_detail` says of an image whose reader is an extra


def excluded_reasons(*, all_series: bool) -> tuple[str, ...]:
    """The reasons by which medical images are left out; with `all_series` those that leave nothing to look at."""
    return ALWAYS_EXCLUDED if all_series else EXCLUSION_REASONS


class BrainrayError(Exception):
    """A failure of the command. Its message is one line that names the thing and the remedy."""

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
    """The requested byte range lies outside the file (status 416)."""


class Unavailable(StorageError):
    """The storage fails or cannot be reached, for which the request is not to blame. It may succeed later."""


class Throttled(Unavailable):
    """The store asks for fewer requests (503 SlowDown, 429). The same request may succeed a moment later."""


class Changed(StorageError):
    """A condition of the request does not hold (412): the object exists already, or another client has changed it."""


class WrongRegion(StorageError):
    """The bucket lies in another region than the one that requests are signed for."""


@contextmanager
def as_bad_request(option: str) -> Iterator[None]:
    """Turn a `StorageError` about a file or folder that an option of the command names into `BadRequest`.

    Where the storage itself fails it becomes an `Outage`, for the same command may succeed later.
    """
    try:
        yield
    except Unavailable as exc:
        raise Outage(f"{option} {exc}; run the same command again") from exc
    except StorageError as exc:
        raise BadRequest(f"{option} {exc}") from exc


class NoProgress(BrainrayError):
    """No shard was finished for so long that the run was given up. Run the same command again to go on."""


class Outage(BrainrayError):
    """The storage is unavailable: a listing or too many reads failed, not single images. Finished parts are kept."""


class VerificationError(BrainrayError):
    """The rows differ from the listed images: the run is not published. Run it again; a defect if the error stays."""


class Unreachable(BrainrayError):
    """Ray's dashboard did not answer within the caller's time limit. Jobs on the cluster may still run."""


class ImageError(Exception):
    """The reason why one image cannot be scored. It becomes a row and does not end the job."""

    def __init__(self, reason: ImageReason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason: ImageReason = reason
        self.detail = detail

    def __reduce__(self) -> tuple[type["ImageError"], tuple[ImageReason, str]]:
        return type(self), (self.reason, self.detail)
