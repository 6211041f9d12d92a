"""The prediction schema and the part files: what a finished shard looks like, and which are finished.

A part is `predictions/part-<shard id>.parquet`, written atomically by the worker that scored the shard.
"""

import json
import re
from dataclasses import asdict, dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from brainray import storage
from brainray.errors import StorageError

_PART_NAME = re.compile(r"part-([0-9a-f]+)\.parquet")
PROB_PREFIX = "prob_"


def prob_column(class_name: str) -> str:
    return PROB_PREFIX + class_name


KeptTypes = tuple[tuple[str, str], ...]  # name and Arrow type of each column that is carried over from a list


def prediction_schema(classes: tuple[str, ...], kept: KeptTypes = ()) -> pa.Schema:
    """Columns of a part file, in order. Types are fixed, also where a column is all null."""
    text, real = pa.string(), pa.float32()
    return pa.schema(
        [
            pa.field("uri", text, nullable=False),
            pa.field("label", text),
            pa.field("predicted", text),
            pa.field("confidence", real),
            *(pa.field(prob_column(name), real) for name in classes),
            pa.field("margin", real),
            pa.field("review", pa.bool_()),
            pa.field("status", text, nullable=False),
            pa.field("error", text),
            pa.field("error_detail", text),
            pa.field("width", pa.int32()),
            pa.field("height", pa.int32()),
            pa.field("format", text),
            pa.field("size_bytes", pa.int64()),
            pa.field("version", text),
            pa.field("content_hash", text),
            pa.field("group", text),
            pa.field("shard_id", text, nullable=False),
            pa.field("model", text, nullable=False),
            pa.field("scored_at", pa.timestamp("us", tz="UTC"), nullable=False),
            *(pa.field(name, pa.type_for_alias(kind)) for name, kind in kept),
        ]
    )


PARTS = "predictions"
_METADATA_KEY = b"brainray"
# Reasons that lie with the storage rather than with the image: reading it again later may do better.
UNREAD_REASONS = ("not_found", "forbidden", "read_failed")


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardWork:
    """When a worker was busy with a shard. One that has been brought up to date has several."""

    started_at: str  # ISO 8601, UTC
    finished_at: str
    images: int  # scored then
    seconds: dict[str, float]  # of the worker, by stage


@dataclass(frozen=True, kw_only=True, slots=True)
class PartInfo:
    """What a part file says of itself in its metadata."""

    shard_id: str
    digest: str  # of the manifest rows it was written for
    model: str
    rows: int
    failed: int
    unread: int  # failed ones whose reason is in `UNREAD_REASONS`
    retries: int  # reads that were tried again
    work: tuple[ShardWork, ...]

    @classmethod
    def from_json(cls, text: bytes | str) -> "PartInfo":
        values = json.loads(text)
        return cls(**values | {"work": tuple(ShardWork(**work) for work in values["work"])})


def part_uri(run_uri: str, shard_id: str) -> str:
    return storage.join(run_uri, PARTS, f"part-{shard_id}.parquet")


def write_part(run_uri: str, rows: pa.Table, info: PartInfo, *, writer: storage.Writer) -> None:
    """Commit a shard: the whole file appears at once, in the place of an older one, or not at all."""
    metadata = {_METADATA_KEY: json.dumps(asdict(info)).encode()}
    writer.write_parquet(part_uri(run_uri, info.shard_id), rows.replace_schema_metadata(metadata))


def present_shards(run_uri: str) -> set[str]:
    """Ids of the shards that have a part file."""
    names = storage.list_names(storage.join(run_uri, PARTS))
    return {match.group(1) for name in names if (match := _PART_NAME.fullmatch(name))}


def read_part_info(uri: str) -> PartInfo:
    """The metadata of a part file. Raises `StorageError` where it is unreadable or none of ours."""
    with storage.open_parquet(uri) as file:
        return part_info(uri, file)


def part_info(uri: str, file: pq.ParquetFile) -> PartInfo:
    """The same of an open file."""
    try:
        info = PartInfo.from_json((file.schema_arrow.metadata or {})[_METADATA_KEY])
    except (KeyError, TypeError, ValueError) as exc:
        raise StorageError("read_failed", f"{uri}: is no part file of this version of brainray") from exc
    if info.rows != file.metadata.num_rows:
        raise StorageError("read_failed", f"{uri}: holds {file.metadata.num_rows} rows, was written with {info.rows}")
    return info
