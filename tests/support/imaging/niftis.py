"""Draws NIfTI volumes: a head, in any type of voxel and orientation, packed or not."""

import gzip
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray

SHAPE = (24, 30, 20)
RAS = np.diag([1.0, 1.0, 1.0, 1.0])


def head(shape: tuple[int, int, int] = SHAPE) -> NDArray[np.int16]:
    """[X, Y, Z] an ellipsoid with a bright front, a brighter right side and the brightest top; outside it 0.

    The slices at both ends of z are empty. Values have 12 bits, and few neighbours are equal.
    """
    x, y, z = np.ogrid[tuple(slice(-1.0, 1.0, complex(0, side)) for side in shape)]
    inside = (x / 0.8) ** 2 + (y / 0.9) ** 2 + (z / 0.85) ** 2 <= 1
    values = 1200 + 400 * x + 700 * y + 900 * z + 60 * np.sin(9 * x + 7 * y + 5 * z)
    return np.where(inside, values, 0).clip(0, 4095).astype(np.int16)


def nifti(
    voxels: NDArray[Any] | None = None,
    affine: NDArray[np.float64] = RAS,
    *,
    packed: bool = True,
    version: int = 1,
    **fields: Any,
) -> bytes:
    """The bytes of a file; `fields` replace those of its header that tell no place and no scale."""
    kind = nibabel.Nifti1Image if version == 1 else nibabel.Nifti2Image
    image = kind(head() if voxels is None else voxels, affine)
    for name, value in fields.items():
        image.header[name] = value
    content: bytes = image.to_bytes()
    return gzip.compress(content, 1, mtime=0) if packed else content


def with_header(content: bytes, at: int, value: bytes) -> bytes:
    """An unpacked file with other bytes in its header."""
    return content[:at] + value + content[at + len(value) :]
