"""Decides from a listing alone which images are not read: those that are archived or too large.

Their rows of the manifest have the reason in the column `refused`.
"""

from brainray.config import ScoreOptions
from brainray.errors import ImageError, StorageError
from brainray.storage.base import FileInfo

MOST_FILE_BYTES = ScoreOptions.max_file_bytes  # the default; `archives` refuses members of more, whatever the option
UNREAD = "unreadable when it was listed"
_LOOKED_INTO = ("read_failed", "forbidden", "archived")  # reasons that say nothing about the frames of a file


def error_of_unread(exc: StorageError) -> ImageError | None:
    """What becomes of a file of which no one knows how many frames it has, for a read of its first bytes failed so.

    None: the read of its pixels will tell the reason.
    """
    if exc.reason not in _LOOKED_INTO:
        return None
    return ImageError(exc.reason, f"{UNREAD}, so that its frames are not known; run again to look once more: {exc}")


def refusal_of_file(file: FileInfo, most_bytes: int) -> str | None:
    """Why a listed file is not read; None where it is."""
    if file.archived is not None:
        words = f"{file.uri}: is in {file.archived}; restore it, then run the same command again"
        return str(ImageError("archived", words))
    return refusal_of_size(file.size_bytes, most_bytes)


def refusal_of_class(uri: str, storage_class: str | None) -> str | None:
    """Why an object of a list is not read that has this storage class there; None where it has none or is read."""
    if storage_class is None or not uri.startswith("s3://"):
        return None
    words = f"{uri}: is in {storage_class} by its list; restore it, then run again with --retry-unread"
    return str(ImageError("archived", words))


def refusal_of_size(size_bytes: int | None, most_bytes: int) -> str | None:
    """Why an image of this size is not read; None where it is, or the size is not known."""
    if size_bytes is None or size_bytes <= most_bytes:
        return None
    return str(ImageError("too_large", f"{size_bytes:,} bytes are more than the {most_bytes:,} that are read"))
