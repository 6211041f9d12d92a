"""Scores one shard, from manifest rows to its part: read, decode, predict, write.

On a node without a GPU one worker does all of it, so pixels never leave the process. With a GPU, `decode_shard` runs in
CPU workers and `predict_shard` in the worker that has the GPU. Must not import Ray.
"""

import hashlib
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from brainray.config import ImageSpec
from brainray.duplicates.seen import SeenPictures
from brainray.errors import EXCLUSION_REASONS, BrainrayError, ImageError
from brainray.imaging.decode import Decoded, Excluded, Header, decode, read_header
from brainray.imaging.dicom.series import SeriesFacts
from brainray.imaging.exposure import exposure
from brainray.inputs.archives import split_refusal
from brainray.inputs.frames import nifti
from brainray.inputs.frames.listing import is_frame
from brainray.inputs.frames.sources import Image
from brainray.inputs.ranges import plan_reads
from brainray.inputs.reader import Reader, ReadResult, reads_in_flight

from .feature_sample import Encode, sample_features
from .maps.of_shard import Mapper, write_shard_maps
from .parts import PartInfo, ShardWork
from .prediction_schema import SCAN_COLUMNS, SERIES_COLUMNS, UID_COLUMNS, prob_column
from .pseudonyms.errors import without_names
from .pseudonyms.names import RealNames
from .series.key import series_of, study_of, volume_of
from .shard_task import ShardState, Target, commit
from .uids import UidRule

Clock = Callable[[], datetime]
Probabilities = Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.float32]]  # images -> [N, K], see `Predictor`


def _utc_now() -> datetime:
    return datetime.now(UTC)


class Decoder(Protocol):
    """Decodes the bytes of an image; raises `ImageError` and `Excluded`.

    `read_header` gives what is known of an undecodable one.
    """

    def __call__(self, content: bytes) -> Decoded: ...
    def read_header(self, content: bytes) -> Header: ...


@dataclass(frozen=True)
class _InProcessDecoder:
    """Decodes in this process."""

    spec: ImageSpec
    excluding: tuple[str, ...] = ()
    limit: Callable[[], AbstractContextManager[None]] = nullcontext

    def __call__(self, content: bytes) -> Decoded:
        with self.limit():
            return decode(content, self.spec, excluding=self.excluding)

    def read_header(self, content: bytes) -> Header:
        return read_header(content)


@dataclass(kw_only=True)
class DecodedShard:
    """The pixels of the images that could be decoded, and the details of every pending image, in manifest order."""

    images: npt.NDArray[np.uint8]  # [M, H, W] or [M, H, W, 3]
    squares_M4: npt.NDArray[np.float64]  # what `images` show of the upright images, in their pixels
    ok: npt.NDArray[np.bool_]  # [N] whether an image was decoded; the M true ones have the order of `images`
    details: (
        pa.Table
    )  # [N] rows: those of `_DETAILS_SCHEMA`, SCAN_COLUMNS, SERIES_COLUMNS, and UID_COLUMNS where asked for
    started_at: datetime
    retries: int = 0  # repeated reads
    seconds: dict[str, float] = field(default_factory=dict)  # by stage: read, decode


@dataclass(slots=True)
class _ImageDetails:
    """The columns of a prediction row that come from reading and decoding; None for unknown."""

    error: str | None = None
    error_detail: str | None = None
    width: int | None = None
    height: int | None = None
    brightness: float | None = None
    contrast: float | None = None
    format: str | None = None
    content_hash: str | None = None
    facts: SeriesFacts | None = None


