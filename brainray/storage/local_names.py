"""Files of this machine by name: paths and URIs, versions, and every file below a folder."""

import os
import stat
from collections.abc import Iterator
from urllib.parse import quote_from_bytes, unquote_to_bytes

from .base import FileInfo, changed


def path_of(uri: str) -> str:
    if uri.startswith("file://"):
        return os.fsdecode(unquote_to_bytes(uri[len("file://") :].removeprefix("localhost")))
    return uri


def uri_of(path: str) -> str:
    try:
        path.encode()
        return path
    except UnicodeEncodeError:
        return "file://" + quote_from_bytes(os.fsencode(path))


def text_of(name: str) -> str:
    return os.fsencode(name).decode(errors="backslashreplace")


def check_version(uri: str, info: os.stat_result, version: str | None) -> None:
    if version is not None and _version(info) != version:
        raise changed(uri)


def _version(info: os.stat_result) -> str:
    return str(info.st_mtime_ns)


def file_info(uri: str, folders: tuple[str, ...], info: os.stat_result) -> FileInfo:
    is_file = stat.S_ISREG(info.st_mode) or stat.S_ISLNK(info.st_mode)
    return FileInfo(uri=uri, folders=folders, size_bytes=info.st_size, version=_version(info), special=not is_file)


def walk(folder: str, names: tuple[str, ...], ancestors: tuple[tuple[int, int], ...]) -> Iterator[FileInfo]:
    here = os.stat(folder)
    identity = (here.st_dev, here.st_ino)
    if identity in ancestors:
        return
    with os.scandir(folder) as scan:
        entries = sorted(scan, key=lambda entry: entry.name)
    for entry in entries:
        if entry.is_dir():
            yield from walk(entry.path, (*names, text_of(entry.name)), (*ancestors, identity))
            continue
        try:
            info = entry.stat()
        except FileNotFoundError:  # a dangling link: listed, so that its row can say not_found
            info = entry.stat(follow_symlinks=False)
        yield file_info(uri_of(entry.path), names, info)
