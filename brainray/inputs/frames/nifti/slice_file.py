"""A slice of a volume as bytes of its own, which `imaging.nifti` makes a picture of: voxels as they are stored, and
what was found out about volume and file. It is made when a file is read, and never stored.

The picture is that of a radiologist: the patient's right on the left, and the front (of axial slices) or the head (of
all others) at the top; of sagittal slices the front is on the left.
"""

import json
import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from brainray.errors import ImageError

_MAGIC = b"\x93brainray-slice\n"
_ROWS, _COLUMNS = (2, 2, 1), (1, 0, 0)  # of a picture square to x, y, z: the axis that runs down, and to the right

Voxels = NDArray[Any]


def is_slice(data: bytes) -> bool:
    """Whether these are the bytes of a slice."""
    return data.startswith(_MAGIC)


def picture_of(voxels: Voxels, axis: int, number: int) -> Voxels:
    """[H, W] a slice of [X, Y, Z] as it is looked at."""
    # Not by `take`, which copies the whole volume each time. The axes that are left ascend: the second one runs down.
    plane: Voxels = np.moveaxis(voxels, axis, 0)[number]
    return plane.T[::-1, ::-1]


def pixel_spacing(spacing: tuple[float, float, float], axis: int) -> tuple[float, float]:
    """Height and width of a pixel of such a picture in millimetres."""
    return spacing[_ROWS[axis]], spacing[_COLUMNS[axis]]


def pack(pixels: Voxels, facts: dict[str, Any]) -> bytes:
    """The bytes of a slice [H, W], with what is known of it."""
    described = json.dumps({"shape": pixels.shape, "dtype": pixels.dtype.str} | facts, sort_keys=True).encode()
    return b"".join((_MAGIC, struct.pack("<I", len(described)), described, np.ascontiguousarray(pixels).tobytes()))


def unpack(data: bytes) -> tuple[Voxels, dict[str, Any]]:
    """The slice [H, W], and what is known of it. Raises `truncated` for bytes that `pack` did not make."""
    try:
        (length,) = struct.unpack_from("<I", data, len(_MAGIC))
        start = len(_MAGIC) + 4
        facts: dict[str, Any] = json.loads(data[start : start + length])
        height, width = (int(side) for side in facts["shape"])
        if height < 1 or width < 1:
            raise ValueError("a slice has pixels")
        pixels = np.frombuffer(data, np.dtype(facts["dtype"]), offset=start + length).reshape(height, width)
    except Exception as exc:
        raise ImageError("truncated", "it begins like a slice of a volume, and is none") from exc
    return pixels, facts
