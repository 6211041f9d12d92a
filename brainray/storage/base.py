"""The interface of a storage backend (local disk, S3), and the values that it returns.

Backends are used through the functions of `brainray.storage` only.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa

from brainray.errors import StorageError

from .retry import RetryPolicy

# The record in a claimed folder; the claim lasts as long as this file. All versions of brainray must use this name, or
# they would not exclude each other.
CLAIM_FILE = "holder.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class FileInfo:
    """A file found by `list_files`."""

    uri: str
    folders: tuple[str, ...]  # names of the folders between the listed root and the file, outermost first
    size_bytes: int
    version: str  # changes with the content: modification time in nanoseconds, or an ETag
    archived: str | None = None  # the storage class of an object that must be restored before it can be read
    special: bool = False  # a pipe, socket or device: reading it may never end, so reads refuse it


@dataclass(frozen=True, kw_only=True, slots=True)
class Service:
    """An object store, described for `doctor` to print. Holds no secret."""

    host: str  # scheme and host, without credentials
    region: str
    credentials: str  # botocore's name for their source: "env", "shared-credentials-file", "iam-role" ...
    renewed: bool  # False: temporary credentials that nothing renews
    time_s: float | None  # the store's own clock, in whole seconds since 1970; None: not in its answer
    settings: tuple[str, ...] = ()  # how requests are made beyond that, in words


class FolderRules:
    """Decides how `list_files` treats the folders of a disk; this class has every one of them listed.

    A folder is given by the names from the listed root down to it. In a bucket nothing is asked: a key needs no folder.
    """

    def excludes(self, folders: tuple[str, ...]) -> bool:
        """Whether the folder is not entered. Must hold for all folders below an excluded one, too."""
        return False

    def hides(self, folders: tuple[str, ...]) -> bool:
        """Whether the caller passes over all files below the folder: links in it are not followed."""
        return False

    def on_excluded(self, folders: tuple[str, ...]) -> None:
        """Take notice of a folder that was excluded."""

    def on_not_followed(self, folders: tuple[str, ...]) -> None:
        """Take notice of a link to a folder that is hidden, or listed at another place."""

    def on_forbidden(self, folders: tuple[str, ...], error: StorageError) -> None:
        """Raise, or take notice and pass over the folder, which this user cannot read."""
        raise error


EVERY_FOLDER = FolderRules()


def too_large(uri: str, most_bytes: int) -> StorageError:
    """The error for a file that is not read because of its size."""
    return StorageError("too_large", f"{uri}: has more than the {most_bytes:,} bytes that are read")


def changed(uri: str) -> StorageError:
    """The error for a file whose version is no longer the listed one."""
    return StorageError("not_found", f"{uri}: has changed since it was listed; run the same command again")


class StorageBackend(Protocol):
    """Files by URI. Translates every foreign error into a `StorageError` with a reason.

    `staging` is the writer's lease folder; once another run revokes it, every write raises `OutputHeld` and changes
    nothing. With `None` writes are not guarded. The functions of `brainray.storage` describe the methods.
    """

    def normalise(self, uri: str) -> str: ...
    def normalise_listed(self, uri: str) -> str: ...
    def resolve_listed(self, folder: str, path: str) -> str: ...
    def name_of(self, uri: str) -> str: ...
    def exists(self, uri: str) -> bool: ...
    def is_folder(self, uri: str) -> bool: ...

    def file_in_the_way(self, uri: str) -> str | None:
        """The file at `uri`, or on a disk above it, where a folder is wanted; None where one is or can be made."""

    def read_bytes(self, uri: str, most_bytes: int | None = None) -> bytes:
        """A whole file. `too_large` where it has more than `most_bytes`, and no more of it is read."""

    def read_once(self, uri: str, most_bytes: int | None = None) -> bytes:
        """As `read_bytes`, by one request without retries."""

    def read_range(self, uri: str, start: int, length: int, version: str | None) -> bytes:
        """`length` bytes from `start`, by one request. `not_found` where the file has another version."""

    def read_tail(self, uri: str, length: int, version: str | None) -> tuple[bytes, int]:
        """The last `length` bytes of a file (all of a shorter one), and its size. `not_found` as with `read_range`."""

    def open_seekable(self, uri: str, version: str | None = None) -> pa.NativeFile:
        """Open a file for random access. `not_found` where the file has another version."""

    def stat(self, uri: str) -> FileInfo | None:
        """Size and version of a file; a folder is `special`. None where this would cost a request."""

    def check_access(self, uri: str, *, write: bool) -> None:
        """Raise `StorageError` naming the permission missing to read, or to write and delete, below a folder."""

    def describe_service(self, uri: str) -> Service | None:
        """The object store of a location, by one request, which may be denied; None for a disk."""

    def unsupported_conditions(self, uri: str) -> tuple[str, ...]:
        """The conditional writes that the store ignores, by header; tried in the folder `uri`."""

    def list_names(self, uri: str, policy: RetryPolicy | None = None) -> list[str]:
        """Names in one folder, sorted, without hidden ones; none where there is no folder."""

    def list_files(self, uri: str, rules: FolderRules = EVERY_FOLDER) -> Iterator[FileInfo]:
        """Every file below a folder (or the file itself), streamed, always in the same order."""

    def write_bytes(self, uri: str, data: bytes, staging: str | None) -> None:
        """Write a whole file or nothing: readers get the old content or the new."""

    def copy(self, source: str, target: str, staging: str | None) -> None:
        """Copy a file over another one, as a whole. The source stays."""

    def delete(self, uri: str, staging: str | None) -> None:
        """Remove a file. A missing file is no error."""

    def delete_tree(self, uri: str, staging: str | None, first: Sequence[str] = ()) -> None:
        """Remove a folder and all below it, the files `first` before all others. A missing folder is no error."""

    def claim(self, uri: str, data: bytes) -> bool:
        """Make the folder `uri` with `CLAIM_FILE` in it; False if it exists. Of concurrent calls, one succeeds."""

    def renew(self, uri: str, data: bytes) -> None:
        """Overwrite `CLAIM_FILE` in a claimed folder. Raises `OutputHeld` after a revocation, and never undoes it."""

    def revoke(self, uri: str) -> None:
        """Remove a claimed folder, at once: every change staged in it fails from now on."""

    def create(self, uri: str, staging: str | None) -> bool:
        """Make an empty file; False if it exists. Of concurrent calls, one succeeds."""
