"""Inputs -> listing, streamed: memory does not grow with the number of files beyond one chunk."""

import fnmatch
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from . import storage
from .errors import BadRequest, blamed_on
from .labels import class_lookup, label_from_folders
from .truth import Truth

# What Pillow reads of the formats archives hold, and medical formats, so that those get a row that says `unsupported`.
_PILLOW = "jpg jpeg jpe jfif jp2 j2k png apng bmp dib gif tif tiff webp avif ppm pgm pbm pnm tga"
_MEDICAL = "heic heif dcm dicom ima nii"
IMAGE_SUFFIXES = frozenset(f".{suffix}" for suffix in f"{_PILLOW} {_MEDICAL}".split())
CHUNK_ROWS = 65_536
SHARD_IMAGES = 1000
# Small archives get smaller shards, so that every core has work and the last ones end together.
_SHARDS_AT_LEAST = 16
_SHARD_IMAGES_AT_LEAST = 64

LISTED_SCHEMA = pa.schema(
    [
        pa.field("uri", pa.string(), nullable=False),
        pa.field("size_bytes", pa.int64()),
        pa.field("version", pa.string()),
        pa.field("label", pa.string()),
        pa.field("group", pa.string()),
    ]
)


@dataclass(frozen=True, kw_only=True)
class Listing:
    """What was found: a local Parquet file of images, and the files that are none, by reason."""

    path: str
    images: int
    size_bytes: int
    labelled: int
    skipped: dict[str, int] = field(default_factory=dict)

    def batches(self) -> Iterator[pa.Table]:
        """Its rows in order, `CHUNK_ROWS` at a time."""
        with pq.ParquetFile(self.path) as file:
            for batch in file.iter_batches(CHUNK_ROWS):
                yield pa.Table.from_batches([batch])


def skip_reason(name: str, folders: Sequence[str], *, special: bool = False) -> str | None:
    """Why a file is no image, judged by its name and kind alone; None for an image."""
    if special:
        return "special file"
    if name.startswith(".") or any(folder.startswith(".") for folder in folders):
        return "hidden"
    suffix = os.path.splitext(name)[1].lower()
    if suffix in IMAGE_SUFFIXES or name.lower().endswith(".nii.gz"):
        return None
    return f"suffix {suffix}" if suffix else "no suffix"


def distinct_inputs(inputs: Iterable[str]) -> list[str]:
    """Inputs in order, without those that lie within another: no image may be listed twice."""
    roots: list[str] = []
    for uri in dict.fromkeys(storage.normalise(text) for text in inputs):
        with blamed_on("--input"):
            if not storage.exists(uri):
                raise BadRequest(f"--input {uri}: no such file or folder")
            storage.check_access(uri, write=False)
        roots.append(uri)
    return [uri for uri in roots if not any(uri.startswith(other.rstrip("/") + "/") for other in roots if other != uri)]


class Lister:
    """Files below the inputs as Arrow tables of at most `CHUNK_ROWS` rows; counts what it passes over."""

    def __init__(
        self,
        inputs: Sequence[str],
        *,
        classes: Iterable[str],
        output: str | None = None,
        truth: Truth | None = None,
        group_by: str | None = None,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
    ) -> None:
        self._inputs = inputs
        self._chosen = _Globs(include, exclude)
        self._own = None if output is None else output.rstrip("/") + "/"  # the plots of this very run are no input
        self._lookup = class_lookup(classes)
        self._truth = truth
        self._group = _grouper(group_by)
        self.skipped: Counter[str] = Counter()

    def tables(self) -> Iterator[pa.Table]:
        rows: list[tuple[str, int, str, str | None, str | None]] = []
        relative: list[str] = []
        for root in self._inputs:
            own = (storage.name_of(root),)
            for found in storage.list_files(root):
                if self._own and found.uri.startswith(self._own):
                    continue
                name = storage.name_of(found.uri)
                path = "/".join((*found.folders, name))
                reason = skip_reason(name, found.folders, special=found.special) or self._chosen.skip_reason(path)
                if reason is not None:
                    self.skipped[reason] += 1
                    continue
                label = label_from_folders((*own, *found.folders), self._lookup) if self._truth is None else None
                rows.append((found.uri, found.size_bytes, found.version, label, self._group(found.uri, found.folders)))
                relative.append(path)
                if len(rows) == CHUNK_ROWS:
                    yield self._table(rows, relative)
                    rows, relative = [], []
        if rows:
            yield self._table(rows, relative)

    def _table(self, rows: list[tuple[str, int, str, str | None, str | None]], relative: list[str]) -> pa.Table:
        columns = list(zip(*rows, strict=True))
        table = pa.table(
            [pa.array(c, f.type) for c, f in zip(columns, LISTED_SCHEMA, strict=True)], schema=LISTED_SCHEMA
        )
        if self._truth is None:
            return table
        labels = self._truth.labels_of(table["uri"], pa.array(relative))
        return table.set_column(table.schema.get_field_index("label"), LISTED_SCHEMA.field("label"), labels)


