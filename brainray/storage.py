"""The only code that opens a URI: list, read, atomic write. Errors of the operating system end here as `StorageError`.

A local file's URI is its absolute path. One whose name is no UTF-8 has a percent-encoded `file://` URI, so that every
name fits a Parquet string and leads back to its file.
"""

import errno
import json
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote_from_bytes, unquote_to_bytes, urlsplit

import pyarrow as pa
import pyarrow.parquet as pq

from .errors import BadRequest, ImageReason, OutputHeld, StorageError

_REASONS: dict[int, ImageReason] = {
    errno.ENOENT: "not_found",
    errno.ENOTDIR: "not_found",
    errno.EACCES: "forbidden",
    errno.EPERM: "forbidden",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class FileInfo:
    """A file found by `list_files`."""

    uri: str
    folders: tuple[str, ...]  # names below the listed root, outermost first
    size_bytes: int
    version: str  # changes when the content does: the modification time in nanoseconds
    special: bool = False  # a pipe, socket or device: reading it may never end


def normalise(uri: str | os.PathLike[str]) -> str:
    """The one spelling of a location: an absolute local path. Raises `BadRequest` for schemes that are not served."""
    text = os.fspath(uri)
    if not text:
        raise BadRequest("a path is empty; give a folder or a file")
    if "://" in text:
        parts = urlsplit(text)
        if parts.scheme != "file":
            raise BadRequest(f"{text}: {parts.scheme}:// is not supported by this version; give a local path")
        if parts.netloc not in ("", "localhost"):
            raise BadRequest(f"{text}: a file:// URI names no host; write file:///path")
    return _uri(os.path.abspath(os.path.expanduser(_path(text))))


def _path(uri: str) -> str:
    if uri.startswith("file://"):
        return os.fsdecode(unquote_to_bytes(uri[len("file://") :].removeprefix("localhost")))
    return uri


def _uri(path: str) -> str:
    try:
        path.encode()
        return path
    except UnicodeEncodeError:
        return "file://" + quote_from_bytes(os.fsencode(path))


def _text(name: str) -> str:
    return os.fsencode(name).decode(errors="backslashreplace")


@contextmanager
def _translated(uri: str) -> Iterator[None]:
    try:
        yield
    except pa.ArrowException as exc:
        raise StorageError("read_failed", f"{uri}: no readable Parquet ({exc})") from exc
    except OSError as exc:
        reason = _REASONS.get(exc.errno or 0, "read_failed")
        raise StorageError(reason, f"{uri}: {exc.strerror or exc}") from exc
    except ValueError as exc:  # a NUL byte in a path
        raise StorageError("not_found", f"{uri}: {exc}") from exc


def join(uri: str, *names: str) -> str:
    return "/".join((uri.rstrip("/"), *names))


def name_of(uri: str) -> str:
    """The last part of a location, as text to look at: bytes that are no UTF-8 show as escapes."""
    return _text(os.path.basename(_path(uri).rstrip("/")))


def is_folder(uri: str) -> bool:
    return os.path.isdir(_path(uri))


def exists(uri: str) -> bool:
    return os.path.lexists(_path(uri))


def read_bytes(uri: str) -> bytes:
    """A whole file. One that ends too early, as on a flaky network share, raises `StorageError`."""
    with _translated(uri), open(_path(uri), "rb", buffering=0) as file:
        size_bytes = os.fstat(file.fileno()).st_size
        data = file.read()
    if len(data) < size_bytes:
        raise StorageError("read_failed", f"{uri}: short read, got {len(data)} of {size_bytes} bytes")
    return data


def read_json(uri: str) -> dict[str, Any]:
    """A JSON object. Raises `StorageError` where the file holds none."""
    try:
        value = json.loads(read_bytes(uri))
    except ValueError as exc:
        raise StorageError("read_failed", f"{uri}: no valid JSON ({exc})") from exc
    if not isinstance(value, dict):
        raise StorageError("read_failed", f"{uri}: holds no JSON object")
    return value


@contextmanager
def open_parquet(uri: str, *, checksums: bool = False) -> Iterator[pq.ParquetFile]:
    """A Parquet file, read where it is needed. A damaged one raises `StorageError`; `checksums` looks at each page."""
    with (
        _translated(uri),
        pa.OSFile(_path(uri), "rb") as source,
        pq.ParquetFile(source, page_checksum_verification=checksums) as file,
    ):
        yield file


def read_parquet(uri: str) -> pa.Table:
    """A whole small table."""
    with open_parquet(uri) as file:
        return file.read()


@dataclass(frozen=True, slots=True)
class Writer:
    """Changes files in the name of one owner, whose `staging` folder lies on the same file system.

    Every change is one rename out of that folder or into it. Who takes over removes the folder first, so whatever a
    former owner tries from then on fails in the kernel: also where it slept between its last look at the lease and the
    rename. A change that fails so raises `OutputHeld`. Without `staging` there is no owner, and no such guard.
    """

    staging: str | None = None

    def write_bytes(self, uri: str, data: bytes) -> None:
        """Write a whole file or nothing: readers see the old content or the new. Makes missing folders."""
        path = _path(uri)
        with _translated(uri), self._guarded():
            self._make_folder(os.path.dirname(path))
            temporary = self._temporary(path)
            try:
                with open(temporary, "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(temporary, path)
            except BaseException:
                with suppress(OSError):
                    os.unlink(temporary)
                raise
            _sync_folder(os.path.dirname(path))

    def write_json(self, uri: str, value: dict[str, Any]) -> None:
        self.write_bytes(uri, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())

    def write_parquet(self, uri: str, table: pa.Table) -> None:
        """Atomically, zstd, with page checksums. Small enough to be built in memory: a part, a summary."""
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
        self.write_bytes(uri, sink.getvalue().to_pybytes())

    def copy(self, source: str, target: str) -> None:
        """Put a file in another's place, as a whole. The source stays; a hard link where the file system has them."""
        path = _path(target)
        with _translated(target), self._guarded():
            self._make_folder(os.path.dirname(path))
            temporary = self._temporary(path)
            try:
                os.link(_path(source), temporary)
            except OSError:
                shutil.copyfile(_path(source), temporary)
            os.replace(temporary, path)
            _sync_folder(os.path.dirname(path))

    def delete(self, uri: str) -> None:
        """Remove a file; one that is not there is fine."""
        path = _path(uri)
        with _translated(uri), self._guarded():
            temporary = self._temporary(path)
            try:
                os.rename(path, temporary)
            except FileNotFoundError:
                if self.staging is not None:
                    os.stat(_path(self.staging))
                return
            with suppress(FileNotFoundError):
                os.unlink(temporary)
            _sync_folder(os.path.dirname(path))

    def delete_tree(self, uri: str) -> None:
        """Remove a folder and all below it, at once; one that is not there is fine."""
        path = _path(uri)
        with _translated(uri), self._guarded():
            temporary = self._temporary(path)
            try:
                os.rename(path, temporary)
            except FileNotFoundError:
                if self.staging is not None:
                    os.stat(_path(self.staging))
                return
            shutil.rmtree(temporary, ignore_errors=True)

    def _make_folder(self, folder: str) -> None:
        """Missing folders are renamed into place as files are: a former owner must not bring back its own staging."""
        if self.staging is None:
            os.makedirs(folder, exist_ok=True)
            return
        if os.path.isdir(folder):
            return
        self._make_folder(os.path.dirname(folder))
        prepared = self._temporary(folder)
        os.mkdir(prepared)
        try:
            os.rename(prepared, folder)
        except OSError:
            with suppress(OSError):
                os.rmdir(prepared)
            if not os.path.isdir(folder):  # or another worker of this owner was faster
                raise

    def _temporary(self, path: str) -> str:
        folder, name = os.path.split(path)
        staging = folder if self.staging is None else _path(self.staging)
        return os.path.join(staging, f".{name[:100]}.{secrets.token_hex(4)}.tmp")

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as exc:
            if self.staging is None or os.path.isdir(_path(self.staging)):
                raise
            raise OutputHeld("another run has taken over this output, so this one stopped before writing") from exc


_UNOWNED = Writer()
write_bytes = _UNOWNED.write_bytes
write_json = _UNOWNED.write_json
write_parquet = _UNOWNED.write_parquet
delete = _UNOWNED.delete


def _sync_folder(folder: str) -> None:
    """Make a rename in the folder survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def claim(uri: str, name: str, data: bytes) -> bool:
    """Make the folder `uri` with one file in it, at once; False where it is there already. Of many, one succeeds."""
    path = _path(uri)
    parent = os.path.dirname(path)
    prepared = os.path.join(parent, f".{secrets.token_hex(8)}")
    with _translated(uri):
        os.makedirs(prepared)
        try:
            with open(os.path.join(prepared, name), "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.rename(prepared, path)  # fails where there is a folder that holds something
        except OSError as exc:
            shutil.rmtree(prepared, ignore_errors=True)
            if exc.errno in (errno.ENOTEMPTY, errno.EEXIST):
                return False
            raise
        _sync_folder(parent)
    return True


# A call that was in the kernel before the rename may still add a file (6 of 400 times with four busy threads on ext4).
_REVOKE_TRIES = 10


def revoke(uri: str) -> None:
    """Take a claimed folder away, at once: every `Writer` that stages in it fails from now on."""
    path = _path(uri)
    removed = os.path.join(os.path.dirname(path), f".{secrets.token_hex(8)}")
    with _translated(uri), suppress(FileNotFoundError):
        os.rename(path, removed)
        for _ in range(_REVOKE_TRIES):
            shutil.rmtree(removed, ignore_errors=True)
            if not os.path.lexists(removed):
                break


def delete_tree(uri: str) -> None:
    """Remove a folder and all below it; one that is not there is fine."""
    with _translated(uri), suppress(FileNotFoundError):
        shutil.rmtree(_path(uri))


def create(uri: str) -> bool:
    """Make an empty file; False where there is one already. Of many who try, one succeeds."""
    with _translated(uri):
        try:
            os.close(os.open(_path(uri), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
        except FileExistsError:
            return False
    return True


def list_names(uri: str) -> list[str]:
    """Names in one folder, sorted, without hidden ones; none where there is no folder."""
    with _translated(uri):
        try:
            return sorted(name for name in os.listdir(_path(uri)) if not name.startswith("."))
        except FileNotFoundError:
            return []


def list_files(uri: str) -> Iterator[FileInfo]:
    """Every file below a folder (or the file itself), sorted within each folder, streamed.

    Links are followed; a folder that is its own ancestor is not entered again. A folder that cannot be read raises.
    """
    root = _path(uri)
    with _translated(uri):
        if os.path.isdir(root):
            yield from _walk(root, (), ())
        else:
            info = os.stat(root)
            yield _file_info(uri, (), info)


def _file_info(uri: str, folders: tuple[str, ...], info: os.stat_result) -> FileInfo:
    is_file = stat.S_ISREG(info.st_mode) or stat.S_ISLNK(info.st_mode)
    return FileInfo(
        uri=uri, folders=folders, size_bytes=info.st_size, version=str(info.st_mtime_ns), special=not is_file
    )


def _walk(folder: str, names: tuple[str, ...], ancestors: tuple[tuple[int, int], ...]) -> Iterator[FileInfo]:
    here = os.stat(folder)
    identity = (here.st_dev, here.st_ino)
    if identity in ancestors:
        return
    with os.scandir(folder) as scan:
        entries = sorted(scan, key=lambda entry: entry.name)
    for entry in entries:
        if entry.is_dir():
            yield from _walk(entry.path, (*names, _text(entry.name)), (*ancestors, identity))
            continue
        try:
            info = entry.stat()
        except FileNotFoundError:  # a dangling link: listed, so that its row can say not_found
            info = entry.stat(follow_symlinks=False)
        yield _file_info(_uri(entry.path), names, info)
