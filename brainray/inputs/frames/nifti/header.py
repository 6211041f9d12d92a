"""Reads the first bytes of a NIfTI file (NIfTI-1 and 2, packed by gzip or not), without nibabel: listing asks every
file how many slices it has, also where the extra is not installed.

Offsets are those of nifti1.h and nifti2.h (nifti.nimh.nih.gov). No text of a header is read.
"""

import json
import math
import struct
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from brainray.errors import ImageError

from . import Place

HEAD_BYTES = 16 << 10  # as stored; a packed header of 540 bytes takes less than 1 kB, the name in a gzip header more
LENGTHS = (348, 540)  # of the header: NIfTI-1 and 2
MOST_VOLUME_BYTES = 512 << 20  # of a volume, unpacked: it is held in memory, and 512 x 512 x 512 floats are read
GZIP = b"\x1f\x8b"
_LAST_START = 256 << 20  # of the voxels: extensions of the header take some megabytes at most
_COLOURS, _COMPLEX = (128, 2304), (32, 1792, 2048)
_ITEM_BYTES = {2: 1, 256: 1, 4: 2, 512: 2, 8: 4, 768: 4, 16: 4, 64: 8, 1024: 8, 1280: 8}  # real and whole numbers
_MOST_DIMENSIONS = 7
_SIDES = (1e-9, 1e9)  # millimetres that a voxel may be long
_LEAST_REST = 1e-7  # of one, beside b, c and d of a quaternion: less counts as none
# Voxels of the axial pictures of a volume may be so many times as long as wide; of a series of thick sagittal slices
# they are longer, and the plane that was acquired is the one to look at.
_MOST_OBLONG = 3.0


class _Layout(NamedTuple):
    """Where the numbers stand, and how they are stored: formats of `struct`."""

    magic: int
    dimensions: tuple[int, str]
    datatype: int
    spacing: tuple[int, str]
    start: tuple[int, str]
    codes: tuple[int, str]  # of qform and sform
    quaternion: tuple[int, str]  # b, c, d
    rows: tuple[int, str]  # of the matrix of sform
    length: int


_LAYOUTS = {
    348: _Layout(344, (40, "8h"), 70, (76, "8f"), (108, "f"), (252, "2h"), (256, "3f"), (280, "12f"), 352),
    540: _Layout(4, (16, "8q"), 12, (104, "8d"), (168, "q"), (344, "2i"), (352, "3d"), (400, "12d"), 544),
}


class Directions(NamedTuple):
    """How the stored axes lie in the patient."""

    affine: NDArray[np.float64]  # [3, 3] a column for each stored axis, in millimetres
    known: bool  # whether the header gives them
    orientation: NDArray[np.float64]  # [3, 2] as of `nibabel.io_orientation`


class Header(NamedTuple):
    """What the header says of the voxels."""

    shape: tuple[int, int, int]  # as stored; the first axis runs fastest
    volumes: int
    axes: tuple[int, int, int]  # the stored axes that run along x, y and z of the patient, or nearly
    spacing: tuple[float, float, float]  # millimetres between voxels, along the stored axes
    item_bytes: int
    start: int  # of the voxels in the unpacked file
    packed: bool | None = None  # by gzip, of a member of an archive; None: not known

    @property
    def volume_bytes(self) -> int:
        return math.prod(self.shape) * self.item_bytes

    def count(self, axis: int) -> int:
        """The slices of a volume that are square to an axis of the patient."""
        return self.shape[self.axes[axis]]

    def slice_bytes(self, axis: int) -> int:
        """The voxels of one of these slices."""
        return self.volume_bytes // self.count(axis)

    def holds(self, place: Place) -> bool:
        """Whether there is such a slice."""
        return place.volume < self.volumes and place.number < self.count(place.axis)

    def to_text(self) -> str:
        return json.dumps(self)

    @classmethod
    def from_text(cls, text: str) -> "Header":
        shape, volumes, axes, spacing, item_bytes, start, *packed = json.loads(text)
        return cls(tuple(shape), volumes, tuple(axes), tuple(spacing), item_bytes, start, *packed)

    def check_size(self) -> None:
        """Raise `too_large` for volumes that are not read."""
        if self.volume_bytes > MOST_VOLUME_BYTES:
            sides = " x ".join(f"{side:,}" for side in self.shape)
            raise ImageError(
                "too_large",
                f"its {sides} voxels have {self.volume_bytes:,} bytes, more than the {MOST_VOLUME_BYTES:,} allowed",
            )

    def sliced_along(self) -> int:
        """The axis of the patient that slices are square to: z, but where axial voxels would be oblong by far."""
        spacing = [self.spacing[axis] for axis in self.axes]
        across = sorted(spacing[:2])
        return spacing.index(max(spacing)) if across[1] > _MOST_OBLONG * across[0] else 2


