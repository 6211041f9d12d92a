"""Rows of decoded images, as they go from the tasks that decode to the workers that learn from them.

A row is (position in the training set, label, picture, pixels). Knows no Ray.
"""

import tempfile
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from brainray import storage
from brainray.config import ImageSpec
from brainray.duplicates.descriptors import Descriptors, describe_picture, nothing
from brainray.errors import BrainrayError, ImageError, StorageError
from brainray.imaging.decode import decode_with_luminance

Array = npt.NDArray[Any]
Rows = dict[str, Array]


def decode_rows(rows: pa.Table, spec: ImageSpec) -> Rows:
    """(position, uri, label) -> pixels and signature; an image that cannot be read keeps its row, with a reason."""
    shape = (len(rows), spec.image_px, spec.image_px) + ((3,) if spec.channels == 3 else ())
    pixels = np.zeros(shape, np.uint8)
    signatures = [nothing()] * len(rows)
    errors = np.full(len(rows), "", "U32")
    for row, uri in enumerate(rows["uri"].to_pylist()):
        try:
            decoded, luminance_HW = decode_with_luminance(storage.read_bytes(uri), spec)
            pixels[row], signatures[row] = decoded.pixels, describe_picture(luminance_HW)
        except (ImageError, StorageError) as exc:
            errors[row] = exc.reason
    columns = {name: rows[name].to_numpy() for name in ("position", "label")}
    return columns | {"pixels": pixels, "error": errors} | Descriptors.stack(signatures).columns()


def take_rows(batch: Rows, wanted: Array, pictures: Array) -> Rows:
    """The rows at the wanted positions, ascending, with their pictures."""
    order = np.argsort(batch["position"])
    chosen = np.isin(wanted, batch["position"])
    rows = order[np.searchsorted(batch["position"][order], wanted[chosen])]
    return {name: batch[name][rows] for name in ("position", "label", "pixels")} | {"picture": pictures[chosen]}


def share_rows(batch: Rows, by: str, share: tuple[int, int]) -> Rows:
    """The rows of one of several workers, who share out the numbers of a column. `share` is (rank, workers)."""
    rank, workers = share
    mine = batch[by] % workers == rank
    return {name: column[mine] for name, column in batch.items()}


def in_order(parts: list[Rows], *names: str) -> Rows:
    """Columns in order of position: the order in which blocks arrive is not repeatable."""
    order = np.argsort(np.concatenate([part["position"] for part in parts]), kind="stable")
    return {name: np.concatenate([part[name] for part in parts])[order] for name in names}


class DecodedRows:
    """A worker's rows in order of position, maybe none.

    Pixels lie in a file that has no name and goes with the process. The system holds it in memory as far as there is
    room, so that epochs read from memory what fits and from disk what does not.
    """

    def __init__(self, batches: Iterable[Rows]) -> None:
        """Raises `BrainrayError` where the disk is full."""
        parts: list[Rows] = [{name: np.zeros(0, np.int64) for name in ("position", "label", "picture")}]
        shape: tuple[int, ...] = (0, 0)
        file = tempfile.TemporaryFile(prefix="brainray-")  # noqa: SIM115 - as long as this object
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
        kept = in_order(parts, "label", "picture")
        self.label, self.picture = kept["label"], kept["picture"]
        empty = np.zeros((0, *shape), np.uint8)
        stored = np.memmap(file, np.uint8, "r", shape=(len(order), *shape)) if len(order) else empty
        self.pixels = _Reordered(stored, order)


class _Reordered:
    """Images [N, H, W] or [N, H, W, 3] in another order than they are stored in."""

    def __init__(self, stored: Array, order: Array) -> None:
        self._stored, self._order = stored, order

    def __getitem__(self, places: Array | slice) -> npt.NDArray[np.uint8]:
        return np.asarray(self._stored[self._order[places]])
