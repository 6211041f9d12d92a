"""One shard, from manifest rows to its part file: read, decode, predict, write. Knows no Ray.

Where a node has no GPU one worker does all of it, so pixels never leave the process. Where there is one, `decode_shard`
runs on processors and `predict_shard` beside the GPU. Both are these same functions.
"""

import hashlib
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from . import storage
from .config import ImageSpec
from .decode import Decoded, Header, decode, read_header
from .errors import BrainrayError, ImageError, StorageError
from .results import PartInfo, prediction_schema, prob_column, write_part

# Reads in flight while the processor decodes: enough to hide the latency of a disk or a network share, and few enough
# that a shard of large files stays in memory.
READS_IN_FLIGHT = 8

Clock = Callable[[], datetime]
Probabilities = Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.float32]]


def utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(kw_only=True)
class DecodedShard:
    """Pixels of the images that could be decoded, and a fact about every image, in manifest order."""

    images: npt.NDArray[np.uint8]  # [M, H, W] or [M, H, W, 3]
    ok: npt.NDArray[np.bool_]  # [N]; M of them are true, in the order of `images`
    facts: pa.Table  # [N] rows: error, error_detail, width, height, format, content_hash
    started_at: datetime
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


def _read(uri: str) -> bytes | ImageError:
    """The bytes of a file, or why not: an image's failure is data."""
    try:
        return storage.read_bytes(uri)
    except StorageError as exc:
        return ImageError(exc.reason, str(exc))


def read_ahead(uris: list[str], pool: ThreadPoolExecutor) -> Iterator[bytes | ImageError]:
    """The content of each file in order, with `READS_IN_FLIGHT` reads ahead of the one that is handed out."""
    waiting: list[Future[bytes | ImageError]] = []
    for uri in uris:
        waiting.append(pool.submit(_read, uri))
        if len(waiting) > READS_IN_FLIGHT:
            yield waiting.pop(0).result()
    for future in waiting:
        yield future.result()


def decode_shard(manifest: pa.Table, spec: ImageSpec, *, clock: Clock = utc_now) -> DecodedShard:
    """Read and decode every image of a shard. One that fails is a fact with a reason; its neighbours go on."""
    started_at, began = clock(), time.perf_counter()
    uris = manifest["uri"].to_pylist()
    shape = (len(uris), spec.image_px, spec.image_px) + ((3,) if spec.channels == 3 else ())
    images = np.empty(shape, np.uint8)
    ok = np.zeros(len(uris), bool)
    facts: list[_Fact] = []
    kept, reading = 0, 0.0
    with ThreadPoolExecutor(READS_IN_FLIGHT, thread_name_prefix="read") as pool:
        contents = read_ahead(uris, pool)
        for row in range(len(uris)):
            before = time.perf_counter()
            content = next(contents)
            reading += time.perf_counter() - before
            fact = _decode_into(content, spec, images[kept])
            ok[row] = fact.error is None
            kept += int(ok[row])
            facts.append(fact)
    columns = {name: [getattr(fact, name) for fact in facts] for name in _FACTS_SCHEMA.names}
    return DecodedShard(
        images=images[:kept],
        ok=ok,
        facts=pa.table(columns, schema=_FACTS_SCHEMA),
        started_at=started_at,
        seconds={"read": reading, "decode": time.perf_counter() - began - reading},
    )


def _decode_into(content: bytes | ImageError, spec: ImageSpec, pixels: npt.NDArray[np.uint8]) -> _Fact:
    """Decode one image into its place. What is wrong with it becomes a fact, never an exception."""
    if isinstance(content, ImageError):
        return _Fact(error=content.reason, error_detail=content.detail)
    fact = _Fact(content_hash=hashlib.sha256(content).hexdigest())
    try:
        decoded = decode(content, spec)
    except ImageError as exc:
        fact.error, fact.error_detail = exc.reason, exc.detail
        known: Decoded | Header = read_header(content)
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


def predict_shard(
    manifest: pa.Table,
    decoded: DecodedShard,
    predict: Probabilities,
    *,
    run_uri: str,
    classes: tuple[str, ...],
    fingerprint: str,
    clock: Clock = utc_now,
) -> PartInfo:
    """Predict the images of a shard and commit its part file."""
    began = time.perf_counter()
    probs_MK = predict(decoded.images)
    predicted = time.perf_counter()
    if not np.isfinite(probs_MK).all():
        raise BrainrayError(
            f"model {fingerprint} gives no number for some images: its weights are broken, train it again"
        )
    finished_at = clock()
    rows = prediction_rows(manifest, decoded, probs_MK, classes=classes, fingerprint=fingerprint, scored_at=finished_at)
    info = PartInfo(
        shard_id=manifest["shard_id"][0].as_py(),
        model=fingerprint,
        rows=len(rows),
        failed=int((~decoded.ok).sum()),
        started_at=decoded.started_at.isoformat(timespec="microseconds"),
        finished_at=finished_at.isoformat(timespec="microseconds"),
        seconds=decoded.seconds | {"predict": predicted - began},
    )
    write_part(run_uri, rows, info)
    return info
