"""Part files: writing, reading and listing the parts of a run.

A part holds the predictions of a finished shard: `predictions/part-<shard id>.parquet`, written atomically by the
worker that scored it. This module must not decide what is scored.
"""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from brainray import storage
from brainray.errors import INSTALL, StorageError
from brainray.imaging.heif import IS_HEIF
from brainray.inputs.frames.library import IS_DICOM
from brainray.machine.ahead import Result, map_ahead

PARTS = "predictions"  # the folder
# Reasons that lie with the storage rather than with the image, so that reading the image later may succeed.
UNREAD_REASONS = ("not_found", "forbidden", "read_failed", "archived")
# Reasons of the listing for not reading an image that has not changed, which it may withdraw.
REFUSED_REASONS = ("archived", "too_large")
_PART_NAME = re.compile(r"part-([0-9a-f]+)\.parquet")
_INSTALL = INSTALL.partition("{")[0]
_METADATA_KEY = b"brainray"
_THREADS = 4  # parts that are read at once


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardWork:
    """The time of one worker on a shard. A shard that was updated has several."""

    started_at: str  # ISO 8601, UTC
    finished_at: str
    images: int  # images scored in this time
    seconds: dict[str, float]  # by stage: read, decode, predict


@dataclass(frozen=True, kw_only=True, slots=True)
class PartInfo:
    """The metadata of a part file."""

    shard_id: str
    digest: str  # of the manifest rows that the part was written for
    model: str  # fingerprint
    rows: int
    failed: int  # rows without a prediction
    unread: int  # failed rows that `is_unread` tells
    retries: int  # repeated reads
    excluded: int = 0  # rows without a prediction because the model does not know such images
    work: tuple[ShardWork, ...]

    @classmethod
    def from_json(cls, text: bytes | str) -> "PartInfo":
        """Raises KeyError, TypeError or ValueError for any other text."""
        values = json.loads(text)
        return cls(**values | {"work": tuple(ShardWork(**work) for work in values["work"])})


def is_unread(rows: pa.Table) -> pa.ChunkedArray:
    """[N] whether reading a failed row later may succeed: the storage failed, or the reader was not installed."""
    detail = pc.fill_null(rows["error_detail"], "")
    lacks_reader = pc.match_substring_regex(detail, "|".join(map(re.escape, (_INSTALL, IS_DICOM, IS_HEIF))))
    lacks_reader = pc.and_(pc.fill_null(pc.equal(rows["error"], "unsupported"), False), lacks_reader)
    return pc.or_(pc.is_in(rows["error"], pa.array(UNREAD_REASONS)), lacks_reader)


def part_uri(run_uri: str, shard_id: str) -> str:
    """The part of a shard, written or not."""
    return storage.join(run_uri, PARTS, f"part-{shard_id}.parquet")


def write_part(run_uri: str, rows: pa.Table, info: PartInfo, *, writer: storage.Writer) -> None:
    """Commit a shard: write its part atomically, in place of an older one."""
    metadata = {_METADATA_KEY: json.dumps(asdict(info)).encode()}
    writer.write_parquet(part_uri(run_uri, info.shard_id), rows.replace_schema_metadata(metadata))


def present_shards(run_uri: str) -> set[str]:
    """The ids of the shards of a run that have a part."""
    names = storage.list_names(storage.join(run_uri, PARTS))
    return {match.group(1) for name in names if (match := _PART_NAME.fullmatch(name))}


def holds_series(file: pq.ParquetFile) -> bool:
    """Whether a row of a part names a series, by its footer."""
    places = {file.metadata.schema.column(place).path: place for place in range(file.metadata.num_columns)}
    if "series" not in places:
        return False
    groups = [file.metadata.row_group(number) for number in range(file.metadata.num_row_groups)]
    known = [(group.num_rows, group.column(places["series"]).statistics) for group in groups]
    return any(found is None or found.null_count is None or found.null_count < rows for rows, found in known)


def any_holds_series(run_uri: str) -> bool:
    """Whether a row of a run names a series. Raises `StorageError` for an unreadable part."""
    for shard_id in sorted(present_shards(run_uri)):
        with storage.open_parquet(part_uri(run_uri, shard_id)) as file:
            if holds_series(file):
                return True
    return False


def read_part_info(uri: str) -> PartInfo:
    """The metadata of a part. Raises `StorageError` for an unreadable file and for one that is no part."""
    with storage.open_parquet(uri) as file:
        return part_info(uri, file)


def part_info(uri: str, file: pq.ParquetFile) -> PartInfo:
    """The metadata of an open part. Raises `StorageError` for a file that is no part or lacks rows."""
    try:
        info = PartInfo.from_json((file.schema_arrow.metadata or {})[_METADATA_KEY])
    except (KeyError, TypeError, ValueError) as exc:
        raise StorageError("read_failed", f"{uri}: is no part file of this version of brainray") from exc
    if info.rows != file.metadata.num_rows:
        raise StorageError("read_failed", f"{uri}: holds {file.metadata.num_rows} rows, was written with {info.rows}")
    return info


@contextmanager
def open_part(uri: str, model: str) -> Iterator[tuple[pq.ParquetFile, PartInfo]]:
    """Open a part of a run of this model, whose rows are used while it is open.

    Raises `StorageError`, also where these lack a column, or have one of another type.
    """
    try:
        with storage.open_parquet(uri) as file:
            info = part_info(uri, file)
            if info.model != model:
                raise StorageError(
                    "read_failed",
                    f"{uri}: is of model {info.model}, and its run of {model}, whose --rescore was stopped while it "
                    "replaced the rows; run the same `score` command again, which completes that",
                )
            yield file, info
    except (KeyError, TypeError, ValueError) as exc:
        message = f"{uri}: not a part of this run; delete it and score again ({type(exc).__name__}: {exc})"
        raise StorageError("read_failed", message) from exc


def read_parts(read: Callable[[str], Result], uris: Sequence[str]) -> Iterator[Result]:
    """What `read` gives of each part, in order: several are read at once, and few are in memory."""
    return map_ahead(read, uris, threads=_THREADS)
