"""Image files below a folder, and the rules that select files: suffixes, `--include`, `--exclude`, groups.

Knows no file lists, and opens no archive.
"""

import fnmatch
import glob
import os
import re
import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice

import pyarrow as pa

from brainray import storage
from brainray.config import pattern_of
from brainray.errors import BadRequest, StorageError, as_bad_request
from brainray.storage.base import FileInfo, FolderRules

from .archives.member import is_archive
from .bids import BidsTrees
from .image_suffixes import image_suffix, without_number
from .listed_image import CHUNK_ROWS
from .own_output import OwnOutput
from .skip_counts import count_skipped
from .table_formats import TableGuard
from .unnamed_files import NO_SUFFIX, FileFormats, UnnamedFiles

# Folders that systems and programs make by themselves, in lower case. What lies in them was deleted, is a thumbnail or
# a copy, or was never finished.
_SYSTEM_FOLDERS = frozenset(
    (
        *("@eadir", "@synoeastream", "#recycle", "#snapshot", "@tmp"),  # Synology
        *("@recycle", "@recently-snapshot", "@__thumb"),  # QNAP
        *("~snapshot", "lost+found"),  # NetApp, ext4
        *("$recycle.bin", "recycler", "recycled", "system volume information", "found.000"),  # Windows
        *("__macosx", "network trash folder", "_gsdata_"),  # macOS, GoodSync
        *("_temporary", "_spark_metadata", "_delta_log", "_delta_index", "_change_data", "_symlink_format_manifest"),
    )
)


_NO_NAMES = (".", "..")  # parts of S3 keys, where they are characters like others
DIRECTORY = "DICOMDIR"  # the index of a medium with DICOM files


@lru_cache(maxsize=4096)
def is_hidden_folder(name: str) -> bool:
    """Whether a folder is hidden by its name, or made by a system for its own use (recycle bins, thumbnails, logs)."""
    return (name.startswith(".") and name not in _NO_NAMES) or name.lower() in _SYSTEM_FOLDERS


def is_hidden(name: str, folders: Sequence[str]) -> bool:
    """Whether a file is hidden, or lies in a folder that is."""
    return name.startswith(".") or any(map(is_hidden_folder, folders))


def skip_reason(name: str, folders: Sequence[str], *, special: bool = False) -> str | None:
    """The reason to skip a file, by its name and kind only; None for an image."""
    if special:
        return "special file"
    if is_hidden(name, folders):
        return "hidden"
    if name.upper() == DIRECTORY:
        return DIRECTORY
    if image_suffix(name):
        return None
    suffix = os.path.splitext(name.lower())[1]
    # A number at the end, as of DICOM files named by UIDs, tells no format.
    return NO_SUFFIX if not suffix or suffix[1:].isdecimal() else f"suffix {suffix}"


def skip_member(name: str, *, refused: bool) -> str | None:
    """The reason to skip a member of a tar or zip; None for images and archives. `refused`: ignores its folders.

    A name that occurs again ends in `#2`, `#3` and so on, which is no part of its suffix.
    """
    name = without_number(name)
    if not name or is_archive(name):
        return None
    *folders, file = name.replace("\\", "/").split("/")
    return skip_reason(file, () if refused else folders)


