"""Unpacks a JPEG 2000 picture at 1/2, 1/4 ... of its size, in as much less time: its finest details are left out.

Such a sample stands where the first of its pixels stood, not in the middle of them: `decode` shifts by `phase_of`.
"""

import io

import numpy as np
from numpy.typing import NDArray
from PIL.Jpeg2KImagePlugin import Jpeg2KImageFile

from .codestream import GreyJpeg2000, grey_jpeg2000

# JPEG 2000 and its high-throughput kinds, lossless or not (PS3.6, A-1); those of several components are not.
SYNTAXES = frozenset(f"1.2.840.10008.1.2.4.{number}" for number in (90, 91, 201, 202, 203))


def phase_of(halvings: int) -> float:
    """How far a sample of the reduced picture lies before the middle of the pixels it stands for, in its own pixels."""
    return (1 - 0.5**halvings) / 2


def halvings_for(size: tuple[int, int], least: tuple[int, int]) -> int:
    """How often a size (width, height) can be halved to whole numbers that are no smaller than `least`."""
    halvings = 0
    while all(
        side % 2 ** (halvings + 1) == 0 and side >> halvings + 1 >= low for side, low in zip(size, least, strict=True)
    ):
        halvings += 1
    return halvings


def unpack_halved(coded: bytes, halvings: int, *, bits: int, is_signed: bool) -> NDArray[np.int32] | None:
    """The values [H, W] at that reduction; None where the picture does not say the same of its values as the header.

    Raises what Pillow raises for damaged ones.
    """
    said = grey_jpeg2000(coded)
    if said is None or said.bits != bits or said.is_signed != is_signed or not 0 < halvings <= said.levels:
        return None
    image = Jpeg2KImageFile(io.BytesIO(coded))
    if image.mode not in ("L", "I;16"):
        return None
    image.reduce = halvings  # a setting of the plugin, which hides the method
    image.load()
    return _unshifted(np.asarray(image), said)


def _unshifted(values: NDArray[np.generic], said: GreyJpeg2000) -> NDArray[np.int32]:
    """The values themselves: Pillow has them in the upper bits of 8 or 16, and from 0 on."""
    stored = values.astype(np.int32) >> (8 * values.dtype.itemsize - said.bits)
    return stored - (1 << said.bits - 1) if said.is_signed else stored