def unpacked_head(head: bytes) -> bytes:
    """The first unpacked bytes of a file, by its first bytes as they are stored. Raises `truncated` for a bad gzip."""
    if not head.startswith(GZIP):
        return head[: LENGTHS[1]]
    try:
        return zlib.decompressobj(wbits=zlib.MAX_WBITS | 16).decompress(head, LENGTHS[1])
    except zlib.error as exc:
        raise ImageError("truncated", "its gzip stream is damaged before its NIfTI header ends") from exc


def is_nifti_head(unpacked: bytes) -> bool:
    """Whether these are the first bytes of an unpacked NIfTI file, by their magic."""
    return unpacked[344:348] in (b"n+1\0", b"ni1\0") or unpacked[4:8] in (b"n+2\0", b"ni2\0")


def read_header(unpacked: bytes) -> Header:
    """The header of an unpacked file. Raises `ImageError`, also for voxels that are none of a grey picture."""
    layout, numbers = _numbers(unpacked)
    if unpacked[layout.magic : layout.magic + 2] == b"ni":
        raise ImageError("unsupported", "its voxels are in another file (.img); convert the pair to one .nii.gz first")
    shape = _shape(numbers(layout.dimensions))
    item_bytes = _item_bytes(numbers((layout.datatype, "h"))[0])
    pixdim, (start,) = numbers(layout.spacing), numbers(layout.start)
    if not 0 <= start <= _LAST_START:  # not so for NaN, too
        raise ImageError("truncated", "its NIfTI header does not say where the voxels begin")
    spacing = _mended(pixdim)
    axes = read_directions(unpacked).orientation[:, 0].astype(int).tolist()
    return Header(
        shape=shape[:3],
        volumes=shape[3],
        axes=(axes.index(0), axes.index(1), axes.index(2)),
        spacing=(spacing[0], spacing[1], spacing[2]),
        item_bytes=item_bytes,
        start=max(int(start), layout.length),
    )


def read_directions(unpacked: bytes) -> Directions:
    """The directions of an unpacked file; what breaks the standard is mended as other readers do.

    Listing and reading have them from here: a slice that one of them counts along another axis would be lost. Raises
    `ImageError`.
    """
    layout, numbers = _numbers(unpacked)
    fields = (layout.spacing, layout.codes, layout.quaternion, layout.rows)
    affine, known = _affine(*map(numbers, fields))
    return Directions(affine=affine, known=known, orientation=_orientation(affine))


def _numbers(unpacked: bytes) -> tuple[_Layout, Callable[[tuple[int, str]], tuple[Any, ...]]]:
    """The layout, and a function that reads a field of it. Raises `ImageError`, as does the function."""
    layout, order = _layout(unpacked)

    def numbers(field: tuple[int, str]) -> tuple[Any, ...]:
        try:
            return struct.unpack_from(order + field[1], unpacked, field[0])
        except struct.error as exc:
            raise ImageError("truncated", "it ends before its NIfTI header does") from exc

    return layout, numbers