_DETAILS_SCHEMA = pa.schema(
    [
        ("error", pa.string()),
        ("error_detail", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("brightness", pa.float32()),
        ("contrast", pa.float32()),
        ("format", pa.string()),
        ("content_hash", pa.string()),
    ]
)


_NO_FACTS = SeriesFacts()


def decode_shard(
    pending: pa.Table,
    spec: ImageSpec,
    *,
    reader: Reader,
    excluding: tuple[str, ...] = (),
    decoder: Decoder | None = None,
    series_key: Callable[[], bytes] | None = None,
    uids: UidRule | None = None,
    names: RealNames | None = None,
    limit: Callable[[], AbstractContextManager[None]] = nullcontext,
    clock: Clock = _utc_now,
) -> DecodedShard:
    """Read and decode the images of manifest rows. An image that fails has an error among its details.

    `excluding`: the reasons for which medical images are not decoded; a `decoder` knows them by itself.
    `series_key` gives the key by which rows name their series, and is called where there are any; None: without.
    `names` are those behind the pseudonyms of the rows, if these have any; then no name is in details or errors.
    `limit` is entered for each image that is decoded in this process.
    Raises `Outage` where the storage fails.
    """
    started_at, began_s = clock(), time.perf_counter()
    shape = (len(pending), spec.image_px, spec.image_px) + ((3,) if spec.channels == 3 else ())
    images = np.empty(shape, np.uint8)
    ok = np.zeros(len(pending), bool)
    squares = np.empty((len(pending), 4))
    details: list[_ImageDetails] = []
    decoded, retries, read_s = 0, 0, 0.0
    # A sandboxed decoder is for images that may exhaust memory: then only one is read ahead.
    real = names.rows(pending) if names else pending
    ahead = 1 if decoder else reads_in_flight(real["uri"].to_pylist())
    with ThreadPoolExecutor(ahead + 1, thread_name_prefix="read") as pool:
        contents = _read_images(real, reader, pool, ahead=ahead)
        if names:
            contents = without_names(contents, pending["uri"].to_pylist(), real["uri"].to_pylist())
        decoder = decoder or _InProcessDecoder(spec, excluding, limit)
        for row in range(len(pending)):
            wait_began_s = time.perf_counter()
            image, repeats = next(contents)
            read_s += time.perf_counter() - wait_began_s
            detail = _decode_into(image, decoder, images[decoded], squares[decoded])
            ok[row] = detail.error is None
            decoded += int(ok[row])
            retries += repeats
            details.append(detail)
    return DecodedShard(
        images=images[:decoded],
        squares_M4=squares[:decoded],
        ok=ok,
        details=_details_table(details, pending, series_key, uids),
        started_at=started_at,
        retries=retries,
        seconds={"read": read_s, "decode": time.perf_counter() - began_s - read_s},
    )


def _details_table(
    details: list[_ImageDetails], pending: pa.Table, series_key: Callable[[], bytes] | None, uids: UidRule | None
) -> pa.Table:
    columns = {name: [getattr(detail, name) for detail in details] for name in _DETAILS_SCHEMA.names}
    facts = [detail.facts or _NO_FACTS for detail in details]
    table = pa.table(columns, schema=_DETAILS_SCHEMA)
    for field_ in SCAN_COLUMNS:
        values = [getattr(fact, field_.name.removeprefix("scan_")) for fact in facts]
        table = table.append_column(field_, pa.array(values, field_.type))
    names = _series_names(facts, pending, series_key)
    columns = {name: [each[place] for each in names] for place, name in enumerate(("series", "study"))}
    columns |= {"slice_position": [fact.position_mm for fact in facts], "slice_number": [f.number for f in facts]}
    for field_ in SERIES_COLUMNS:
        table = table.append_column(field_, pa.array(columns[field_.name], field_.type))
    if uids is not None:
        for name in UID_COLUMNS:
            told = [uids.value(getattr(fact, name)) for fact in facts]
            table = table.append_column(name, pa.array(told, pa.string()))
    return table


def _series_names(
    facts: list[SeriesFacts], pending: pa.Table, series_key: Callable[[], bytes] | None
) -> list[tuple[str | None, str | None]]:
    """The series and the study of each image. Frames of a file that names no series are one by themselves."""
    if series_key is None or all(fact is _NO_FACTS for fact in facts):
        return [(None, None)] * len(facts)
    key = series_key()
    names: list[tuple[str | None, str | None]] = []
    places = (pending[name].to_pylist() for name in ("uri", "container", "offset", "size_bytes", "stored_bytes"))
    for fact, uri, container, *place in zip(facts, *places, strict=True):
        series = None
        if fact.series_uid is not None:
            series = series_of(key, fact.series_uid)
        elif fact is not _NO_FACTS and container is not None and _is_of_volume(uri, container, *place):
            series = volume_of(key, uri)
        names.append((series, fact.study_uid and study_of(key, fact.study_uid)))
    return names


def _is_of_volume(uri: str, container: str, *place: int) -> bool:
    return nifti.split(uri) is not None or is_frame(container, uri[len(container) + 1 :], *place)


def _read_images(
    pending: pa.Table, reader: Reader, pool: ThreadPoolExecutor, *, ahead: int
) -> Iterator[tuple[Image, int]]:
    """The bytes or the error of each image, in order, and the number of repeated reads.

    Images known to be gone are not read, because their errors would count towards an outage.
    """
    readable = pc.and_(pc.invert(pending["gone"]), pc.is_null(pending["refused"]))
    contents = _images_of_reads(reader.read_ahead(list(plan_reads(pending.filter(readable))), pool, ahead=ahead))
    columns = (pending[name].to_pylist() for name in ("uri", "gone", "refused"))
    for uri, gone, refused in zip(*columns, strict=True):
        if gone:
            yield ImageError("not_found", f"{uri}: is gone since it was listed"), 0
        elif refused is not None:
            yield split_refusal(refused), 0
        else:
            yield next(contents)


def _images_of_reads(reads: Iterator[ReadResult]) -> Iterator[tuple[Image, int]]:
    """The images of each read; its retries are counted with the first of them."""
    for read in reads:
        for number, image in enumerate(read.images):
            yield image, 0 if number else read.retries


def _decode_into(
    content: bytes | ImageError, decoder: Decoder, pixels: npt.NDArray[np.uint8], square: npt.NDArray[np.float64]
) -> _ImageDetails:
    """Decode one image into `pixels` and `square`. An error of the image is returned, never raised."""
    if isinstance(content, ImageError):
        return _ImageDetails(error=content.reason, error_detail=content.detail)
    detail = _ImageDetails(content_hash=hashlib.sha256(content).hexdigest())
    try:
        decoded = decoder(content)
    except ImageError as exc:
        detail.error, detail.error_detail = exc.reason, exc.detail
        known: Decoded | Header = decoder.read_header(content)
    except Excluded as exc:
        detail.error, detail.error_detail = exc.reason, exc.detail
        known = exc.header
    else:
        pixels[...] = decoded.pixels
        square[...] = decoded.square
        detail.brightness, detail.contrast = exposure(pixels)
        detail.error_detail = decoded.note
        known = decoded
    detail.width, detail.height, detail.format, detail.facts = known.width, known.height, known.format, known.facts
    return detail


def _prediction_rows(
    manifest: pa.Table,
    decoded: DecodedShard,
    probs_MK: npt.NDArray[np.float32],
    *,
    target: Target,
    seen: SeenPictures | None,
    encode: Encode | None,
    scored_at: datetime,
) -> pa.Table:
    """A row for each image, in manifest order; predictions of images that were not decoded are null."""
    rows = len(manifest)
    position = np.cumsum(decoded.ok) - 1  # index among the decoded images
    take = pa.array(position, mask=~decoded.ok)
    order = np.argsort(-probs_MK, axis=1, kind="stable")
    best = np.take_along_axis(probs_MK, order[:, :2], axis=1)
    predicted = pa.array(np.array(target.classes, object)[order[:, 0]], pa.string())
    columns: dict[str, object] = {name: manifest[name] for name in ("uri", "label", "size_bytes", "version", "group")}
    columns |= {name: decoded.details[name] for name in decoded.details.column_names}
    columns |= {prob_column(name): pa.array(probs_MK[:, k]).take(take) for k, name in enumerate(target.classes)}
    columns |= {
        "predicted": predicted.take(take),
        "confidence": pa.array(best[:, 0]).take(take),
        "margin": pa.array(best[:, 0] - best[:, 1]).take(take),
        "review": pa.array(best[:, 0] < target.review_below).take(take),
        "seen": _seen(decoded, seen).take(take),
        "status": status_of(decoded),
        "shard_id": manifest["shard_id"],
        "model": pa.array([target.fingerprint] * rows, pa.string()),
        "scored_at": pa.array([scored_at] * rows, pa.timestamp("us", tz="UTC")),
        "features": _features(decoded, target, encode).take(take),
    }
    schema = target.scored_schema
    return pa.table([columns[name] for name in schema.names], schema=schema)


def status_of(decoded: DecodedShard) -> pa.ChunkedArray:
    """[N] what became of each image."""
    excluded = pc.is_in(decoded.details["error"], pa.array(EXCLUSION_REASONS))
    return pc.if_else(pa.array(decoded.ok), "ok", pc.if_else(excluded, "excluded", "error"))


def _features(decoded: DecodedShard, target: Target, encode: Encode | None) -> pa.Array:
    """[M] features of the decoded images that are in the sample of the run; null for the others."""
    contents = decoded.details["content_hash"].filter(pa.array(decoded.ok))
    wanted = encode if "features" in target.later else None
    return sample_features(contents, decoded.images, target.features_below, wanted)


def _seen(decoded: DecodedShard, seen: SeenPictures | None) -> pa.Array:
    """[M] whether the model has learned from each decoded image; null where its bundle does not tell."""
    if seen is None:
        return pa.nulls(len(decoded.images), pa.bool_())
    contents = decoded.details["content_hash"].filter(pa.array(decoded.ok)).to_pylist()
    return pa.array(seen.find(contents, decoded.images))


def predict_shard(
    state: ShardState,
    decoded: DecodedShard,
    predict: Probabilities,
    target: Target,
    *,
    seen: SeenPictures | None = None,
    encode: Encode | None = None,
    mapper: Mapper | None = None,
    clock: Clock = _utc_now,
) -> PartInfo:
    """Predict the pending images of a shard and commit its part, with the rows that are kept from the present one.

    `seen`: what the model has learned from, if its bundle tells. `encode` gives features of the images that are in the
    sample of the run; without it none has any. `mapper` predicts the same and maps, where asked for.
    """
    began_s = time.perf_counter()
    probs_MK, maps = mapper.predict(decoded.images) if mapper else (predict(decoded.images), None)
    predicted = time.perf_counter()
    if not np.isfinite(probs_MK).all():
        raise BrainrayError(
            f"model {target.fingerprint} gives no number for some images: its weights are broken, train it again"
        )
    finished_at = clock()
    new = _prediction_rows(
        state.pending,
        decoded,
        probs_MK,
        target=target,
        seen=seen,
        encode=encode,
        scored_at=finished_at,
    )
    if mapper is not None and maps is not None:
        scored = new.filter(pa.array(decoded.ok))
        write_shard_maps(scored, maps, decoded.squares_M4, mapper.order, target)
    work = ShardWork(
        started_at=decoded.started_at.isoformat(timespec="microseconds"),
        finished_at=finished_at.isoformat(timespec="microseconds"),
        images=len(new),
        seconds=decoded.seconds | {"predict": predicted - began_s},
    )
    return commit(state, new, target, work=(work,), retries=decoded.retries)
