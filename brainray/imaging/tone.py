"""The tones of a picture: one whose histogram was made even gets back the one that slices of heads have.

Programs that show pictures like to equalise their histogram: each value becomes the share of pixels that are darker,
and the little noise of the air turns into a middle grey. That keeps the order of values, and by their places in that
order they can be given usual ones (histogram specification; for MRI: Nyul and Udupa, Magn Reson Med 42, 1999).
"""

import numpy as np
from numpy.typing import NDArray

# All of 544 equalised slices had more than this share of their pixels above that lightness, and as they were one had.
_LIGHT, _SHARE = 153, 0.3
# Quantiles of a slice around its head, from 0 to 1 in equal steps: means over 800 slices of the public training set of
# Masoud Nickparvar.
_USUAL = (0, 1, 2, 4, 9, 18, 32, 48, 62, 72, 79, 85, 91, 98, 111, 138, 241)


def usual_tone(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The picture itself, or where more of it is light than of any slice of a head, one with usual tones."""
    if np.count_nonzero(pixels > _LIGHT) <= _SHARE * pixels.size:
        return pixels
    shares = np.bincount(pixels.ravel(), minlength=256) / pixels.size
    place = np.cumsum(shares) - shares / 2
    values = np.interp(place, np.linspace(0, 1, len(_USUAL)), _USUAL)
    usual: NDArray[np.uint8] = values.round().astype(np.uint8)[pixels]
    return usual