def _layout(unpacked: bytes) -> tuple[_Layout, str]:
    """The layout and the order of bytes, by the length of the header that stands at its beginning."""
    for order in "<>":
        length = struct.unpack_from(order + "i", unpacked)[0] if len(unpacked) >= 4 else 0
        if length in _LAYOUTS:
            layout = _LAYOUTS[length]
            if len(unpacked) < length:
                raise ImageError("truncated", "it ends before its NIfTI header does")
            if not is_nifti_head(unpacked):
                raise ImageError("unsupported", "its header has no NIfTI magic, as of ANALYZE 7.5; convert it first")
            return layout, order
    raise ImageError("truncated", "its NIfTI header gives a wrong length of itself")


def _shape(dimensions: tuple[int, ...]) -> tuple[int, int, int, int]:
    count, *sides = dimensions
    if not 1 <= count <= _MOST_DIMENSIONS or any(side < 1 for side in sides[:count]):
        raise ImageError("truncated", "its NIfTI header gives no size in voxels")
    sides = [*sides[:count], 1, 1, 1]
    if any(side > 1 for side in sides[4:]):
        raise ImageError("unsupported", "it has more than four dimensions, as fields of vectors have")
    return sides[0], sides[1], sides[2], sides[3]


def _item_bytes(datatype: int) -> int:
    if datatype in _COLOURS:
        raise ImageError("unsupported", "its voxels are colours, which are not read; save it in grey")
    if datatype in _COMPLEX:
        raise ImageError("unsupported", "its voxels are complex numbers, which are not read; save their magnitude")
    if datatype not in _ITEM_BYTES:
        raise ImageError("unsupported", f"its voxels are of the type {datatype}, which is not read")
    return _ITEM_BYTES[datatype]


def _mended(pixdim: tuple[float, ...]) -> list[float]:
    """Millimetres between voxels along the stored axes; 1 where the header gives none."""
    return [abs(side) if _SIDES[0] < abs(side) < _SIDES[1] else 1.0 for side in pixdim[1:4]]


def _affine(
    pixdim: tuple[float, ...], codes: tuple[int, int], quaternion: tuple[float, ...], rows: tuple[float, ...]
) -> tuple[NDArray[np.float64], bool]:
    """[3, 3] the stored axes in the patient, a column each, in millimetres; and whether the header gives them.

    Those of sform, else of qform, as nifti1.h has it. Where they are not three directions nothing can be turned, and
    the axes are those of nibabel for a file without any: the first one to the left.
    """
    qform, sform = codes
    spacing = _mended(pixdim)
    affine = np.diag([-spacing[0], *spacing[1:]])
    with np.errstate(all="ignore"):
        if sform != 0:
            affine = np.array(rows, np.float64).reshape(3, 4)[:, :3]
        elif qform != 0:
            affine = _turn(quaternion) * spacing * [1.0, 1.0, -1.0 if pixdim[0] == -1 else 1.0]
        directions = affine / np.sqrt((affine**2).sum(axis=0))
        if (sform or qform) and np.isfinite(directions).all() and np.linalg.matrix_rank(directions) == 3:
            return affine, True
    return np.diag([-spacing[0], *spacing[1:]]), False


def _turn(quaternion: tuple[float, ...]) -> NDArray[np.float64]:
    """[3, 3] the rotation of a quaternion, as `nifti_quatern_to_mat44` of nifti1_io.c: also of one that is too long."""
    b, c, d = quaternion
    rest = 1.0 - (b * b + c * c + d * d)
    a = math.sqrt(rest) if rest >= _LEAST_REST else 0.0
    if rest < _LEAST_REST:
        length = math.hypot(b, c, d)
        b, c, d = b / length, c / length, d / length
    turn = [
        [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
        [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
        [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
    ]
    return np.array(turn, np.float64)


def _orientation(affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """[3, 2] for each stored axis the nearest axis of the patient, and 1 or -1 for its direction.

    As `nibabel.io_orientation`, of an affine with three directions.
    """
    left, _, right = np.linalg.svd(affine / np.sqrt((affine**2).sum(axis=0)))
    turned = left @ right
    near = np.abs(turned)
    found = np.empty((3, 2))
    for stored in np.argsort(-(near**2).max(axis=0), kind="stable").tolist():
        world = int(np.argmax(near[:, stored]))
        found[stored] = world, -1 if turned[world, stored] < 0 else 1
        near[world] = -1.0
    return found