class _Globs:
    """Which paths below an input are wanted. `*` matches any characters, `/` too, as in `aws s3 --exclude`."""

    def __init__(self, include: Sequence[str], exclude: Sequence[str]) -> None:
        self._include, self._exclude = _any_of(include), _any_of(exclude)

    def skip_reason(self, path: str) -> str | None:
        if self._include is not None and not self._include.match(path):
            return "not in --include"
        if self._exclude is not None and self._exclude.match(path):
            return "in --exclude"
        return None


def _any_of(globs: Sequence[str]) -> re.Pattern[str] | None:
    return re.compile("|".join(map(fnmatch.translate, globs))) if globs else None


def _grouper(group_by: str | None) -> "_Grouper":
    return _Grouper(None if group_by in (None, "folder") else group_by, by_folder=group_by == "folder")


class _Grouper:
    """The group of an image: its first folder below the input, or what a regular expression finds in the URI."""

    def __init__(self, pattern: str | None, *, by_folder: bool) -> None:
        self._by_folder = by_folder
        try:
            self._pattern = re.compile(pattern) if pattern else None
        except re.error as exc:
            raise BadRequest(f"--group-by {pattern!r} is no regular expression: {exc}") from None

    def __call__(self, uri: str, folders: Sequence[str]) -> str | None:
        if self._by_folder:
            return folders[0] if folders else None
        found = self._pattern.search(uri) if self._pattern else None
        if found is None:
            return None
        return found.group(1) if found.re.groups else found.group(0)


def scan(lister: Lister, path: str, *, progress: Callable[[int], None] | None = None) -> Listing:
    """Stream a listing into a local Parquet file; `progress` hears the images found so far.

    Raises `BadRequest` where an input cannot be listed.
    """
    images = size_bytes = labelled = 0
    with blamed_on("--input"), pq.ParquetWriter(path, LISTED_SCHEMA, compression="zstd") as writer:
        for table in lister.tables():
            writer.write_table(table)
            images += len(table)
            size_bytes += pc.sum(table["size_bytes"]).as_py()
            labelled += len(table) - table["label"].null_count
            if progress is not None:
                progress(images)
    return Listing(
        path=path, images=images, size_bytes=size_bytes, labelled=labelled, skipped=dict(sorted(lister.skipped.items()))
    )


def shard_size_for(images: int, wanted: int | None) -> int:
    """Images a shard. Depends on the listing alone, so that shards are the same on every machine."""
    if wanted is not None:
        return wanted
    return max(_SHARD_IMAGES_AT_LEAST, min(SHARD_IMAGES, -(-images // _SHARDS_AT_LEAST)))


def slices(tables: Iterable[pa.Table], rows: int) -> Iterator[pa.Table]:
    """The same rows in the same order, `rows` at a time; the last may have fewer."""
    held: pa.Table | None = None
    for table in tables:
        held = table if held is None else pa.concat_tables([held, table])
        while len(held) >= rows:
            yield held.slice(0, rows).combine_chunks()
            held = held.slice(rows)
    if held is not None and len(held):
        yield held.combine_chunks()