class Globs:
    """Selects paths below an input. `*` matches any characters, also `/`, as in `aws s3 --exclude`."""

    def __init__(self, include: Sequence[str], exclude: Sequence[str]) -> None:
        self._include, self._exclude = _any_of(include), _any_of(exclude)
        self._exclude_folders = _any_of([pattern for pattern in exclude if pattern.endswith("*")])
        globs = [("--include", pattern) for pattern in include] + [("--exclude", pattern) for pattern in exclude]
        self._unmatched = {(option, glob): re.compile(fnmatch.translate(glob)) for option, glob in globs}

    @property
    def includes_some(self) -> bool:
        """Whether `--include` says what is wanted."""
        return self._include is not None

    def skip_reason(self, path: str) -> str | None:
        if self._include is not None and not self._include.match(path):
            return "not in --include"
        return "in --exclude" if self.excludes(path) else None

    @property
    def unmatched(self) -> list[tuple[str, str]]:
        """Option and glob of those that matched no path so far. Order and repetitions are those of the options."""
        return list(self._unmatched)

    def on_path(self, path: str) -> None:
        """Take notice of the path of any file, also of one that no glob decides about."""
        if self._unmatched:
            for key in [key for key, pattern in self._unmatched.items() if pattern.match(path)]:
                del self._unmatched[key]

    def on_excluded(self, folder: str) -> None:
        """Take notice of a folder that is not entered: other globs may match below it."""
        self.on_path(f"{folder}/")
        for key in [key for key in self._unmatched if key[1].startswith(f"{folder}/")]:
            del self._unmatched[key]

    def excludes(self, path: str) -> bool:
        return self._exclude is not None and self._exclude.match(path) is not None

    def excludes_all_below(self, folder: str) -> bool:
        """Whether `--exclude` matches every path below a folder: a last `*` matches whatever follows."""
        return self._exclude_folders is not None and self._exclude_folders.match(f"{folder}/") is not None


def _any_of(globs: Sequence[str]) -> re.Pattern[str] | None:
    return re.compile("|".join(map(fnmatch.translate, globs))) if globs else None


class Grouper:
    """The group of an image: its first folder below the input, or the match of a regular expression in its URI."""

    def __init__(self, group_by: str | None, *, option: str = "--group-by") -> None:
        """`group_by` is "folder", "bids" (the subject), a regular expression, or None (no groups).

        Raises `BadRequest` for a bad one.
        """
        self._by_folder = group_by == "folder"
        self._pattern = _pattern_of(option, group_by) if group_by and not self._by_folder else None

    def __call__(self, uri: str, folders: Sequence[str]) -> str | None:
        if self._by_folder:
            return folders[0] if folders else None
        found = self._pattern.search(uri) if self._pattern else None
        if found is None:
            return None
        return found.group(1) if found.re.groups else found.group(0)


# Subject and session of a BIDS tree, by the name of the file, else by the last folder of such a name.
BIDS = "bids"
_BIDS_SUBJECT = re.compile(r".*(?:^|[/_#])(?P<subject>sub-[a-zA-Z0-9+]+)(?=[/_.])", re.DOTALL)
_BIDS_SESSION = re.compile(r".*[/_](?P<session>ses-[a-zA-Z0-9+]+)(?=[/_.])", re.DOTALL)


_BIDS_LEVELS = (("subject", _BIDS_SUBJECT), ("session", _BIDS_SESSION))


def _pattern_of(option: str, text: str) -> re.Pattern[str]:
    return _BIDS_SUBJECT if text == BIDS else pattern_of(option, text)


# Columns of predictions that may be levels of groups: known once an image is scored, so its row has a mark until then.
SCAN_LEVELS = ("scan_modality", "scan_likely", "scan_plane", "scan_sequence", "scan_field_t", "scan_vendor")
_LEVEL = re.compile(r"(?:(?P<name>\w[\w -]*)=)?(?:folder(?::(?P<place>-?\d+))?|(?P<scan>scan_\w+))")


def scan_mark(column: str) -> str:
    """What stands in the group of a listed image for the value of a column of its prediction."""
    return f"{{{column}}}"


@dataclass(frozen=True)
class _Level:
    """A level of groups: the folder at `place` below the input, what a pattern finds in the URI, or a scan column."""

    name: str
    place: int | None = None  # from 0, as in a list: -1 is the folder that holds the image
    pattern: re.Pattern[str] | None = None  # None: of a folder, or the pattern is that of the level before
    group: int | str = 0  # of the pattern
    scan: str | None = None  # a column of the prediction

    def of(self, folders: Sequence[str], found: re.Match[str] | None) -> str | None:
        if self.scan is not None:
            return scan_mark(self.scan)
        if self.place is None:
            return found.group(self.group) if found else None
        here = -len(folders) <= self.place < len(folders)
        return folders[self.place] if here else None


