"""A slice of a NIfTI volume as an image: what is known of it, and its picture in 8 bits."""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from brainray.errors import ImageError
from brainray.imaging.dicom.header import as_image_error
from brainray.imaging.dicom.pixels import Picture
from brainray.imaging.dicom.series import Exclusion, SeriesFacts
from brainray.inputs.frames.nifti.file import only_slice
from brainray.inputs.frames.nifti.slice_file import is_slice, unpack

from .facts import SliceFacts, describe

FORMAT = "NIfTI"
# A slice shows nothing where fewer of its pixels are brighter than a tenth of the volume's window: one beside the head.
_DARK, _SHOWN = 25, 0.01
_SQUARE = 1.02  # pixels up to so much longer than wide are drawn as they are
_MOST_OBLONG = 20.0  # a header that says more says nothing

_NO_SLICE = "it begins like a slice of a volume, and is none"
_CUT = "its gzip stream ends after its voxels, without its checksum"

Pixels = NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class NiftiImage:
    """A slice of a volume, drawn in 8 bits."""

    facts: SeriesFacts
    exclusion: Exclusion | None  # why it is none that the model knows
    width: int
    height: int
    format: str = FORMAT
    _grey: NDArray[np.uint8] | None  # None: its volume has no finite voxel, or a single value
    _note: str | None

    @classmethod
    def open(cls, data: bytes, max_pixels: int) -> Self:
        """Draw a slice, or the only one of a file. Raises `ImageError`."""
        content = data if is_slice(data) else only_slice(data)
        with as_image_error("truncated", _NO_SLICE):
            pixels, described = unpack(content)
            known = SliceFacts.of(described)
            height, width = _drawn_size(pixels.shape, known.spacing)
            if width * height > max_pixels:
                raise ImageError("too_large", f"{width} x {height} pixels are more than the {max_pixels} allowed")
            facts, exclusion = describe(known)
            grey = _grey(pixels, known.window)
            # Before what its volume is: where masks are scored all the same, there is nothing to score in such a slice.
            if grey is not None and _is_blank(grey):
                exclusion = Exclusion("blank", "the slice shows next to nothing, as those beside the head")
            return cls(
                facts=facts,
                exclusion=exclusion,
                width=width,
                height=height,
                _grey=grey,
                _note=_note(pixels, known),
            )

    def picture(self, least: tuple[int, int] | None = None) -> Picture:
        """The picture in mode L, in its own size whatever `least` is.

        Raises `ImageError` where its volume has a single value.
        """
        with as_image_error("truncated", _NO_SLICE):
            if self._grey is None:
                raise ImageError("not_an_image", "no voxel of its volume is a finite number, or all have one value")
            image = Image.fromarray(self._grey)
            if image.size != (self.width, self.height):
                image = image.resize((self.width, self.height), Image.Resampling.BICUBIC)
            image.format = FORMAT
            return Picture(image, self._note)


def _grey(pixels: Pixels, window: tuple[float, float] | None) -> NDArray[np.uint8] | None:
    """The window of the volume as 0 to 255; NaN is black."""
    if window is None or window[0] == window[1]:
        return None
    low, high = window
    kind = np.float64 if pixels.dtype.itemsize > 4 else np.float32
    with np.errstate(all="ignore"):  # of numbers at the ends of their range
        inside: Pixels = (
            pixels.clip(min(window), max(window)).astype(kind) if kind is np.float64 else pixels.astype(kind)
        )
        shown = (inside - kind(low)) * kind(255 / (high - low))
    grey: NDArray[np.uint8] = (np.nan_to_num(shown, copy=False).clip(0, 255) + kind(0.5)).astype(np.uint8)
    return grey


def _is_blank(grey: NDArray[np.uint8]) -> bool:
    return int(np.count_nonzero(grey > _DARK)) < _SHOWN * grey.size


def _drawn_size(shape: tuple[int, ...], spacing: tuple[float, float]) -> tuple[int, int]:
    """Height and width of a picture with square pixels: the longer side of its voxels is drawn in more of them."""
    height, width = shape
    oblong = spacing[0] / spacing[1]
    if not 1 / _MOST_OBLONG <= oblong <= _MOST_OBLONG or 1 / _SQUARE <= oblong <= _SQUARE:
        return height, width
    return (round(height * oblong), width) if oblong > 1 else (height, round(width / oblong))


def _note(pixels: Pixels, known: SliceFacts) -> str | None:
    if pixels.dtype.kind == "f" and not np.isfinite(pixels).all():
        return "some of its voxels are no finite numbers; those that are no numbers at all are black"
    return _CUT if known.cut else None
