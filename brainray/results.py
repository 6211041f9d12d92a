"""The prediction schema and the part files: what a finished shard looks like, and which are finished.

A part is `predictions/part-<shard id>.parquet`, written atomically by the worker that scored the shard.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass

import pyarrow as pa

from . import storage
from .errors import AccountingError, StorageError

_PART_NAME = re.compile(r"part-([0-9a-f]+)\.parquet")
PROB_PREFIX = "prob_"


def prob_column(class_name: str) -> str:
    return PROB_PREFIX + class_name


def prediction_schema(classes: tuple[str, ...]) -> pa.Schema:
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
        ]
    )


PARTS = "predictions"
METADATA_KEY = b"brainray"


@dataclass(frozen=True, kw_only=True, slots=True)
class PartInfo:
    """What a part file says of itself in its metadata."""

    shard_id: str
    model: str
    rows: int
    failed: int
    started_at: str  # ISO 8601, UTC
    finished_at: str
    seconds: dict[str, float]  # of the worker, by stage


def part_uri(run_uri: str, shard_id: str) -> str:
    return storage.join(run_uri, PARTS, f"part-{shard_id}.parquet")


def write_part(run_uri: str, rows: pa.Table, info: PartInfo) -> None:
    """Commit a shard: the whole file appears at once, or not at all."""
    metadata = {METADATA_KEY: json.dumps(asdict(info)).encode()}
    storage.write_parquet(part_uri(run_uri, info.shard_id), rows.replace_schema_metadata(metadata))


def finished_shards(run_uri: str) -> set[str]:
    """Ids of the shards that have a part file. Parts appear whole, so one that is there is finished."""
    names = storage.list_names(storage.join(run_uri, PARTS))
    return {match.group(1) for name in names if (match := _PART_NAME.fullmatch(name))}


def read_part_info(uri: str) -> PartInfo:
    """The metadata of a part file. Raises `StorageError` where it is unreadable or none of ours."""
    with storage.open_parquet(uri) as file:
        raw = (file.schema_arrow.metadata or {}).get(METADATA_KEY)
        rows = file.metadata.num_rows
    if raw is None:
        raise StorageError("read_failed", f"{uri}: is no part file of brainray")
    info = PartInfo(**json.loads(raw))
    if info.rows != rows:
        raise StorageError("read_failed", f"{uri}: holds {rows} rows but was written with {info.rows}")
    return info


@dataclass(frozen=True, kw_only=True)
class Account:
    """What the part files of a run hold, added up."""

    rows: int = 0
    failed: int = 0

    def __add__(self, other: "Account") -> "Account":
        return Account(rows=self.rows + other.rows, failed=self.failed + other.failed)


def check_accounts(run_uri: str, *, fingerprint: str, expected: Iterable[tuple[str, int]]) -> Account:
    """Prove that every shard has its part, of this model and with all its rows, and that no other part lies there.

    Raises `AccountingError` that names what is missing or too much. `expected` are shard ids and their images.
    """
    present = finished_shards(run_uri)
    total = Account()
    wrong: list[str] = []
    for shard_id, images in expected:
        if shard_id not in present:
            wrong.append(f"part-{shard_id} is missing")
            continue
        present.discard(shard_id)
        info = read_part_info(part_uri(run_uri, shard_id))
        if info.model != fingerprint or info.rows != images or info.shard_id != shard_id:
            wrong.append(f"part-{shard_id} has {info.rows} rows of model {info.model}, not {images} of {fingerprint}")
        total += Account(rows=info.rows, failed=info.failed)
    wrong += [f"part-{shard_id} belongs to no shard" for shard_id in sorted(present)]
    if wrong:
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise AccountingError(f"{run_uri}: rows do not add up, so nothing was published: {'; '.join(wrong[:5])}{more}")
    return total
