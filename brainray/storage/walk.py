"""Lists the files below a folder of a disk, sorted by name within each folder. Opens no file.

Each real folder is listed once. A link to a folder that is listed at its own place anyway is not followed; of several
links to one folder elsewhere, the first one is. Only folders that links lead to are remembered.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

from .base import FolderRules
from .paths import storage_error, text_of, uri_of

Names: TypeAlias = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Folder:
    path: str
    names: Names  # from the listed root down to this folder
    real: str  # its path without links
    linked: bool  # whether the path holds a link


class Walk:
    """One listing of a folder. Errors are `StorageError` and name the folder that cannot be read."""

    def __init__(self, root: str, rules: FolderRules) -> None:
        self._rules = rules
        self._top = _Folder(root, (), os.path.realpath(root), False)
        self._behind_links: set[tuple[int, int]] = set()  # device and inode

    def files(self) -> Iterator[tuple[str, Names, os.stat_result]]:
        """Path, names of the folders and status of each file. Depth is not limited by Python's recursion."""
        stack = [(self._top, self._entries(self._top))]
        while stack:
            folder, entries = stack[-1]
            entry = next(entries, None)
            if entry is None:
                stack.pop()
            elif _is_folder(entry):
                below = self._enter(folder, entry)
                if below is not None:
                    stack.append((below, self._entries(below)))
            else:
                info = self._status(folder, entry)
                if info is not None:
                    yield entry.path, folder.names, info

    def _entries(self, folder: _Folder) -> Iterator[os.DirEntry[str]]:
        try:
            with os.scandir(folder.path) as scan:
                return iter(sorted(scan, key=lambda entry: entry.name))
        except OSError as exc:
            self._on_error(folder, exc)
        return iter(())

    def _enter(self, above: _Folder, entry: os.DirEntry[str]) -> _Folder | None:
        """The folder of an entry, or None where it is not to be listed here."""
        names = (*above.names, text_of(entry.name))
        if self._rules.excludes(names):
            self._rules.on_excluded(names)
            return None
        is_link = entry.is_symlink()
        real = os.path.realpath(entry.path) if is_link else os.path.join(above.real, entry.name)
        folder = _Folder(entry.path, names, real, is_link or above.linked)
        if not folder.linked:
            return folder
        # Links in hidden folders are not followed, or what they lead to would be hidden at another place, too.
        if self._rules.hides(names) or self._is_below_top(real):
            self._rules.on_not_followed(names)
            return None
        try:
            status = os.stat(entry.path)
        except OSError as exc:
            self._on_error(folder, exc)
            return None
        identity = (status.st_dev, status.st_ino)
        if identity in self._behind_links:
            self._rules.on_not_followed(names)
            return None
        self._behind_links.add(identity)
        return folder

    def _is_below_top(self, real: str) -> bool:
        """Whether the folder is listed at its own place, which is below the listed root and not passed over."""
        if real == self._top.real:
            return True
        prefix = self._top.real.rstrip("/") + "/"
        if not real.startswith(prefix):
            return False
        names = tuple(map(text_of, real[len(prefix) :].split("/")))
        return not (self._rules.hides(names) or self._rules.excludes(names))

    def _status(self, folder: _Folder, entry: os.DirEntry[str]) -> os.stat_result | None:
        """The status of a file; of the link itself where its target cannot be reached, so that its row says why."""
        try:
            return entry.stat()
        except OSError:
            try:
                return entry.stat(follow_symlinks=False)
            except FileNotFoundError:  # deleted since the folder was read
                return None
            except OSError as exc:
                self._on_error(folder, exc)
                return None

    def _on_error(self, folder: _Folder, error: OSError) -> None:
        """Pass over a folder that is gone since the one above was read, and leave forbidden ones to the rules."""
        is_top = folder is self._top
        if isinstance(error, FileNotFoundError | NotADirectoryError) and not is_top:
            return
        translated = storage_error(uri_of(folder.path), error)
        if is_top or translated.reason != "forbidden":
            raise translated from error
        self._rules.on_forbidden(folder.names, translated)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link in a circle, or to where this user may not look
        return False
