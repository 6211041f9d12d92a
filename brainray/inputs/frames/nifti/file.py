"""A NIfTI file that is open: its slices, each as bytes of its own (`slice_file`). A volume is unpacked once for them.

Knows no storage, for images are decoded in processes that load none.
"""

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from brainray.errors import ImageError

from . import AXES, Place
from .header import GZIP, HEAD_BYTES, LENGTHS, Header, is_nifti_head, read_header, unpacked_head
from .slice_file import Voxels, pack, picture_of, pixel_spacing
from .stream import REQUEST_BYTES, Fetch, Stream
from .volume import Geometry, VolumeFacts, facts_of, read_geometry, voxels_of

NO_SLICE = "the file has no such slice"
_ORDERS: tuple[Literal["little"], Literal["big"]] = ("little", "big")

Slice = bytes | ImageError


@dataclass(frozen=True, kw_only=True, eq=False)
class _Volume:
    number: int
    data: NDArray[np.uint8]
    voxels: Voxels  # a view of the data, [X, Y, Z]
    facts: VolumeFacts
    cut: bool  # whether the gzip stream of the file ends before its checksum


class NiftiFile:
    """An open file, and the volume of it that was read last."""

    def __init__(self, fetch: Fetch, size_bytes: int, described: dict[str, Any]) -> None:
        """Raises `ImageError`, and `StorageError` as `fetch` does."""
        self._fetch, self._size_bytes = fetch, size_bytes
        self._stream = Stream(fetch, size_bytes)
        head = _head_of(self._stream)
        self.header: Header = read_header(head)
        self.header.check_size()
        self._geometry: Geometry = read_geometry(head)
        self._described = described
        self._volume: _Volume | None = None
        self._failed: dict[int, ImageError] = {}  # volumes that cannot be unpacked: once is enough

    @property
    def kept_bytes(self) -> int:
        return self.header.volume_bytes + min(self._size_bytes, REQUEST_BYTES)

    @property
    def position(self) -> int:
        """How many bytes are unpacked so far."""
        return self._stream.position

    def holds(self, volume: int) -> bool:
        """Whether a slice of this volume takes no unpacking."""
        is_held = self._volume is not None and self._volume.number == volume
        return is_held or volume in self._failed or volume >= self.header.volumes

    def is_last(self, place: Place) -> bool:
        """Whether it is the last slice of the file along its axis."""
        return (place.volume, place.number) == (self.header.volumes - 1, self.header.count(place.axis) - 1)

    def is_before(self, volume: int) -> bool:
        """Whether the volume can be unpacked without a new beginning of the file."""
        return self._stream.position <= self._start(volume)

    def slice_at(self, place: Place) -> Slice:
        """A slice. Raises `StorageError` as `fetch` does."""
        if place.volume >= self.header.volumes:
            return ImageError("truncated", NO_SLICE)
        if place.volume in self._failed:
            return self._failed[place.volume]
        try:
            volume = self._volume_at(place.volume)
        except ImageError as exc:
            self._failed[place.volume] = exc
            return exc
        if place.number >= volume.voxels.shape[place.axis]:
            return ImageError("truncated", NO_SLICE)
        pixels = picture_of(volume.voxels, place.axis, place.number)
        return pack(pixels, self._facts(volume, place.axis))

    def _volume_at(self, number: int) -> _Volume:
        if self._volume is None or self._volume.number != number:
            self._volume = None  # before the next one is unpacked: one of them is in memory
            self._volume = self._read(number)
        return self._volume

    def _read(self, number: int) -> _Volume:
        if not self.is_before(number):
            self._stream = Stream(self._fetch, self._size_bytes)
        self._stream.skip_to(self._start(number))
        data = self._stream.take(self.header.volume_bytes)
        is_last = number == self.header.volumes - 1
        return _Volume(
            number=number,
            data=data,
            voxels=voxels_of(data, self._geometry),
            facts=facts_of(data, self._geometry),
            cut=is_last and not self._stream.ends_well(),
        )

    def _start(self, volume: int) -> int:
        return self.header.start + volume * self.header.volume_bytes

    def _facts(self, volume: _Volume, axis: int) -> dict[str, Any]:
        geometry = self._geometry
        return (
            self._described
            | asdict(volume.facts)
            | {
                "spacing": pixel_spacing(geometry.spacing, axis),
                "plane": geometry.planes[axis],
                "intent": geometry.intent,
                "volumes": self.header.volumes,
                "cut": volume.cut,
            }
        )


def is_nifti_file(data: bytes) -> bool:
    """Whether these are the bytes of a NIfTI file, packed by gzip or not."""
    if not data.startswith(GZIP):
        return is_nifti_head(data)
    try:
        return is_nifti_head(unpacked_head(data[:HEAD_BYTES]))
    except ImageError:
        return False


def only_slice(data: bytes) -> bytes:
    """The slice of a file that has one. Raises `ImageError`."""
    file = NiftiFile(lambda start, length: data[start : start + length], len(data), {"name": "", "sidecar": {}})
    axis = file.header.sliced_along()
    slices = file.header.count(axis) * file.header.volumes
    if slices > 1:
        raise ImageError(
            "unsupported",
            f"it holds {slices:,} slices and was listed as one image; name each in a list, as vol.nii#{AXES[axis]}=0",
        )
    found = file.slice_at(Place(axis, 0))
    if isinstance(found, ImageError):
        raise found
    return found


def _head_of(stream: Stream) -> bytes:
    """The header, and no byte of the voxels that may follow it at once."""
    head = bytes(stream.take_up_to(LENGTHS[0]))
    is_longer = any(int.from_bytes(head[:4], order) == LENGTHS[1] for order in _ORDERS)
    return head + bytes(stream.take_up_to(LENGTHS[1] - LENGTHS[0])) if is_longer else head
