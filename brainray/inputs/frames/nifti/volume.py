"""A volume of a NIfTI file: its voxels along the axes of the patient, and what they tell as a whole.

The only file that uses nibabel. Axes of voxels: x to the right, y to the front, z to the head.
"""

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from brainray.errors import ImageError
from brainray.inputs.frames.library import nibabel_library

from .header import read_directions

_WINDOW = (0.1, 99.9)  # percentiles, as of other images of more than 8 bits, see `imaging.wide_values`
_SAMPLE = 1 << 18  # voxels that are looked at for what a volume tells
_PLANES = ("sagittal", "coronal", "axial")  # square to x, y and z
_OBLIQUE = np.cos(np.radians(35))  # as of DICOM, see `imaging.dicom.series`

Voxels = NDArray[Any]


@dataclass(frozen=True, kw_only=True, eq=False)
class Geometry:
    """How the stored voxels lie in the patient, and of which type they are."""

    shape: tuple[int, int, int]  # as stored
    dtype: np.dtype[Any]
    orientation: NDArray[np.float64]  # [3, 2] as of `nibabel.io_orientation`
    spacing: tuple[float, float, float]  # millimetres, along x, y and z
    planes: tuple[str | None, str | None, str | None]  # of slices that are square to x, y and z; None: not known
    scale: tuple[float, float]  # slope and intercept: what stored values stand for
    intent: int  # NIFTI_INTENT of nifti1.h


@dataclass(frozen=True, kw_only=True)
class VolumeFacts:
    """What the voxels of a volume tell, by a sample of them."""

    window: tuple[float, float] | None  # the stored values that become black and white; None: no finite voxel
    values: int  # different ones in the sample
    whole_numbers: bool
    flat: float  # share of voxels, but for the background, whose neighbour has the same value
    below_zero: float  # share of voxels
    lowest: float | None


def read_geometry(unpacked: bytes) -> Geometry:
    """What nibabel reads of the first bytes of an unpacked file. Raises `ImageError`."""
    nibabel = nibabel_library()
    try:
        kind = nibabel.Nifti2Header if 540 in (_length(unpacked, "<"), _length(unpacked, ">")) else nibabel.Nifti1Header
        header = kind.from_fileobj(io.BytesIO(unpacked), check=False)
        affine, known, orientation = read_directions(unpacked)
        slope, intercept = header.get_slope_inter()
        sides = tuple(header.get_data_shape())
        dtype = header.get_data_dtype()
    except ImageError:
        raise
    except Exception as exc:
        raise ImageError("truncated", f"its NIfTI header cannot be read ({type(exc).__name__})") from exc
    shape = (*sides, 1, 1)[:3]
    spacing = np.ones(3)
    spacing[orientation[:, 0].astype(int)] = np.sqrt((affine**2).sum(axis=0))
    return Geometry(
        shape=(int(shape[0]), int(shape[1]), int(shape[2])),
        dtype=dtype,
        orientation=orientation,
        spacing=(float(spacing[0]), float(spacing[1]), float(spacing[2])),
        planes=_planes(affine, orientation) if known else (None, None, None),
        scale=(1.0, 0.0) if slope is None or intercept is None else (slope, intercept),
        intent=int(header["intent_code"]),
    )


def _length(unpacked: bytes, order: str) -> int:
    return int.from_bytes(unpacked[:4], "little" if order == "<" else "big")


def _planes(affine: NDArray[np.float64], orientation: NDArray[np.float64]) -> tuple[str | None, str | None, str | None]:
    """The plane of slices along each axis of the patient, by the direction that they are square to."""
    directions = affine / np.sqrt((affine**2).sum(axis=0))
    along = [directions[:, list(orientation[:, 0]).index(axis)] for axis in range(3)]
    found: list[str | None] = []
    for axis in range(3):
        square = np.cross(along[(axis + 1) % 3], along[(axis + 2) % 3])
        tilt = abs(square[axis]) / (np.linalg.norm(square) or 1)
        found.append(_PLANES[axis] if tilt >= _OBLIQUE else "oblique")
    return found[0], found[1], found[2]


def voxels_of(data: NDArray[np.uint8], geometry: Geometry) -> Voxels:
    """[X, Y, Z] the voxels of a volume as they are stored, along the axes of the patient: a view of `data`."""
    stored = data.view(geometry.dtype).reshape(geometry.shape, order="F")
    turned: Voxels = nibabel_library().apply_orientation(stored, geometry.orientation)
    return turned


def facts_of(data: NDArray[np.uint8], geometry: Geometry) -> VolumeFacts:
    """What the voxels tell; `data` are the bytes of a volume."""
    stored = data.view(geometry.dtype)
    step = 1 + stored.size // _SAMPLE | 1  # odd: else it would meet the same columns of each row
    places = np.arange(0, max(1, stored.size - 1), step)
    sample, next_to = stored[places], stored[np.minimum(places + 1, stored.size - 1)]
    if stored.dtype.kind == "f":
        finite = np.isfinite(sample)
        sample, next_to = sample[finite], next_to[finite]
    if not sample.size:
        return VolumeFacts(window=None, values=0, whole_numbers=False, flat=0.0, below_zero=0.0, lowest=None)
    values, counts = np.unique(sample, return_counts=True)
    inside = sample != values[np.argmax(counts)]
    slope, intercept = geometry.scale
    with np.errstate(all="ignore"):
        real = values * slope + intercept
    return VolumeFacts(
        window=_window(sample, stored, inverted=slope < 0),
        values=len(values),
        whole_numbers=bool((real == np.rint(real)).all()),
        flat=float((sample == next_to)[inside].mean()) if inside.any() else 1.0,
        below_zero=float(counts[real < 0].sum() / counts.sum()),
        lowest=float(real.min()),
    )


def _window(sample: Voxels, stored: Voxels, *, inverted: bool) -> tuple[float, float]:
    """The percentiles of a sample; the lowest and highest voxel where they are equal."""
    low, high = (float(value) for value in np.percentile(sample.astype(np.float64), _WINDOW))
    if low == high:
        finite = stored[np.isfinite(stored)] if stored.dtype.kind == "f" else stored
        low, high = float(finite.min()), float(finite.max())
    return (high, low) if inverted else (low, high)
