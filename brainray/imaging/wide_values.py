"""Images of more than 8 bits a value: scaled to 8 bits by the values that they use.

Scanners use 12 of 16 bits, floats have any unit. Pillow keeps the high byte of 16-bit colours, in which such an image
is nearly black, so these are unpacked by OpenCV. Shape suffixes: H height, W width, C colour.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.ExifTags import Base
from PIL.ImageFile import ImageFile

from brainray.errors import ImageError

from .normalise import opencv

_WIDE_MODES = ("I", "F")  # first letters of Pillow's modes with 16-bit, 32-bit and float values
_WINDOW = (0.1, 99.9)  # percentiles of the values of such an image that become 0 and 255
_BLOCK = 1 << 20  # pixels that are scaled at a time, or sampled for the percentiles: limits memory
_COLOURS = ("RGB;16", "RGBA;16", "LA;16")  # how Pillow calls 16-bit colours in a file, before the order of their bytes


def is_wide(image: Image.Image) -> bool:
    """Whether an unpacked image has values of more than 8 bits."""
    return image.mode.startswith(_WIDE_MODES)


def has_wide_colours(image: ImageFile) -> bool:
    """Whether an image that is still packed is a PNG or TIFF with 16-bit colours."""
    if image.format not in ("PNG", "TIFF") or not image.tile:
        return False
    args = image.tile[0][3]
    packed = args[0] if isinstance(args, tuple) else args
    return str(packed).startswith(_COLOURS)


def unpacked_colours(data: bytes, image: ImageFile) -> Image.Image:
    """The file of `has_wide_colours` as RGB, or RGBA, of 8 bits. Raises `ImageError`."""
    if image.format == "TIFF" and image.getexif().get(Base.Orientation, 1) != 1:
        raise ImageError("unsupported", "TIFF: has 16-bit colours and is to be turned; save it upright, or as PNG")
    cv2 = opencv()
    values_HWC = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if values_HWC is None or values_HWC.ndim != 3 or values_HWC.dtype != np.uint16 or values_HWC.shape[2] not in (3, 4):
        raise ImageError("unsupported", f"{image.format}: its 16-bit colours are not read; save it with 8 bits")
    scaled_HWC = _scaled(np.ascontiguousarray(values_HWC[..., 2::-1]), str(image.format))
    if values_HWC.shape[2] == 4:
        scaled_HWC = np.dstack([scaled_HWC, (values_HWC[..., 3] >> 8).astype(np.uint8)])
    return Image.fromarray(scaled_HWC)


def shown_in_8_bits(values_HW: NDArray[np.uint16], format: str) -> Image.Image:
    """Values that were unpacked by another library than Pillow, scaled as those of `scaled_to_8_bits`."""
    shown = Image.fromarray(_scaled(values_HW, format))
    shown.format = format
    return shown


def scaled_to_8_bits(image: ImageFile) -> Image.Image:
    """The 0.1 to 99.9 percentile of the values of an image that `is_wide` becomes 0 to 255.

    Where the two are equal, minimum and maximum are used. NaN is black, infinities are black and white. Raises
    `ImageError` where all values are equal, or none is a finite number: nothing can be scaled then.
    """
    return Image.fromarray(_scaled(np.asarray(image), str(image.format)))


def _scaled(values: NDArray[Any], name: str) -> NDArray[np.uint8]:
    scaled = np.empty(values.shape, np.uint8)
    low, high = _window(values)
    if low == high:
        raise ImageError("not_an_image", f"{name} pixels: all have the value {low:g}")
    for start in range(0, values.size, _BLOCK):
        block = np.s_[start : start + _BLOCK]
        inside = np.nan_to_num(values.reshape(-1)[block].astype(np.float64).clip(low, high), nan=low)
        scaled.reshape(-1)[block] = (inside - low) / (high - low) * 255 + 0.5
    return scaled


def _window(values: NDArray[Any]) -> tuple[float, float]:
    """The values that become 0 and 255; equal where the image has a single value. Raises `ImageError` without any."""
    sample = values.reshape(-1)[:: 1 + values.size // _BLOCK].astype(np.float64)
    sample = sample[np.isfinite(sample)]
    low, high = np.percentile(sample, _WINDOW) if sample.size else (0.0, 0.0)
    if low < high:
        return float(low), float(high)
    finite = values[np.isfinite(values)] if values.dtype.kind == "f" else values
    if not finite.size:
        raise ImageError("not_an_image", "no pixel has a finite number: all are NaN or infinite")
    return float(finite.min()), float(finite.max())
