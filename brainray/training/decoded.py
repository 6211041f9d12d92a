"""Decodes training images and holds them: here pixels are made, and from here the training loop reads them.

A row is (position in the training set, label, picture, pixels, box of the finding). Imports no Ray:
`brainray.cluster.train_data` runs these functions as tasks, `brainray.cluster.train_shares` moves the rows to workers.
"""

import hashlib
import tempfile
from collections.abc import Callable, Collection, Iterable
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from brainray.config import ImageSpec
from brainray.duplicates.descriptors import Descriptor, Descriptors, nothing
from brainray.duplicates.sandbox import decode_and_describe, sandboxed_decoder
from brainray.errors import EXCLUSION_REASONS, BrainrayError, ImageError
from brainray.imaging.decode import Decoded, Excluded
from brainray.imaging.dicom.same_series import series_digest
from brainray.imaging.framing import in_square
from brainray.inputs.frames.below import read_images
from brainray.inputs.unread import MOST_FILE_BYTES

Array = npt.NDArray[Any]
Rows = dict[str, Array]
NO_BOX = (np.nan,) * 4


def decode_rows_apart(rows: pa.Table, spec: ImageSpec, excluding: Collection[str] = EXCLUSION_REASONS) -> Rows:
    """As `decode_rows`, in a child process: an image that kills its decoder is one that cannot be read."""
    with sandboxed_decoder(spec, excluding) as decode:
        return decode_rows(rows, spec, decode=decode)


def decode_rows(
    rows: pa.Table,
    spec: ImageSpec,
    excluding: Collection[str] = EXCLUSION_REASONS,
    *,
    decode: Callable[[bytes], tuple[Decoded, Descriptor]] | None = None,
) -> Rows:
    """Decode images (position, uri, `PLACE_SCHEMA`, label) to uint8 pixels [N, H, W] or [N, H, W, 3] and descriptors.

    Column `box`, where there is one, holds boxes as shares of the image; they become shares of the pixels.
    An image that cannot be read, or that its header excludes by one of the reasons of `excluding`, keeps its row, with
    the reason in column `error`. `content` is the SHA-256 of the file,
    `series` a digest of its DICOM series or else its file of several frames, which no split divides; "" for none.
    `decode` is `decode_and_describe`; by default in this process.
    """
    decode = decode or partial(decode_and_describe, spec=spec, excluding=excluding)
    shape = (len(rows), spec.image_px, spec.image_px) + ((3,) if spec.channels == 3 else ())
    pixels = np.zeros(shape, np.uint8)
    signatures = [nothing()] * len(rows)
    boxes = np.full((len(rows), 4), NO_BOX, np.float32)
    given = np.array(rows["box"].to_pylist(), np.float32) if "box" in rows.column_names else boxes
    errors = np.full(len(rows), "", "U32")
    contents = np.full(len(rows), "", "U64")
    series = np.full(len(rows), "", "U32")
    files = rows["container"].to_pylist() if "container" in rows.column_names else [None] * len(rows)
    for row, (file, content) in enumerate(zip(files, read_images(rows, most_bytes=MOST_FILE_BYTES), strict=True)):
        try:
            if isinstance(content, ImageError):
                raise content
            series[row] = series_digest(content, otherwise=file, max_pixels=spec.max_pixels)
            contents[row] = hashlib.sha256(content).hexdigest()
            decoded, signatures[row] = decode(content)
            pixels[row] = decoded.pixels
            boxes[row] = in_square(tuple(given[row]), (decoded.width, decoded.height), decoded.square)
        except (ImageError, Excluded) as exc:
            errors[row] = exc.reason
    columns = {name: rows[name].to_numpy() for name in ("position", "label")}
    columns |= {"pixels": pixels, "finding": boxes, "error": errors, "content": contents, "series": series}
    return columns | Descriptors.stack(signatures).columns()  # which has a `box`, too: that of the head


def take_rows(batch: Rows, wanted: Array, pictures: Array) -> Rows:
    """Select the rows at the wanted positions, which ascend; `pictures` has the picture number of each of them."""
    order = np.argsort(batch["position"])
    is_here = np.isin(wanted, batch["position"])
    rows = order[np.searchsorted(batch["position"][order], wanted[is_here])]
    return {name: batch[name][rows] for name in ("position", "label", "pixels", "finding")} | {
        "picture": pictures[is_here]
    }


def share_rows(batch: Rows, by: str, share: tuple[int, int]) -> Rows:
    """Select the rows of one worker: those whose number in column `by`, modulo workers, is its rank.

    `share` is (rank, workers).
    """
    rank, workers = share
    is_mine = batch[by] % workers == rank
    return {name: column[is_mine] for name, column in batch.items()}


def in_order(parts: list[Rows], *names: str) -> Rows:
    """Concatenate columns sorted by position, because the order in which blocks arrive is not repeatable."""
    order = np.argsort(np.concatenate([part["position"] for part in parts]), kind="stable")
    return {name: np.concatenate([part[name] for part in parts])[order] for name in names}


class DecodedRows:
    """A worker's rows sorted by position; there may be none.

    Pixels are in an anonymous temporary file, memory-mapped, so the page cache holds what fits. The file disappears
    with the process.
    """

    def __init__(self, batches: Iterable[Rows]) -> None:
        """Store the rows of all batches. Raises `BrainrayError` where the disk is full."""
        empty_rows = {name: np.zeros(0, np.int64) for name in ("position", "label", "picture")}
        parts: list[Rows] = [empty_rows | {"finding": np.zeros((0, 4), np.float32)}]
        shape: tuple[int, ...] = (0, 0)
        file = tempfile.TemporaryFile(prefix="brainray-")  # noqa: SIM115 - open as long as this object
        try:
            for batch in batches:
                parts.append({name: batch[name] for name in parts[0]})
                shape = batch["pixels"].shape[1:]
                file.write(np.ascontiguousarray(batch["pixels"]).data)
            file.flush()
        except OSError as exc:
            raise BrainrayError(
                f"{tempfile.gettempdir()}, which a worker keeps its decoded images in: {exc.strerror}; "
                "make room there, or set TMPDIR on the nodes"
            ) from exc
        order = np.argsort(np.concatenate([part["position"] for part in parts]), kind="stable")
        sorted_rows = in_order(parts, *parts[0])
        self.position, self.label, self.picture, self.finding = (sorted_rows[name] for name in parts[0])
        empty = np.zeros((0, *shape), np.uint8)
        stored = np.memmap(file, np.uint8, "r", shape=(len(order), *shape)) if len(order) else empty
        self.pixels = _Reordered(stored, order)


class _Reordered:
    """View of stored images [N, H, W] or [N, H, W, 3] in another order; reads only the rows that are indexed."""

    def __init__(self, stored: Array, order: Array) -> None:
        self._stored, self._order = stored, order

    def __getitem__(self, places: Array | slice) -> npt.NDArray[np.uint8]:
        return np.asarray(self._stored[self._order[places]])
