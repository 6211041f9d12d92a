"""A shard and its part file: what of it is done already, and the commit of what is new.

Only images that are new to the part, or have changed, are to be scored; the other rows are kept.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from brainray import storage
from brainray.errors import StorageError

from .manifest import Shard, read_shard
from .parts import UNREAD_REASONS, KeptTypes, PartInfo, ShardWork, part_info, part_uri, prediction_schema, write_part

# A worker may die of something else: its neighbour's shard, a node that leaves. Three deaths are no chance.
SANDBOX_AFTER = 3
GIVE_UP_AFTER = 6


@contextmanager
def count_attempt(name: str, writer: storage.Writer) -> Iterator[int]:
    """The number of this attempt at `name`, from 1. One that ends, also by an exception, leaves no mark."""
    staging = writer.staging
    if staging is None:  # a run without an owner has no place for marks
        yield 1
        return
    number = next(n for n in count(1) if writer.create(_mark(staging, name, n)))
    try:
        yield number
    finally:
        for n in range(1, number + 1):
            storage.delete(_mark(staging, name, n))


def _mark(staging: str, name: str, number: int) -> str:
    return storage.join(staging, f"attempt-{name}-{number}")


@dataclass(frozen=True, kw_only=True)
class Target:
    """The run that shards are scored for."""

    run_uri: str
    fingerprint: str
    classes: tuple[str, ...]
    review_below: float  # confidence
    kept: KeptTypes
    writer: storage.Writer
    retry_unread: bool = False  # read images again that could not be read by an earlier run

    @property
    def schema(self) -> pa.Schema:
        return prediction_schema(self.classes, self.kept)


@dataclass(frozen=True, kw_only=True)
class ShardState:
    """A shard, and what of it the part file that lies there holds already."""

    shard: Shard
    manifest: pa.Table  # [N]
    part: pa.Table  # [P] rows of the present part; none where there is no part
    kept_N: npt.NDArray[np.int64]  # where in `part` the row of each image stands; -1 for images to be scored
    info: PartInfo | None  # of the present part

    @property
    def pending(self) -> pa.Table:
        """Manifest rows of the images to be scored, [M]."""
        return self.manifest.filter(pa.array(self.kept_N < 0))


def open_shard(shard: Shard, target: Target) -> ShardState:
    """Compare a shard with its part. A part that is damaged, or of another model, counts as none."""
    manifest = read_shard(shard)
    part, info = _present_part(shard, target)
    same = pc.index_in(manifest["uri"], part["uri"].combine_chunks())
    kept_N = np.asarray(pc.fill_null(same, -1), np.int64)
    found = part.take(pa.array(np.maximum(kept_N, 0), mask=kept_N < 0))
    for name in ("size_bytes", "version"):
        both_null = pc.and_(pc.is_null(manifest[name]), pc.is_null(found[name]))
        equal = pc.or_(pc.fill_null(pc.equal(manifest[name], found[name]), False), both_null)
        kept_N[~np.asarray(equal)] = -1
    if target.retry_unread:
        unread = pc.is_in(found["error"], pa.array(UNREAD_REASONS))
        kept_N[np.asarray(unread)] = -1
    return ShardState(shard=shard, manifest=manifest, part=part, kept_N=kept_N, info=info)


def _present_part(shard: Shard, target: Target) -> tuple[pa.Table, PartInfo | None]:
    uri, schema = part_uri(target.run_uri, shard.shard_id), target.schema
    try:
        with storage.open_parquet(uri) as file:
            info = part_info(uri, file)
            if info.model == target.fingerprint and file.schema_arrow.remove_metadata() == schema:
                return file.read(use_threads=False).replace_schema_metadata(None), info
    except StorageError:
        pass
    return schema.empty_table(), None


def commit_unscored(task: ShardState, target: Target) -> PartInfo:
    """Commit a shard of which nothing is pending: labels, groups or the rows that belong to it have changed."""
    return commit(task, prediction_schema(target.classes).empty_table(), target, work=(), retries=0)


def commit(task: ShardState, new: pa.Table, target: Target, *, work: tuple[ShardWork, ...], retries: int) -> PartInfo:
    """Old and new rows in manifest order, as one part."""
    is_new = task.kept_N < 0
    both = pa.concat_tables([task.part.select(new.column_names), new])
    position_N = np.where(is_new, len(task.part) + np.cumsum(is_new) - 1, task.kept_N)
    rows = both.take(pa.array(position_N)).combine_chunks()
    for name in ("label", "group", "shard_id"):
        rows = rows.set_column(rows.schema.get_field_index(name), rows.schema.field(name), task.manifest[name])
    kept = dict(_kept_columns(task.manifest, target.kept))
    rows = pa.table([*rows.columns, *kept.values()], schema=target.schema)
    before = task.info if task.info is not None and not is_new.all() else None
    info = PartInfo(
        shard_id=task.shard.shard_id,
        digest=task.shard.digest,
        model=target.fingerprint,
        rows=len(rows),
        failed=pc.sum(pc.equal(rows["status"], "error")).as_py() or 0,
        unread=pc.sum(pc.is_in(rows["error"], pa.array(UNREAD_REASONS))).as_py() or 0,
        retries=retries + (before.retries if before else 0),
        work=(before.work if before else ()) + work,
    )
    write_part(target.run_uri, rows, info, writer=target.writer)
    return info


def _kept_columns(manifest: pa.Table, kept: KeptTypes) -> Iterator[tuple[str, pa.Array]]:
    """The columns that are carried over from a list, in their types; null for images of no list."""
    if not kept:
        return
    rows = [json.loads(values) if values else [None] * len(kept) for values in manifest["kept"].to_pylist()]
    for number, (name, kind) in enumerate(kept):
        yield name, pa.array([row[number] for row in rows], pa.string()).cast(pa.type_for_alias(kind))
