"""The storage backend for files of this machine, or of a file system that it mounts. Translates every `OSError`.

A local file's URI is its absolute path. A path that is not UTF-8 has a percent-encoded `file://` URI, so that every
name fits a Parquet string and leads back to its file.

Every guarded change is one rename out of the writer's staging folder or into it. A successor removes that folder first,
so that every later change of the former holder fails in the kernel, also where that process was stopped between its
last check of the lease and the rename.
"""

import errno
import os
import secrets
import shutil
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from io import BufferedWriter, FileIO
from urllib.parse import urlsplit

import pyarrow as pa

from brainray.errors import BadRequest, OutputHeld, StorageError

from .base import CLAIM_FILE, EVERY_FOLDER, FileInfo, FolderRules, Service, changed, too_large
from .paths import path_of, plain_file_uri, storage_error, text_of, uri_of
from .retry import RetryPolicy
from .walk import Walk

# A call that was in the kernel before the rename may still add a file: in 6 of 400 revocations with four busy threads
# on ext4.
_REVOKE_TRIES = 10
_MOVE_TRIES = 10
_PRIVATE_FOLDER, _PRIVATE_FILE = 0o700, 0o600


def _absolute(path: str) -> str:
    """The one spelling of a path. `abspath` leaves two slashes at the start, which on Linux are one."""
    absolute = os.path.abspath(path)
    return absolute[1:] if absolute.startswith("//") else absolute


