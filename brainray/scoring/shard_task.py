"""The state of a shard: its pending images, the commit of its part, and the number of attempts at it.

Only images that are new to the part or have changed are pending; the other rows are kept. Must not read or decode
images.
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
from brainray.errors import ALWAYS_EXCLUDED, EXCLUSION_REASONS, StorageError, excluded_reasons

from .manifest import Shard, read_shard
from .parts import REFUSED_REASONS, PartInfo, ShardWork, is_unread, part_info, part_uri, write_part
from .prediction_schema import LATER, KeptTypes, prediction_schema
from .pseudonyms.names import RealNames
from .scan_groups import with_scans
from .series.key import read_key
from .uids import UidRule

# Attempts at a shard before it is decoded in a sandbox, and before the run gives up. One or two workers may die of
# other causes, such as a node that leaves.
SANDBOX_AFTER = 3
GIVE_UP_AFTER = 6


@dataclass(frozen=True, kw_only=True)
class Target:
    """The run that shards are scored for, as far as workers need to know it."""

    run_uri: str
    fingerprint: str
    classes: tuple[str, ...]
    review_below: float  # confidence
    kept: KeptTypes  # columns of --keep-columns
    later: tuple[str, ...] = LATER  # columns of `LATER` and `UID_COLUMNS` that rows have
    uids: UidRule | None = None  # how rows tell the UIDs of a medical image
    names: RealNames | None = None  # those behind the pseudonyms of the run, if it has any
    writer: storage.Writer
    retry_unread: bool = False  # whether images that an earlier run could not read are pending
    all_series: bool = False  # whether medical images are scored that the model does not know
    features_below: float = 0.0  # images with a lower hash get features, see `feature_sample`

    @property
    def excluding(self) -> tuple[str, ...]:
        """The reasons by which medical images are excluded."""
        return excluded_reasons(all_series=self.all_series)

    def series_key(self) -> bytes:
        """The key by which rows name their series, read from the run. Raises `StorageError`."""
        return read_key(self.run_uri)

    @property
    def schema(self) -> pa.Schema:
        """The columns of a part."""
        return prediction_schema(self.classes, self.kept, later=self.later)

    @property
    def scored_schema(self) -> pa.Schema:
        """The columns of a part that scoring fills: all but those of --keep-columns."""
        return prediction_schema(self.classes, later=self.later)


@dataclass(frozen=True, kw_only=True)
class ShardState:
    """A shard and its present part, with the rows of it that are kept."""

    shard: Shard
    manifest: pa.Table  # [N] rows
    part: pa.Table  # [P] rows of the present part; P is 0 where there is none
    kept_N: npt.NDArray[np.int64]  # [N] index in `part` of the row of each image; -1 for pending images
    info: PartInfo | None  # of the present part

    @property
    def pending(self) -> pa.Table:
        """[M] the manifest rows of the images to be scored."""
        return self.manifest.filter(pa.array(self.kept_N < 0))


def open_shard(shard: Shard, target: Target) -> ShardState:
    """Compare a shard with its part. A part that is damaged or of another model is ignored."""
    manifest = read_shard(shard)
    part, info = _present_part(shard, target)
    same = pc.index_in(manifest["uri"], part["uri"].combine_chunks())
    kept_N = np.asarray(pc.fill_null(same, -1), np.int64)
    found = part.take(pa.array(np.maximum(kept_N, 0), mask=kept_N < 0))
    for name in ("size_bytes", "version"):
        both_null = pc.and_(pc.is_null(manifest[name]), pc.is_null(found[name]))
        equal = pc.or_(pc.fill_null(pc.equal(manifest[name], found[name]), False), both_null)
        kept_N[~np.asarray(equal)] = -1
    # What the listing refused is read once it does not: a restored object, or a file below a limit that was raised.
    refused_before = np.asarray(pc.is_in(found["error"], pa.array(REFUSED_REASONS)))
    kept_N[refused_before & np.asarray(pc.is_null(manifest["refused"]))] = -1
    if target.retry_unread:
        kept_N[np.asarray(is_unread(found))] = -1
    if target.all_series:
        excluded = pc.and_(is_excluded(found), pc.invert(pc.is_in(found["error"], pa.array(ALWAYS_EXCLUDED))))
        kept_N[np.asarray(excluded)] = -1
    return ShardState(shard=shard, manifest=manifest, part=part, kept_N=kept_N, info=info)


def _present_part(shard: Shard, target: Target) -> tuple[pa.Table, PartInfo | None]:
    """The part of a shard and its metadata; an empty table and None where there is no usable one."""
    uri, schema = part_uri(target.run_uri, shard.shard_id), target.schema
    try:
        with storage.open_parquet(uri) as file:
            info = part_info(uri, file)
            if info.model == target.fingerprint and file.schema_arrow.remove_metadata() == schema:
                return file.read(use_threads=False).replace_schema_metadata(None), info
    except StorageError:
        pass
    return schema.empty_table(), None


def is_excluded(rows: pa.Table) -> pa.ChunkedArray:
    """[N] whether a row is that of an image that the model does not know."""
    return pc.is_in(rows["error"], pa.array(EXCLUSION_REASONS))


def commit_unscored(state: ShardState, target: Target) -> PartInfo:
    """Commit a shard without pending images, whose labels, groups or rows have changed."""
    return commit(state, target.scored_schema.empty_table(), target, work=(), retries=0)


def commit(state: ShardState, new: pa.Table, target: Target, *, work: tuple[ShardWork, ...], retries: int) -> PartInfo:
    """Write the part of a shard from kept and new rows, in manifest order.

    `new` holds the rows of `state.pending`; labels, groups and kept columns are taken from the manifest.
    """
    is_new = state.kept_N < 0
    both = pa.concat_tables([state.part.select(new.column_names), new])
    position_N = np.where(is_new, len(state.part) + np.cumsum(is_new) - 1, state.kept_N)
    rows = both.take(pa.array(position_N)).combine_chunks()
    listed = {name: state.manifest[name] for name in ("label", "group", "shard_id")}
    listed["group"] = with_scans(listed["group"], rows)
    for name, column in listed.items():
        rows = rows.set_column(rows.schema.get_field_index(name), rows.schema.field(name), column)
    kept = dict(_kept_columns(state.manifest, target.kept))
    rows = pa.table([*rows.columns, *kept.values()], schema=target.schema)
    before = state.info if state.info is not None and not is_new.all() else None
    info = PartInfo(
        shard_id=state.shard.shard_id,
        digest=state.shard.digest,
        model=target.fingerprint,
        rows=len(rows),
        failed=pc.sum(pc.equal(rows["status"], "error")).as_py() or 0,
        unread=pc.sum(is_unread(rows)).as_py() or 0,
        excluded=pc.sum(is_excluded(rows)).as_py() or 0,
        retries=retries + (before.retries if before else 0),
        work=(before.work if before else ()) + work,
    )
    write_part(target.run_uri, rows, info, writer=target.writer)
    return info


def _kept_columns(manifest: pa.Table, kept: KeptTypes) -> Iterator[tuple[str, pa.Array]]:
    """The columns of --keep-columns in their types; null for images that come from no table among the inputs."""
    if not kept:
        return
    rows = [json.loads(values) if values else [None] * len(kept) for values in manifest["kept"].to_pylist()]
    for number, (name, kind) in enumerate(kept):
        yield name, pa.array([row[number] for row in rows], pa.string()).cast(pa.type_for_alias(kind))


@contextmanager
def count_attempt(name: str, writer: storage.Writer) -> Iterator[int]:
    """The number of this attempt at `name`, from 1.

    An attempt makes a mark in the staging folder and removes all marks when it ends, also by an exception. So only a
    worker that dies leaves its mark.
    """
    staging = writer.staging
    if staging is None:  # a writer without a lease has no folder for marks
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