class GroupLevels:
    """The groups of an image in several levels, such as site, patient and series, as one text: `A/patient 7/2`.

    In it `/` and `%` of a name are %2F and %25, and a level that is not found is empty, so that every group has the
    groups above it as its beginning. A single level stands as it is.
    """

    def __init__(self, group_by: str | Sequence[str] | None, *, option: str = "--group-by") -> None:
        """`group_by` are `folder`, `folder:1` (the one below), `site=folder` (named), `scan_vendor` or another of
        `SCAN_LEVELS`, several of these with commas between them, `bids` (subject and session), or regular expressions,
        of which each named group is a level if there are several.

        Raises `BadRequest` for what is none of these, and for two levels of one name.
        """
        texts = (group_by,) if isinstance(group_by, str) else group_by or ()
        self._levels = [level for text in texts if text for level in _levels_of(text, option)]
        names = [level.name for level in self._levels]
        repeated = [name for name in names if names.count(name) > 1]
        if repeated:
            raise BadRequest(f"{option}: two levels are named {repeated[0]!r}; give each a name, as {_NAMING}")

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(level.name for level in self._levels)

    @property
    def scans(self) -> tuple[str, ...]:
        """The columns of predictions among the levels."""
        return tuple(level.scan for level in self._levels if level.scan is not None)

    def __call__(self, uri: str, folders: Sequence[str]) -> str | None:
        values = []
        found = None
        for level in self._levels:
            if level.pattern is not None:
                found = level.pattern.search(uri)
            values.append(level.of(folders, found))
        if len(values) < 2:
            return values[0] if values else None
        return "/".join(map(escaped, values)) if any(value is not None for value in values) else None


_NAMING = "site=folder, or (?P<patient>…) in a regular expression"


def _levels_of(text: str, option: str) -> list[_Level]:
    """The levels that one value of the option stands for."""
    if text == BIDS:
        return [_Level(name, pattern=of, group=name) for name, of in _BIDS_LEVELS]
    found = [_LEVEL.fullmatch(piece.strip()) for piece in text.split(",")]
    levels = [piece for piece in found if piece is not None]
    if len(levels) == len(found):
        return [_folder_or_scan(piece, option) for piece in levels]
    if levels:
        raise BadRequest(f"{option} {text!r} mixes folders and a regular expression; give {option} once for each")
    pattern = pattern_of(option, text)
    named = sorted(pattern.groupindex, key=pattern.groupindex.__getitem__)
    if len(named) > 1:
        return [_Level(name, pattern=pattern if k == 0 else None, group=name) for k, name in enumerate(named)]
    first = next((name for name, place in pattern.groupindex.items() if place == 1), "group")
    return [_Level(first, pattern=pattern, group=1 if pattern.groups else 0)]


def _folder_or_scan(piece: re.Match[str], option: str) -> _Level:
    if piece["scan"] is None:
        return _Level(piece["name"] or piece[0], place=int(piece["place"] or 0))
    if piece["scan"] not in SCAN_LEVELS:
        raise BadRequest(f"{option} {piece['scan']}: there is no such column; known are {', '.join(SCAN_LEVELS)}")
    return _Level(piece["name"] or piece["scan"], scan=piece["scan"])


def escaped(value: str | None) -> str:
    """The name of a level as a part of a group of several."""
    return (value or "").replace("%", "%25").replace("/", "%2F")


