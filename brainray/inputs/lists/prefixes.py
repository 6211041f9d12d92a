"""Rows of a list that name a folder or a prefix of a bucket, such as a DICOM series, in place of an image.

Prefixes of buckets are listed ahead in threads, for each costs a request at least.
"""

import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from itertools import chain, islice
from typing import NamedTuple, TypeVar

from brainray import storage
from brainray.errors import StorageError
from brainray.inputs.image_suffixes import IMAGE_SUFFIXES
from brainray.inputs.skip_counts import count_skipped
from brainray.storage.base import FileInfo, FolderRules

_ANYTHING_BELOW = "/*"  # at the end of a prefix
_AT_ONCE = 32
_AHEAD = 128  # rows that are held while their listings are made
_FIRST = 2_000  # files of a prefix that are held; the rest is listed when it is their turn

_SHOWN = 5  # prefixes that a note names

Row = TypeVar("Row")


class Below(NamedTuple):
    """What lies below a prefix."""

    files: Iterator[FileInfo] | None  # None: of a disk, which is listed when it is its turn

    def named(self, uri: str, rules: FolderRules) -> Iterator[FileInfo]:
        """The files, with the prefix itself as their first folder. `rules` are for a folder of a disk."""
        files = self.files or (storage.list_files(uri, rules) if storage.exists(uri) else iter(()))
        return (replace(found, folders=(storage.name_of(uri), *found.folders)) for found in files)


class Prefixes:
    """Counts the prefixes that a list names again, and those without an image below."""

    def __init__(self, list_uri: str, skipped: Counter[str]) -> None:
        self._list_uri, self._skipped = list_uri, skipped
        self._named: set[str] = set()
        self._empty: list[str] = []
        self._without = 0

    def counted(self, uri: str, images: Iterator[Row]) -> Iterator[Row]:
        """The images below a prefix, unless it was named before."""
        if uri in self._named:
            count_skipped(self._skipped, "prefix that is listed again")
            return
        self._named.add(uri)
        is_empty = True
        for image in images:
            is_empty = False
            yield image
        if is_empty:
            count_skipped(self._skipped, "prefix without an image")
            self._without += 1
            if len(self._empty) < _SHOWN:
                self._empty.append(uri)

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know: one line, or none."""
        if not self._without:
            return ()
        more = f" and {self._without - len(self._empty):,} more" if self._without > len(self._empty) else ""
        return (
            f"--input {self._list_uri}: below {self._without:,} of {len(self._named):,} prefixes there is no image: "
            f"{', '.join(self._empty)}{more}",
        )


def prefix_of(text: str, *, always: bool) -> str | None:
    """The folder or prefix that a name in a list stands for, by its end; None for that of an image.

    With `always` every name stands for one, however it ends. The key of an object may end with a slash: with the suffix
    of an image before it, it is one.
    """
    if text.endswith(("//", f"/{_ANYTHING_BELOW}")):  # names as only keys of objects have them
        return None
    if text.endswith(_ANYTHING_BELOW):
        return text.removesuffix(_ANYTHING_BELOW) or "/"
    above = text.rstrip("/")
    is_image = os.path.splitext(above)[1].lower() in IMAGE_SUFFIXES
    return (above or "/") if always or (text.endswith("/") and not is_image) else None


def listed_ahead(rows: Iterable[Row], prefix: Callable[[Row], str | None]) -> Iterator[tuple[Row, Below | None]]:
    """The same rows in order; with those that name a prefix in a bucket, the files below it."""
    held: deque[tuple[Row, Future[Below] | None]] = deque()
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="prefixes") as pool:
        for row in rows:
            uri = prefix(row)
            asked = pool.submit(_below, uri) if uri is not None else None
            held.append((row, asked))
            while held and (held[0][1] is None or len(held) > _AHEAD):
                yield _answered(held.popleft())
        while held:
            yield _answered(held.popleft())


def _answered(entry: tuple[Row, Future[Below] | None]) -> tuple[Row, Below | None]:
    row, asked = entry
    return row, None if asked is None else asked.result()


def _below(uri: str) -> Below:
    if storage.is_local(uri):
        return Below(None)
    files = storage.list_files(f"{uri}/")
    try:
        first = list(islice(files, _FIRST))
    except StorageError as exc:
        if exc.reason != "not_found":
            raise
        return Below(iter(()))
    return Below(chain(first, files))