class LocalFiles:
    """The `StorageBackend` for paths and `file://` URIs."""

    def normalise(self, uri: str) -> str:
        uri = plain_file_uri(uri)
        if "://" in uri and urlsplit(uri).netloc not in ("", "localhost"):
            raise BadRequest(f"{uri}: a file:// URI names no host; write file:///path")
        if uri == "-":
            raise BadRequest("-: a stream cannot be read again, or by other machines; write it to a file and give that")
        try:
            return uri_of(_absolute(os.path.expanduser(path_of(uri))))
        except FileNotFoundError as exc:  # from os.getcwd
            raise BadRequest(f"{uri}: the working folder is gone; change to another, or give the whole path") from exc

    def normalise_listed(self, uri: str) -> str:
        return self.normalise(uri)

    def resolve_listed(self, folder: str, path: str) -> str:
        """Join paths, not URIs: in a folder with a `file://` URI a "%" of the list's path is literal, too."""
        return uri_of(_absolute(os.path.join(path_of(folder) or "/", path)))

    def without_links(self, uri: str) -> str:
        return uri_of(os.path.realpath(path_of(uri)))

    def name_of(self, uri: str) -> str:
        return text_of(os.path.basename(path_of(uri).rstrip("/")))

    def exists(self, uri: str) -> bool:
        return os.path.lexists(path_of(uri))

    def is_folder(self, uri: str) -> bool:
        return os.path.isdir(path_of(uri))

    def file_in_the_way(self, uri: str) -> str | None:
        path = path_of(uri)
        while not os.path.lexists(path):
            path = os.path.dirname(path)
        return None if os.path.isdir(path) else uri_of(path)

    def read_bytes(self, uri: str, most_bytes: int | None = None) -> bytes:
        with _translated(uri), open(_readable_file(uri), "rb", buffering=0) as file:
            size_bytes = os.fstat(file.fileno()).st_size
            if most_bytes is not None and size_bytes > most_bytes:
                raise too_large(uri, most_bytes)
            data = file.read() if most_bytes is None else _read_up_to(file, size_bytes, most_bytes)
        if most_bytes is not None and len(data) > most_bytes:
            raise too_large(uri, most_bytes)
        if len(data) < size_bytes:
            raise StorageError("read_failed", f"{uri}: short read, got {len(data)} of {size_bytes} bytes")
        return data

    def read_once(self, uri: str, most_bytes: int | None = None) -> bytes:
        return self.read_bytes(uri, most_bytes)

    def read_range(self, uri: str, start: int, length: int, version: str | None) -> bytes:
        with _translated(uri), open(_readable_file(uri), "rb", buffering=0) as file:
            file.seek(start)
            data = file.read(length)
            _check_version(uri, os.fstat(file.fileno()), version)
        if len(data) < length:
            raise StorageError("read_failed", f"{uri}: short read, got {len(data)} of {length} bytes")
        return data

    def read_tail(self, uri: str, length: int, version: str | None) -> tuple[bytes, int]:
        with _translated(uri), open(_readable_file(uri), "rb", buffering=0) as file:
            size_bytes = os.fstat(file.fileno()).st_size
        start = max(0, size_bytes - length)
        return self.read_range(uri, start, size_bytes - start, version), size_bytes

    def open_seekable(self, uri: str, version: str | None = None) -> pa.NativeFile:
        with _translated(uri):
            path = _readable_file(uri)
            if os.path.isdir(path):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            file = pa.OSFile(os.fsencode(path), "rb")  # a name that is not UTF-8 must be given as bytes
            _check_version(uri, os.stat(path), version)
        return file

    def stat(self, uri: str) -> FileInfo | None:
        with _translated(uri):
            return _file_info(uri, (), os.stat(path_of(uri)))

    def check_access(self, uri: str, *, write: bool) -> None:
        """Check the folder only. Files below it have permissions of their own, which only reading them shows."""
        path = path_of(uri)
        while write and not os.path.lexists(path):
            path = os.path.dirname(path)
        if write and not os.access(path, os.W_OK | os.X_OK):
            raise StorageError("forbidden", f"{uri}: {path} cannot be written to")

    def describe_service(self, uri: str) -> Service | None:
        return None

    def unsupported_conditions(self, uri: str) -> tuple[str, ...]:
        """Always none: `claim` and `create` use renames and O_EXCL instead."""
        return ()

    def list_names(self, uri: str, policy: RetryPolicy | None = None) -> list[str]:
        """A disk is asked once, whatever the policy."""
        with _translated(uri):
            try:
                return sorted(name for name in os.listdir(path_of(uri)) if not name.startswith("."))
            except FileNotFoundError:
                return []

    def list_files(self, uri: str, rules: FolderRules = EVERY_FOLDER) -> Iterator[FileInfo]:
        """Files sorted by name within each folder. Links are followed, but each real folder is listed once."""
        root = path_of(uri)
        with _translated(uri):
            if not os.path.isdir(root):
                yield _file_info(uri, (), os.stat(root))
                return
        for path, names, info in Walk(root, rules).files():
            yield _file_info(uri_of(path), names, info)

    def write_bytes(self, uri: str, data: bytes, staging: str | None) -> None:
        path = path_of(uri)
        with _translated(uri), _guarded(staging):
            if staging is None:  # the temporary file lies beside the file
                _make_folder(os.path.dirname(path), None)
            temporary = _temporary(path, staging)
            try:
                with open(temporary, "wb") as file:
                    _write_durably(file, data)
                _move_into_place(temporary, path, staging)
            except BaseException:
                with suppress(OSError):
                    os.unlink(temporary)
                raise
            _sync_folder(os.path.dirname(path))

    def make_private(self, uri: str) -> None:
        """Make a folder that only its owner may enter, or take the others' right from one that is there."""
        path = path_of(uri)
        with _translated(uri):
            os.makedirs(path, _PRIVATE_FOLDER, exist_ok=True)
            if stat.S_IMODE(os.stat(path).st_mode) != _PRIVATE_FOLDER:
                os.chmod(path, _PRIVATE_FOLDER)
            _sync_folder(os.path.dirname(path))

    def write_private(self, uri: str, data: bytes, *, replace: bool = True) -> bool:
        """Write a whole file that only its owner may read, in a folder of its own kind; False if it may not `replace`
        the one that is there. Of concurrent calls that may not, one succeeds.
        """
        path = path_of(uri)
        with _translated(uri):
            temporary = _temporary(path, None)
            try:
                with open(temporary, "wb", opener=_private) as file:
                    _write_durably(file, data)
                if replace:
                    os.replace(temporary, path)
                else:
                    os.link(temporary, path)
                    os.unlink(temporary)
            except OSError as exc:
                with suppress(OSError):
                    os.unlink(temporary)
                if isinstance(exc, FileExistsError):
                    return False
                raise
            _sync_folder(os.path.dirname(path))
        return True

    def copy(self, source: str, target: str, staging: str | None) -> None:
        """Copy by a hard link where the file system has them."""
        path = path_of(target)
        with _translated(target), _guarded(staging):
            if staging is None:  # the temporary file lies beside the file
                _make_folder(os.path.dirname(path), None)
            temporary = _temporary(path, staging)
            try:
                os.link(path_of(source), temporary)
            except OSError:
                shutil.copyfile(path_of(source), temporary)
            _move_into_place(temporary, path, staging)
            _sync_folder(os.path.dirname(path))

    def delete(self, uri: str, staging: str | None) -> None:
        path = path_of(uri)
        with _translated(uri), _guarded(staging):
            temporary = _move_away(path, staging)
            if temporary is not None:
                with suppress(FileNotFoundError):
                    os.unlink(temporary)
                with suppress(FileNotFoundError):  # the folder was removed meanwhile, with all that it held
                    _sync_folder(os.path.dirname(path))

    def delete_tree(self, uri: str, staging: str | None, first: Sequence[str] = ()) -> None:
        """Move the whole folder away by a rename, then remove it."""
        with _translated(uri), _guarded(staging):
            temporary = _move_away(path_of(uri), staging)
            if temporary is not None:
                shutil.rmtree(temporary, ignore_errors=True)

    def claim(self, uri: str, data: bytes) -> bool:
        path = path_of(uri)
        parent = os.path.dirname(path)
        prepared = os.path.join(parent, f".{secrets.token_hex(8)}")
        with _translated(uri):
            os.makedirs(prepared)
            try:
                with open(os.path.join(prepared, CLAIM_FILE), "wb") as file:
                    _write_durably(file, data)
                os.rename(prepared, path)  # fails where a folder that is not empty exists
            except OSError as exc:
                shutil.rmtree(prepared, ignore_errors=True)
                if exc.errno in (errno.ENOTEMPTY, errno.EEXIST):
                    return False
                raise
            _sync_folder(parent)
        return True

    def renew(self, uri: str, data: bytes) -> None:
        """The record is staged in the claimed folder itself."""
        self.write_bytes(f"{uri.rstrip('/')}/{CLAIM_FILE}", data, uri)

    def revoke(self, uri: str) -> None:
        path = path_of(uri)
        removed = os.path.join(os.path.dirname(path), f".{secrets.token_hex(8)}")
        with _translated(uri), suppress(FileNotFoundError):
            os.rename(path, removed)
            for _ in range(_REVOKE_TRIES):
                shutil.rmtree(removed, ignore_errors=True)
                if not os.path.lexists(removed):
                    break

    def create(self, uri: str, staging: str | None) -> bool:
        """Make the file in the staging folder, which fails once that is removed."""
        with _translated(uri), _guarded(staging):
            try:
                os.close(os.open(path_of(uri), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
            except FileExistsError:
                return False
        return True


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_EXCL, _PRIVATE_FILE)


def _write_durably(file: BufferedWriter, data: bytes) -> None:
    file.write(data)
    file.flush()
    os.fsync(file.fileno())


def _readable_file(uri: str) -> str:
    """The path of a file, which is no pipe, socket or device: opening or reading one may never end."""
    path = path_of(uri)
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # opening a folder fails, with a reason
        raise StorageError("unsupported", f"{uri}: is a pipe, socket or device; write its content to a file")
    return path


def _read_up_to(file: FileIO, size_bytes: int, most_bytes: int) -> bytes:
    """The rest of a file that may grow while it is read, or one byte more than `most_bytes` of it."""
    parts: list[bytes] = []
    left = most_bytes + 1
    wanted = size_bytes + 1  # so that one read has all of it, and the next one its end
    while left and (part := file.read(min(wanted, left))):
        parts.append(part)
        left -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _check_version(uri: str, info: os.stat_result, version: str | None) -> None:
    if version is not None and _version(info) != version:
        raise changed(uri)


def _version(info: os.stat_result) -> str:
    return str(info.st_mtime_ns)


def _file_info(uri: str, folders: tuple[str, ...], info: os.stat_result) -> FileInfo:
    is_file = stat.S_ISREG(info.st_mode) or stat.S_ISLNK(info.st_mode)
    return FileInfo(uri=uri, folders=folders, size_bytes=info.st_size, version=_version(info), special=not is_file)


@contextmanager
def _translated(uri: str) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise storage_error(uri, exc) from exc
    except ValueError as exc:  # a NUL byte in a path
        raise StorageError("not_found", f"{uri}: {exc}") from exc


@contextmanager
def _guarded(staging: str | None) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as exc:
        if staging is None or os.path.isdir(path_of(staging)):
            raise
        raise OutputHeld("another run has taken over this output, so this one stopped before writing") from exc


def _temporary(path: str, staging: str | None) -> str:
    folder, name = os.path.split(path)
    return os.path.join(folder if staging is None else path_of(staging), f".{name[:100]}.{secrets.token_hex(4)}.tmp")


def _move_away(path: str, staging: str | None) -> str | None:
    """Move a file or folder to a temporary path, and return that; None if there is nothing to move."""
    temporary = _temporary(path, staging)
    try:
        os.rename(path, temporary)
    except FileNotFoundError:
        if staging is not None:
            os.stat(path_of(staging))
        return None
    return temporary


def _make_folder(folder: str, staging: str | None) -> None:
    """Make missing folders by renames, as with files: a former holder must not make its staging folder again."""
    if staging is None:
        os.makedirs(folder, exist_ok=True)
        return
    if os.path.isdir(folder):
        return
    _make_folder(os.path.dirname(folder), staging)
    prepared = _temporary(folder, staging)
    os.mkdir(prepared)
    try:
        os.rename(prepared, folder)
    except OSError:
        with suppress(OSError):
            os.rmdir(prepared)
        if not os.path.isdir(folder):  # else another worker of this holder was faster
            raise


def _move_into_place(temporary: str, path: str, staging: str | None) -> None:
    """Rename a finished file into its folder, again where the folder was replaced meanwhile.

    Of several writers that make a folder, the last one's rename replaces the empty folder of another, whose file then
    finds no folder.
    """
    for tries_left in reversed(range(_MOVE_TRIES)):
        try:
            _make_folder(os.path.dirname(path), staging)
            os.replace(temporary, path)
            return
        except FileNotFoundError:
            if not tries_left or not os.path.lexists(temporary):
                raise


def _sync_folder(folder: str) -> None:
    """Make a rename in the folder survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
