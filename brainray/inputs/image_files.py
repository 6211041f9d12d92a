"""Image files below a folder, and the rules that select files: suffixes, `--include`, `--exclude`, groups.

Knows no file lists, and opens no archive.
"""

import fnmatch
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

import pyarrow as pa

from brainray import storage
from brainray.config import pattern_of
from brainray.errors import as_bad_request
from brainray.storage.base import FileInfo

from .archives.member import is_archive
from .schema import CHUNK_ROWS

# Formats that Pillow reads, and medical formats, which are listed so that they get a row with `unsupported`.
_PILLOW = "jpg jpeg jpe jfif jp2 j2k png apng bmp dib gif tif tiff webp avif ppm pgm pbm pnm tga"
_MEDICAL = "heic heif dcm dicom ima nii"
IMAGE_SUFFIXES = frozenset(f".{suffix}" for suffix in f"{_PILLOW} {_MEDICAL}".split())


def is_hidden(name: str, folders: Sequence[str]) -> bool:
    return name.startswith(".") or any(folder.startswith(".") for folder in folders)


def skip_reason(name: str, folders: Sequence[str], *, special: bool = False) -> str | None:
    """The reason to skip a file, by its name and kind only; None for an image."""
    if special:
        return "special file"
    if is_hidden(name, folders):
        return "hidden"
    suffix = os.path.splitext(name)[1].lower()
    if suffix in IMAGE_SUFFIXES or name.lower().endswith(".nii.gz"):
        return None
    return f"suffix {suffix}" if suffix else "no suffix"


def skip_member(name: str, *, refused: bool) -> str | None:
    """The reason to skip a member of a tar or zip; None for images and archives. `refused`: ignores its folders."""
    if not name or is_archive(name):
        return None
    *folders, file = name.replace("\\", "/").split("/")
    return skip_reason(file, () if refused else folders)


class Globs:
    """Selects paths below an input. `*` matches any characters, also `/`, as in `aws s3 --exclude`."""

    def __init__(self, include: Sequence[str], exclude: Sequence[str]) -> None:
        self._include, self._exclude = _any_of(include), _any_of(exclude)

    def skip_reason(self, path: str) -> str | None:
        if self._include is not None and not self._include.match(path):
            return "not in --include"
        return "in --exclude" if self.excludes(path) else None

    def excludes(self, path: str) -> bool:
        return self._exclude is not None and self._exclude.match(path) is not None


def _any_of(globs: Sequence[str]) -> re.Pattern[str] | None:
    return re.compile("|".join(map(fnmatch.translate, globs))) if globs else None


class Grouper:
    """The group of an image: its first folder below the input, or the match of a regular expression in its URI."""

    def __init__(self, group_by: str | None, *, option: str = "--group-by") -> None:
        """`group_by` is "folder", a regular expression, or None (no groups). Raises `BadRequest` for a bad one."""
        self._by_folder = group_by == "folder"
        self._pattern = pattern_of(option, group_by) if group_by and not self._by_folder else None

    def __call__(self, uri: str, folders: Sequence[str]) -> str | None:
        if self._by_folder:
            return folders[0] if folders else None
        found = self._pattern.search(uri) if self._pattern else None
        if found is None:
            return None
        return found.group(1) if found.re.groups else found.group(0)


def image_files(option: str, root: str, skipped: Counter[str]) -> Iterator[FileInfo]:
    """List the image files below `root`. Counts skipped files by reason. Errors are `BadRequest` with the option."""
    with as_bad_request(option):
        for found in storage.list_files(root):
            reason = skip_reason(storage.name_of(found.uri), found.folders, special=found.special)
            if reason:
                skipped[reason] += 1
            else:
                yield found


def tables_of(rows: Iterable[dict[str, str | None]], schema: pa.Schema) -> Iterator[pa.Table]:
    """Tables of at most `CHUNK_ROWS` rows each, so that few rows are Python objects at a time."""
    left = iter(rows)
    while chunk := list(islice(left, CHUNK_ROWS)):
        yield pa.Table.from_pylist(chunk, schema=schema)
