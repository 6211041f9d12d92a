"""The images below a folder, for commands that read whole folders (`train`, `tune`, `audit`), and their bytes.

A file of several frames is several images, as in `listing`. Archives and lists are read by `score` alone.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from brainray import storage
from brainray.errors import ImageError, StorageError
from brainray.inputs.archives import kind_of, split_refusal
from brainray.inputs.archives.parquet_file import holds_images
from brainray.inputs.image_files import image_files
from brainray.inputs.listed_image import LISTED_SCHEMA, ListedImage
from brainray.inputs.ranges import RangeReader, plan_reads
from brainray.inputs.unnamed_files import FileFormats
from brainray.storage.base import FileInfo
from brainray.storage.retry import RetryPolicy, RetryState

from .listing import frames_of, with_frames
from .sources import Image

# The columns that, beside `uri`, say where an image lies; `container` is null for a file of its own.
PLACE_SCHEMA = pa.schema(
    [LISTED_SCHEMA.field(name) for name in ("size_bytes", "container", "offset", "stored_bytes", "refused")]
)


class FoundImage(NamedTuple):
    """An image below a folder, and the file that it is or lies in."""

    file: FileInfo
    image: ListedImage

    @property
    def relative(self) -> str:
        """The path below the folder."""
        number = self.image.uri.removeprefix(self.file.uri)
        return "/".join((*self.file.folders, storage.name_of(self.file.uri))) + number

    @property
    def place(self) -> dict[str, Any]:
        """The values of `PLACE_SCHEMA`."""
        return {name: getattr(self.image, name) for name in PLACE_SCHEMA.names}


def images_below(
    option: str,
    root: str,
    skipped: Counter[str],
    notes: list[str],
    *,
    output: str | None = None,
    on_skipped: Callable[[FileInfo, str], None] | None = None,
) -> Iterator[FoundImage]:
    """The images of `image_files`, of which a file of several frames is several."""
    formats = FileFormats(tars=False)
    files = image_files(option, root, skipped, notes, output=output, formats=formats, on_skipped=on_skipped)
    for file, _, frames in with_frames(((file, None) for file in files), formats):
        image = ListedImage(file.uri, file.size_bytes, file.version)
        for each in frames_of(image, frames) if frames > 1 else (image,):
            yield FoundImage(file, each)


def may_hold_images(uri: str) -> bool:
    """Whether a file is named as an archive, whose images are none here. A Parquet file without images is none."""
    kind = kind_of(uri)
    if kind != "parquet":
        return kind is not None or uri.lower().endswith((".7z", ".rar"))
    try:
        with storage.open_parquet(uri) as file:
            return holds_images(file.schema_arrow)
    except (ImageError, StorageError):
        return True


def read_images(rows: pa.Table, *, most_bytes: int) -> Iterator[Image]:
    """The bytes or the error of each image, in the order of the rows: (uri, and where there are any `PLACE_SCHEMA`).

    Neighbouring frames of a file take one read. Retries as `storage.read_bytes` does.
    """
    located = _located(rows)
    reader = RangeReader(most_bytes=most_bytes)
    contents = _contents(located.filter(pc.is_null(located["refused"])), reader)
    for refused in located["refused"].to_pylist():
        yield split_refusal(refused) if refused is not None else next(contents)


def _located(rows: pa.Table) -> pa.Table:
    """The columns that tell what is to be read; of files that changed since, the present version is read."""
    table = rows.select(["uri"])
    for field in (*PLACE_SCHEMA, LISTED_SCHEMA.field("version")):
        is_there = field.name in rows.column_names and field.name in PLACE_SCHEMA.names
        table = table.append_column(field, rows[field.name] if is_there else pa.nulls(len(rows), field.type))
    return table


def _contents(located: pa.Table, reader: RangeReader) -> Iterator[Image]:
    for read in plan_reads(located):
        tries = RetryState(policy=RetryPolicy(), in_bucket=read.uri.startswith("s3://"))
        try:
            yield from tries.persist(lambda read=read: reader(read), time.sleep)  # type: ignore[misc]
        except StorageError as exc:
            yield from (ImageError(exc.reason, str(exc)),) * read.images
