"""What a place where files lie must be able to do, for `storage` to serve it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa

from brainray.errors import StorageError

from .retry import RetryPolicy

# In a claimed folder: the file by which the claim stands. Versions of brainray exclude each other by this name.
CLAIM_FILE = "holder.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class FileInfo:
    """A file found by `list_files`."""

    uri: str
    folders: tuple[str, ...]  # names below the listed root, outermost first
    size_bytes: int
    version: str  # changes when the content does: modification time in nanoseconds, or an ETag
    special: bool = False  # a pipe, socket or device: reading it may never end


@dataclass(frozen=True, kw_only=True, slots=True)
class Service:
    """The object store behind a location, for people to read: holds no secret."""

    host: str  # with its scheme
    region: str
    credentials: str  # where they were found, by botocore's name: "env", "shared-credentials-file", "iam-role" ...
    renewed: bool  # False: they end with the session they are of, and nobody renews them
    time_s: float | None  # since 1970, by the store's own clock, which tells whole seconds; None: it did not say


def changed(uri: str) -> StorageError:
    """For who asked for a version of a file that is no more."""
    return StorageError("not_found", f"{uri}: has changed since it was listed; run the same command again")


class StorageBackend(Protocol):
    """Files by URI. Foreign errors end here, as `StorageError` with a reason.

    Changes are made in the name of an owner: `staging` is the folder it has claimed, and once another has revoked that
    folder every change raises `OutputHeld` and changes nothing. None is nobody's name, and never refused.
    """

    def normalise(self, uri: str) -> str: ...
    def name_of(self, uri: str) -> str: ...
    def exists(self, uri: str) -> bool: ...
    def is_folder(self, uri: str) -> bool: ...
    def read_bytes(self, uri: str) -> bytes: ...
    def read_once(self, uri: str) -> bytes: ...

    def read_range(self, uri: str, start: int, length: int, version: str | None) -> bytes:
        """A stretch of a file, by one request. `not_found` where the file is not of this version any more."""

    def read_tail(self, uri: str, length: int, version: str | None) -> tuple[bytes, int]:
        """The end of a file, all of a shorter one, and the file's size. `not_found` as with `read_range`."""

    def open_seekable(self, uri: str, version: str | None = None) -> pa.NativeFile:
        """A file, to be read where it is needed. `not_found` where it is not of this version any more."""

    def stat(self, uri: str) -> FileInfo | None:
        """What there is to know of a file, or of a folder, which is `special`; None where it would cost a request."""

    def check_access(self, uri: str, *, write: bool) -> None:
        """Raise `StorageError` naming the permission missing to read, or to write and delete, below a folder."""

    def describe_service(self, uri: str) -> Service | None:
        """The object store that serves a location, by one request, tried once and allowed or not; None for a disk."""

    def unsupported_conditions(self, uri: str) -> tuple[str, ...]:
        """Of the conditions of a write that let one of many succeed, those not honoured; tried in a folder."""

    def list_names(self, uri: str, policy: RetryPolicy | None = None) -> list[str]:
        """Names in one folder, sorted, without hidden ones; none where there is no folder."""

    def list_files(self, uri: str) -> Iterator[FileInfo]:
        """Every file below a folder (or the file itself), streamed, always in the same order."""

    def write_bytes(self, uri: str, data: bytes, staging: str | None) -> None:
        """A whole file or nothing: readers see the old content or the new."""

    def copy(self, source: str, target: str, staging: str | None) -> None:
        """Put a file in another's place, as a whole. The source stays."""

    def delete(self, uri: str, staging: str | None) -> None:
        """Remove a file; one that is not there is fine."""

    def delete_tree(self, uri: str, staging: str | None, first: Sequence[str] = ()) -> None:
        """Remove a folder and all below it; one that is not there is fine. A deletion cut short has removed `first`."""

    def claim(self, uri: str, data: bytes) -> bool:
        """Make the folder `uri` with `CLAIM_FILE` in it; False where it is there already. One of many succeeds."""

    def renew(self, uri: str, data: bytes) -> None:
        """Write `CLAIM_FILE` anew in a claimed folder, and never bring it back: `OutputHeld` where it was revoked."""

    def revoke(self, uri: str) -> None:
        """Take a claimed folder away, at once: every change staged in it fails from now on."""

    def create(self, uri: str, staging: str | None) -> bool:
        """Make an empty file; False where there is one already. Of many who try, one succeeds."""
