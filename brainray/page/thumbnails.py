"""Makes the thumbnails of the page from the images in the archive: a bounded number and size of reads.

An image that is gone, has changed or cannot be decoded is a thumbnail with a reason, never an exception. Images are
decoded in a process apart, as the archive may have changed since its images were scored.
"""

import base64
import hashlib
import io
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from brainray.callbacks import Clock
from brainray.config import ImageSpec
from brainray.errors import BrainrayError, ImageError, StorageError
from brainray.imaging.decode import Decoded
from brainray.imaging.framing import Box
from brainray.imaging.sandbox import SandboxedDecoder
from brainray.inputs.frames.listing import files_of_frames
from brainray.inputs.frames.nifti import is_nifti
from brainray.inputs.frames.sources import Image
from brainray.inputs.listed_image import LISTED_SCHEMA
from brainray.inputs.ranges import RangeRead, RangeReader, plan_reads
from brainray.inputs.reader import Reader
from brainray.storage.retry import RetryPolicy

# What `make_thumbnails` needs of each image: its row of the manifest, and the hash of the bytes that were scored.
ROWS_SCHEMA = pa.schema(
    [
        *(
            LISTED_SCHEMA.field(name)
            for name in ("uri", "size_bytes", "version", "container", "offset", "stored_bytes")
        ),
        pa.field("content_hash", pa.string()),
    ]
)
_SPEC = ImageSpec(image_px=192, channels=3, max_pixels=30_000_000)  # the whole image, on a black square
_DECODE_S = 10.0  # after which an image has no thumbnail
_QUALITIES = (80, 60, 40, 20)  # of JPEG; the first that gives at most `_MOST_BYTES`
_MOST_BYTES = 9_000
_THREADS = 8
# Most bytes of one read and of all: the page is not worth more. MRI slices have some ten to hundred kB.
_READ_BYTES, _ALL_BYTES = 64 << 20, 512 << 20
# The page is made while somebody waits for the end of a run: what is slow costs pictures, not minutes.
_PATIENCE_S = 30.0
_POLICY = RetryPolicy(attempts=2, refused_attempts=1, patience_s=5.0, longest_wait_s=2.0)


@dataclass(frozen=True, kw_only=True)
class Thumbnail:
    """A picture as a data URI, or why there is none."""

    data_uri: str | None = None
    missing: str | None = None
    square: Box | None = None  # what it shows of the upright image, in its pixels


Decode = Callable[[bytes], Decoded]
Read = Callable[[RangeRead], tuple[Image, ...]]


def make_thumbnails(
    rows: pa.Table,
    *,
    decode: Decode | None = None,
    read: Read | None = None,
    clock: Clock = time.monotonic,
) -> dict[str, Thumbnail]:
    """The thumbnail of each row of `ROWS_SCHEMA`, by URI. `read` and `decode` replace storage and decoder."""
    ordered = rows.sort_by([("container", "ascending"), ("offset", "ascending"), ("uri", "ascending")])
    fits = _within_limits(ordered)
    hashes = dict(zip(ordered["uri"].to_pylist(), ordered["content_hash"].to_pylist(), strict=True))
    found = {uri: Thumbnail(missing="too large to be read for this page") for uri in hashes}
    readable = ordered.filter(pa.array(fits))
    with SandboxedDecoder(_SPEC, timeout_s=_DECODE_S) as sandboxed:
        maker = _Maker(read or RangeReader(), decode or sandboxed, clock)
        return found | {uri: maker.thumbnail(image, hashes[uri]) for uri, image in _images(readable, maker.read)}


def _within_limits(rows: pa.Table) -> NDArray[np.bool_]:
    """[N] whether each image is read: neither it nor all before it are too large.

    A block of Parquet is read once, and so are a member of an archive for its frames and a NIfTI file for its slices;
    of a file of frames only these.
    """
    fits, total = [], 0
    held: tuple[str, int | None] | None = None
    columns = [rows[name].to_pylist() for name in ("container", "offset", "stored_bytes", "size_bytes")]
    files = files_of_frames(rows).to_pylist()
    for container, offset, stored_bytes, size_bytes, file in zip(*columns, files, strict=True):
        is_slice = file is not None and file == container and is_nifti(file)
        place = None if container is None else (container, None if is_slice else offset)
        is_part = file is not None and file == container and not is_slice
        size = size_bytes or 0 if is_part else max(stored_bytes or 0, size_bytes or 0)
        cost = 0 if place is not None and place == held else size
        fits.append(size <= _READ_BYTES and total + cost <= _ALL_BYTES)
        if fits[-1]:
            total, held = total + cost, place
    return np.array(fits, bool)


class _Maker:
    """Reads and decodes until the patience is at its end. Whatever is wrong, here it costs pictures only."""

    def __init__(self, read: Read, decode: Decode, clock: Clock) -> None:
        self._read = read
        self._decode = decode
        self._clock = clock
        self._last = clock() + _PATIENCE_S
        self._decoder_works = True

    def read(self, one: RangeRead) -> tuple[Image, ...]:
        """The images of one read. Raises `StorageError` and nothing else."""
        if self._clock() > self._last:
            return (ImageError("read_failed", "the storage is too slow"),) * one.images
        try:
            return self._read(one)
        except StorageError:
            raise
        except BrainrayError as exc:  # no credentials, no such service
            raise StorageError("read_failed", str(exc)) from exc

    def thumbnail(self, image: Image, content_hash: str | None) -> Thumbnail:
        """The thumbnail of an image that was read; `content_hash` is that of the bytes that were scored."""
        if isinstance(image, ImageError):
            gone = image.reason == "not_found"
            return Thumbnail(missing="no longer there" if gone else f"unreadable: {image.reason}")
        if content_hash is not None and hashlib.sha256(image).hexdigest() != content_hash:
            return Thumbnail(missing="the file has changed since it was scored")
        if self._clock() > self._last or not self._decoder_works:
            return Thumbnail(missing="not decoded: it took too long")
        try:
            decoded = self._decode(image)
            return Thumbnail(data_uri=_data_uri(decoded.pixels), square=decoded.square)
        except ImageError as exc:
            return Thumbnail(missing=f"cannot be decoded: {exc.reason}")
        except BrainrayError:  # the process to decode apart does not start, which another try would only wait for
            self._decoder_works = False
            return Thumbnail(missing="cannot be decoded here")


def _images(rows: pa.Table, read: Read) -> Iterator[tuple[str, Image]]:
    """The URI of each row with the image's bytes or its error."""
    reader = Reader(policy=_POLICY, outage_share=1.0, read=read)
    uris = iter(rows["uri"].to_pylist())
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="thumbnail") as pool:
        for result in reader.read_ahead(list(plan_reads(rows)), pool, ahead=_THREADS):
            for image in result.images:
                yield next(uris), image


def _data_uri(pixels_HWC: NDArray[np.uint8]) -> str:
    from PIL.Image import fromarray

    grey = pixels_HWC.ndim == 3 and bool((pixels_HWC == pixels_HWC[..., :1]).all())
    picture = fromarray(np.ascontiguousarray(pixels_HWC[..., 0]) if grey else pixels_HWC)
    for quality in _QUALITIES:
        sink = io.BytesIO()
        picture.save(sink, "JPEG", quality=quality, optimize=True)
        if sink.tell() <= _MOST_BYTES:
            break
    return f"data:image/jpeg;base64,{base64.b64encode(sink.getvalue()).decode()}"
