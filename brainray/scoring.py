"""One shard, from manifest rows to its part file: read, decode, predict, write. Knows no Ray.

What an earlier run left of the shard is kept: only images that are new to the part, or have changed, are read.
Where a node has no GPU one worker does all of it, so pixels never leave the process. Where there is one, `decode_shard`
runs on processors and `predict_shard` beside the GPU. Both are these same functions.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from . import storage
from .config import ImageSpec
from .containers import split_refusal
from .decode import Decoded, Header, decode, read_header
from .errors import BrainrayError, ImageError, StorageError
from .manifest import Shard, read_shard
from .pieces import Image, pieces
from .reading import Content, Reader, reads_in_flight
from .results import (
    UNREAD_REASONS,
    KeptTypes,
    PartInfo,
    Work,
    part_info,
    part_uri,
    prediction_schema,
    prob_column,
    write_part,
)

Clock = Callable[[], datetime]
Probabilities = Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.float32]]


def utc_now() -> datetime:
    return datetime.now(UTC)


class Decoder(Protocol):
    """Bytes -> pixels, or an `ImageError`; and what is known of an image that has none."""

    def __call__(self, content: bytes) -> Decoded: ...
    def read_header(self, content: bytes) -> Header: ...


@dataclass(frozen=True)
class DecoderHere:
    """Decodes in this process."""

    spec: ImageSpec

    def __call__(self, content: bytes) -> Decoded:
        return decode(content, self.spec)

    def read_header(self, content: bytes) -> Header:
        return read_header(content)


@dataclass(frozen=True, kw_only=True)
class Target:
    """The run that shards are scored for."""

    run_uri: str
    fingerprint: str
    classes: tuple[str, ...]
    kept: KeptTypes
    writer: storage.Writer
    retry_unread: bool = False  # read images again that could not be read by an earlier run

    @property
    def schema(self) -> pa.Schema:
        return prediction_schema(self.classes, self.kept)


@dataclass(frozen=True, kw_only=True)
class Task:
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


def open_task(shard: Shard, target: Target) -> Task:
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
    return Task(shard=shard, manifest=manifest, part=part, kept_N=kept_N, info=info)


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


@dataclass(kw_only=True)
class DecodedShard:
    """Pixels of the images that could be decoded, and a fact about every pending image, in manifest order."""

    images: npt.NDArray[np.uint8]  # [M, H, W] or [M, H, W, 3]
    ok: npt.NDArray[np.bool_]  # [N]; M of them are true, in the order of `images`
    facts: pa.Table  # [N] rows: error, error_detail, width, height, format, content_hash
    started_at: datetime
    retries: int = 0
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass(slots=True)
class _Fact:
    error: str | None = None
    error_detail: str | None = None
    width: int | None = None
    height: int | None = None
    format: str | None = None
    content_hash: str | None = None


_FACTS_SCHEMA = pa.schema(
    [
        ("error", pa.string()),
        ("error_detail", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("format", pa.string()),
        ("content_hash", pa.string()),
    ]
)


def decode_shard(
    pending: pa.Table, spec: ImageSpec, *, reader: Reader, decoder: Decoder | None = None, clock: Clock = utc_now
) -> DecodedShard:
    """Read and decode the images of manifest rows. One that fails is a fact with a reason; its neighbours go on.

    Raises `Outage` where it is the storage that fails.
    """
    started_at, began = clock(), time.perf_counter()
    shape = (len(pending), spec.image_px, spec.image_px) + ((3,) if spec.channels == 3 else ())
    images = np.empty(shape, np.uint8)
    ok = np.zeros(len(pending), bool)
    facts: list[_Fact] = []
    kept, retries, reading = 0, 0, 0.0
    # A decoder apart is for images that may take all memory there is: then few of them lie about here.
    ahead = 1 if decoder else reads_in_flight(pending["uri"].to_pylist())
    with ThreadPoolExecutor(ahead + 1, thread_name_prefix="read") as pool:
        contents = _contents(pending, reader, pool, ahead=ahead)
        decoder = decoder or DecoderHere(spec)
        for row in range(len(pending)):
            before = time.perf_counter()
            image, again = next(contents)
            reading += time.perf_counter() - before
            fact = _decode_into(image, decoder, images[kept])
            ok[row] = fact.error is None
            kept += int(ok[row])
            retries += again
            facts.append(fact)
    columns = {name: [getattr(fact, name) for fact in facts] for name in _FACTS_SCHEMA.names}
    return DecodedShard(
        images=images[:kept],
        ok=ok,
        facts=pa.table(columns, schema=_FACTS_SCHEMA),
        started_at=started_at,
        retries=retries,
        seconds={"read": reading, "decode": time.perf_counter() - began - reading},
    )


def _contents(
    pending: pa.Table, reader: Reader, pool: ThreadPoolExecutor, *, ahead: int
) -> Iterator[tuple[Image, int]]:
    """What came of each image, in order, and how often reading was tried again.

    Those known to be gone are not looked for: they are no sign of an outage.
    """
    readable = pc.and_(pc.invert(pending["gone"]), pc.is_null(pending["refused"]))
    found = _images(reader.read_ahead(list(pieces(pending.filter(readable))), pool, ahead=ahead))
    columns = (pending[name].to_pylist() for name in ("uri", "gone", "refused"))
    for uri, gone, refused in zip(*columns, strict=True):
        if gone:
            yield ImageError("not_found", f"{uri}: is gone since it was listed"), 0
        elif refused is not None:
            yield split_refusal(refused), 0
        else:
            yield next(found)


def _images(contents: Iterator[Content]) -> Iterator[tuple[Image, int]]:
    """The images of each piece; that it was tried again counts once."""
    for content in contents:
        for number, image in enumerate(content.images):
            yield image, 0 if number else content.retries


def _decode_into(content: bytes | ImageError, decoder: Decoder, pixels: npt.NDArray[np.uint8]) -> _Fact:
    """Decode one image into its place. What is wrong with it becomes a fact, never an exception."""
    if isinstance(content, ImageError):
        return _Fact(error=content.reason, error_detail=content.detail)
    fact = _Fact(content_hash=hashlib.sha256(content).hexdigest())
    try:
        decoded = decoder(content)
    except ImageError as exc:
        fact.error, fact.error_detail = exc.reason, exc.detail
        known: Decoded | Header = decoder.read_header(content)
    else:
        pixels[...] = decoded.pixels
        known = decoded
    fact.width, fact.height, fact.format = known.width, known.height, known.format
    return fact


def prediction_rows(
    manifest: pa.Table,
    decoded: DecodedShard,
    probs_MK: npt.NDArray[np.float32],
    *,
    classes: tuple[str, ...],
    fingerprint: str,
    scored_at: datetime,
) -> pa.Table:
    """One row an image, in manifest order; probabilities are null where there are no pixels."""
    rows = len(manifest)
    position = np.cumsum(decoded.ok) - 1  # of each image among those decoded
    take = pa.array(position, mask=~decoded.ok)
    order = np.argsort(-probs_MK, axis=1, kind="stable")
    best = np.take_along_axis(probs_MK, order[:, :2], axis=1)
    predicted = pa.array(np.array(classes, object)[order[:, 0]], pa.string())
    columns: dict[str, object] = {name: manifest[name] for name in ("uri", "label", "size_bytes", "version", "group")}
    columns |= {name: decoded.facts[name] for name in _FACTS_SCHEMA.names}
    columns |= {prob_column(name): pa.array(probs_MK[:, k]).take(take) for k, name in enumerate(classes)}
    columns |= {
        "predicted": predicted.take(take),
        "confidence": pa.array(best[:, 0]).take(take),
        "margin": pa.array(best[:, 0] - best[:, 1]).take(take),
        "status": pc.if_else(pa.array(decoded.ok), "ok", "error"),
        "shard_id": manifest["shard_id"],
        "model": pa.array([fingerprint] * rows, pa.string()),
        "scored_at": pa.array([scored_at] * rows, pa.timestamp("us", tz="UTC")),
    }
    schema = prediction_schema(classes)
    return pa.table([columns[name] for name in schema.names], schema=schema)


def _kept_columns(manifest: pa.Table, kept: KeptTypes) -> Iterator[tuple[str, pa.Array]]:
    """The columns that are carried over from a list, in their types; null for images of no list."""
    rows = [json.loads(values) if values else [None] * len(kept) for values in manifest["kept"].to_pylist()]
    for number, (name, kind) in enumerate(kept):
        yield name, pa.array([row[number] for row in rows], pa.string()).cast(pa.type_for_alias(kind))


def predict_shard(
    task: Task, decoded: DecodedShard, predict: Probabilities, target: Target, *, clock: Clock = utc_now
) -> PartInfo:
    """Predict the pending images of a shard and commit its part file, with the rows that it held already."""
    began = time.perf_counter()
    probs_MK = predict(decoded.images)
    predicted = time.perf_counter()
    if not np.isfinite(probs_MK).all():
        raise BrainrayError(
            f"model {target.fingerprint} gives no number for some images: its weights are broken, train it again"
        )
    finished_at = clock()
    new = prediction_rows(
        task.pending,
        decoded,
        probs_MK,
        classes=target.classes,
        fingerprint=target.fingerprint,
        scored_at=finished_at,
    )
    work = Work(
        started_at=decoded.started_at.isoformat(timespec="microseconds"),
        finished_at=finished_at.isoformat(timespec="microseconds"),
        images=len(new),
        seconds=decoded.seconds | {"predict": predicted - began},
    )
    return _commit(task, new, target, work=(work,), retries=decoded.retries)


def settle(task: Task, target: Target) -> PartInfo:
    """Commit a shard of which nothing is pending: labels, groups or the rows that belong to it have changed."""
    return _commit(task, prediction_schema(target.classes).empty_table(), target, work=(), retries=0)


def _commit(task: Task, new: pa.Table, target: Target, *, work: tuple[Work, ...], retries: int) -> PartInfo:
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
