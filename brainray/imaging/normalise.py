"""Where in a picture the head is, so that margins, and with them the scale, tell a model nothing.

Scanners, viewers and data sets leave margins of any width, and write on them. Knows pixels only.
"""

from functools import cache
from types import ModuleType

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_SIDE = 64  # pixels of the longer side that is looked at
_DARKEST = 8.0  # of 255: the margin of a JPEG is not quite black
_SHARE_OF_BRIGHT = 0.12  # of the way from the margin to the 99th percentile: air in the head's scale of intensities
_LIFTED = 0.65  # upper quartile, of 1, from which air is not dark: equalisation of a whole histogram makes it 0.75
_RIM = 25  # percentile of the rim that is taken for the margin: some margins are grey, some heads touch the rim
_LEAST = 0.05  # of the picture: a smaller part is no head
_BESIDE = 0.2  # of the largest part: so large another part belongs to it, a scale bar or a letter does not
_LOOKS = 2  # the second one where the first has cut much off, for it sees more of the head's edge
_FILLED = 0.85  # of the longer side
_CROSS = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], np.uint8)

Box = tuple[float, float, float, float]  # left, top, right, bottom


def head_box(image: Image.Image, box: Box) -> Box:
    """The part of `box`, in the image's pixels, that shows the head; all of it where none stands out.

    It is the crop that a model is shown, so letters, rulers and margins must stay outside; copies are aligned by
    another box, `signatures._silhouette_box`.
    """
    for _ in range(_LOOKS):
        found = _seen(image, box)
        if found is None or _side(found) > _FILLED * _side(box):
            return found or box
        box = found
    return box


def _seen(image: Image.Image, box: Box) -> Box | None:
    """One look at a reduced picture: as exact as one of its pixels."""
    left, top, right, bottom = box
    scale = _SIDE / _side(box)
    size = max(1, round((right - left) * scale)), max(1, round((bottom - top) * scale))
    small = image.resize(size, Image.Resampling.BOX, box=box).convert("L")
    found = bright_box(np.asarray(small))
    if found is None:
        return None
    across, down = (right - left) / size[0], (bottom - top) / size[1]
    return left + found[0] * across, top + found[1] * down, left + found[2] * across, top + found[3] * down


def _side(box: Box) -> float:
    """The longer one."""
    return max(box[2] - box[0], box[3] - box[1])


def bright_box(luminance_HW: NDArray[np.uint8]) -> Box | None:
    """Around the largest connected bright part, and parts near its size, of a picture some hundred pixels wide.

    Nearly all of it is done by OpenCV, which lets other threads run meanwhile.
    """
    cv2 = _opencv()
    smooth_HW = _mean_of_nine(luminance_HW)
    rim = np.concatenate([luminance_HW[0], luminance_HW[-1], luminance_HW[:, 0], luminance_HW[:, -1]])
    (margin,) = _percentiles(rim, _RIM)
    upper, bright = _percentiles(smooth_HW, 75, 99)
    least = margin + max(_DARKEST, _SHARE_OF_BRIGHT * (bright - margin))
    if upper > _LIFTED * 255:
        least = max(least, cv2.threshold(smooth_HW, 0, 255, cv2.THRESH_OTSU)[0])
    bright_HW = (smooth_HW > least).view(np.uint8)
    opened_HW = cv2.morphologyEx(bright_HW, cv2.MORPH_OPEN, _CROSS, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    _, _, stats, _ = cv2.connectedComponentsWithStats(opened_HW, connectivity=4)
    parts = stats[1:]  # the first one is what is not bright
    largest = parts[:, cv2.CC_STAT_AREA].max(initial=0)
    if largest < _LEAST * luminance_HW.size:
        return None
    parts = parts[parts[:, cv2.CC_STAT_AREA] >= _BESIDE * largest]
    height, width = luminance_HW.shape
    left, right = _span(parts[:, cv2.CC_STAT_LEFT], parts[:, cv2.CC_STAT_WIDTH], width)
    top, bottom = _span(parts[:, cv2.CC_STAT_TOP], parts[:, cv2.CC_STAT_HEIGHT], height)
    return left, top, right, bottom


@cache
def _opencv() -> ModuleType:
    """With one thread: pictures this small are done before others have woken up."""
    import cv2

    cv2.setNumThreads(1)
    return cv2


def _mean_of_nine(pixels_HW: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Of each pixel and its neighbours, which are mirrored at the edge; each axis is rounded down by itself."""
    cv2 = _opencv()
    mean_HW = cv2.copyMakeBorder(pixels_HW, 1, 1, 1, 1, cv2.BORDER_REFLECT).astype(np.uint16)
    mean_HW = (mean_HW[:-2] + mean_HW[1:-1] + mean_HW[2:]) // 3
    mean_HW = (mean_HW[:, :-2] + mean_HW[:, 1:-1] + mean_HW[:, 2:]) // 3
    mean: NDArray[np.uint8] = mean_HW.astype(np.uint8)
    return mean


def _percentiles(pixels: NDArray[np.uint8], *shares: float) -> list[float]:
    """As `np.percentile` has them, from a histogram: in a tenth of the time."""
    up_to = np.bincount(pixels.ravel(), minlength=256).cumsum()
    found = []
    for share in shares:
        place = share / 100 * (pixels.size - 1)
        below, above = np.searchsorted(up_to, (int(place), min(int(place) + 1, pixels.size - 1)), side="right")
        found.append(float(below + (above - below) * (place % 1)))
    return found


def _span(first: NDArray[np.int32], length: NDArray[np.int32], size: int) -> tuple[float, float]:
    """Around all parts; smoothing has widened what does not touch the frame by one on each side."""
    start, end = int(first.min()), int((first + length).max())
    if end - start < 4:
        return start, end
    return start + (start > 0), end - (end < size)


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