class InputFolders(FolderRules):
    """Folders below an input: excluded ones are not entered, hidden ones may be unreadable. Counts what is left out."""

    def __init__(
        self,
        option: str,
        skipped: Counter[str],
        chosen: Globs | None = None,
        tables: TableGuard | None = None,
        *,
        above: tuple[str, ...] = (),
    ) -> None:
        """Without globs, the option has no `--exclude` that could leave an unreadable folder out.

        `above` are the folders that paths begin with, as globs see them.
        """
        self._option, self._skipped, self._chosen, self._tables = option, skipped, chosen, tables
        self._above = above

    def excludes(self, folders: tuple[str, ...]) -> bool:
        return self._chosen is not None and self._chosen.excludes_all_below(self._path(folders))

    def hides(self, folders: tuple[str, ...]) -> bool:
        return any(map(is_hidden_folder, folders))

    def on_excluded(self, folders: tuple[str, ...]) -> None:
        self._on_folder(folders)
        if self._chosen is not None:
            self._chosen.on_excluded(self._path(folders))
        count_skipped(self._skipped, "folder in --exclude")

    def on_not_followed(self, folders: tuple[str, ...]) -> None:
        count_skipped(self._skipped, "hidden" if self.hides(folders) else "linked again")

    def on_forbidden(self, folders: tuple[str, ...], error: StorageError) -> None:
        self._on_folder(folders)
        if self.hides(folders):
            count_skipped(self._skipped, "hidden")
            return
        pattern = shlex.quote(glob.escape(self._path(folders)) + "/*")
        others = "" if self._chosen is None else f", or leave it out by --exclude {pattern}"
        raise BadRequest(f"{self._option} {error}; let this user read the folder{others}") from error

    def _path(self, folders: tuple[str, ...]) -> str:
        return "/".join((*self._above, *folders))

    def _on_folder(self, folders: tuple[str, ...]) -> None:
        """Have the log of a table noticed even where it is left out: its Parquet files are then not left out, too."""
        if self._tables is not None:
            self._tables.on_file(folders)


def image_files(
    option: str,
    root: str,
    skipped: Counter[str],
    notes: list[str],
    *,
    output: str | None = None,
    formats: FileFormats | None = None,
    on_skipped: Callable[[FileInfo, str], None] | None = None,
) -> Iterator[FileInfo]:
    """List the image files below `root`; last those without a suffix, if they count (see `UnnamedFiles`).

    `formats` remembers the frames of the latter. `on_skipped` is called with each file that has the suffix of no image,
    or is skipped by its place, and the reason.

    What lies below an `output` that is no folder above `root` is left out: the plots that the command writes there are
    no input of its next run. So are the folders of a BIDS tree that hold no raw data.
    Counts skipped files by reason. `notes` takes what the user should know. Errors are `BadRequest` with the option.
    """
    unnamed = UnnamedFiles(root, skipped, option=option, any_suffix=None, format_in=formats or FileFormats(tars=False))
    named, trees = 0, BidsTrees()
    own = OwnOutput(output, root=root)
    with as_bad_request(option):
        for found in storage.list_files(root, InputFolders(option, skipped)):
            if own.holds(found.uri):
                continue
            name = storage.name_of(found.uri)
            trees.on_file(found.folders, name)
            reason = skip_reason(name, found.folders, special=found.special)
            if reason is None or unnamed.wants(reason):
                reason = trees.skip_reason(found.folders) or reason
            if reason is None:
                named += 1
                yield found
            elif unnamed.wants(reason):
                yield from (image for image, _ in unnamed.add(found, reason))
            else:
                count_skipped(skipped, reason)
                if on_skipped is not None:
                    on_skipped(found, reason)
        yield from (image for image, _ in unnamed.rest(named))
    notes += unnamed.notes


def tables_of(rows: Iterable[dict[str, str | None]], schema: pa.Schema) -> Iterator[pa.Table]:
    """Tables of at most `CHUNK_ROWS` rows each, so that few rows are Python objects at a time."""
    left = iter(rows)
    while chunk := list(islice(left, CHUNK_ROWS)):
        yield pa.Table.from_pylist(chunk, schema=schema)
