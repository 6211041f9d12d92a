"""One shard, from manifest rows to its part file: read, decode, predict, write. Knows no Ray.

Where a node has no GPU one worker does all of it, so pixels never leave the process. Where there is one, `decode_shard`
runs on processors and `predict_shard` beside the GPU. Both are these same functions.
"""

import hashlib
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

from brainray.config import ImageSpec
from brainray.errors import BrainrayError, ImageError
from brainray.imaging.decode import Decoded, Header, decode, read_header
from brainray.inputs.archives import split_refusal
from brainray.inputs.ranges import Image, plan_reads
from brainray.inputs.reader import Reader, ReadResult, reads_in_flight

from .parts import PartInfo, ShardWork, prediction_schema, prob_column
from .shard_task import ShardState, Target, commit

Clock = Callable[[], datetime]
Probabilities = Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.float32]]


def utc_now() -> datetime:
    return datetime.now(UTC)


class Decoder(Protocol):
    """Bytes -> pixels, or an `ImageError`; and what is known of an image that has none."""

    def __call__(self, content: bytes) -> Decoded: ...
    def read_header(self, content: bytes) -> Header: ...


@dataclass(frozen=True)
class InProcessDecoder:
    """Decodes in this process."""

    spec: ImageSpec

    def __call__(self, content: bytes) -> Decoded:
        return decode(content, self.spec)

    def read_header(self, content: bytes) -> Header:
        return read_header(content)


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
        decoder = decoder or InProcessDecoder(spec)
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
    found = _images(reader.read_ahead(list(plan_reads(pending.filter(readable))), pool, ahead=ahead))
    columns = (pending[name].to_pylist() for name in ("uri", "gone", "refused"))
    for uri, gone, refused in zip(*columns, strict=True):
        if gone:
            yield ImageError("not_found", f"{uri}: is gone since it was listed"), 0
        elif refused is not None:
            yield split_refusal(refused), 0
        else:
            yield next(found)


def _images(contents: Iterator[ReadResult]) -> Iterator[tuple[Image, int]]:
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
    review_below: float,
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
        "review": pa.array(best[:, 0] < review_below).take(take),
        "status": pc.if_else(pa.array(decoded.ok), "ok", "error"),
        "shard_id": manifest["shard_id"],
        "model": pa.array([fingerprint] * rows, pa.string()),
        "scored_at": pa.array([scored_at] * rows, pa.timestamp("us", tz="UTC")),
    }
    schema = prediction_schema(classes)
    return pa.table([columns[name] for name in schema.names], schema=schema)


def predict_shard(
    task: ShardState, decoded: DecodedShard, predict: Probabilities, target: Target, *, clock: Clock = utc_now
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
        review_below=target.review_below,
        scored_at=finished_at,
    )
    work = ShardWork(
        started_at=decoded.started_at.isoformat(timespec="microseconds"),
        finished_at=finished_at.isoformat(timespec="microseconds"),
        images=len(new),
        seconds=decoded.seconds | {"predict": predicted - began},
    )
    return commit(task, new, target, work=(work,), retries=decoded.retries)
