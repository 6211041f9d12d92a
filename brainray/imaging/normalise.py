"""Normalises images: finds the head, to crop margins (`head_box`), and undoes an equalised histogram (`usual_tone`).

Scanners, viewers and data sets leave margins of any width, with text on them; a model must not learn from margins, or
from the scale that depends on them. Knows pixels only.
"""

from functools import cache
from threading import Lock
from types import ModuleType

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .framing import Box

importing_opencv = Lock()  # held while that may change `sys.path`
_SIDE = 64  # longer side of the reduced image in which the head is searched, in pixels
_DARKEST = 8.0  # of 255: the margin of a JPEG is not quite black
_SHARE_OF_BRIGHT = 0.12  # threshold of air, as a share of the way from the margin to the 99th percentile
_LIFTED = 0.65  # upper quartile (of 1) above which air is not dark; an equalised histogram has 0.75
_RIM = 25  # percentile of the rim's values that is the margin's: margins may be grey, heads may touch the rim
_LEAST = 0.05  # smallest share of the image that is a head
_BESIDE = 0.2  # a part this large beside the largest belongs to the head; letters and scale bars are smaller
_PASSES = 2  # a second pass follows if the first cropped much, for its reduced image is finer
_FILLED = 0.85  # share of the longer side above which no second pass follows
_CROSS = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], np.uint8)

# Share of pixels above a lightness. Of 544 slices, all exceed it after equalisation, and one did before.
_LIGHT, _SHARE = 153, 0.3
# Quantiles of a slice around its head, from 0 to 1 in equal steps: means over 800 slices of the public training set of
# Masoud Nickparvar.
_USUAL = (0, 1, 2, 4, 9, 18, 32, 48, 62, 72, 79, 85, 91, 98, 111, 138, 241)


def head_box(image: Image.Image, box: Box) -> Box:
    """The part of `box`, in the image's pixels, that shows the head; all of it where none stands out.

    This is the crop that models get, so letters, rulers and margins must be outside. Near-duplicates are aligned by
    another box, see `duplicates.descriptors`.
    """
    for _ in range(_PASSES):
        found = _bright_box_in(image, box)
        if found is None or _side(found) > _FILLED * _side(box):
            return found or box
        box = found
    return box


def usual_tone(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The image itself, or, where its histogram was equalised, the image with the usual tones of a slice. uint8."""
    if np.count_nonzero(pixels > _LIGHT) <= _SHARE * pixels.size:
        return pixels
    shares = np.bincount(pixels.ravel(), minlength=256) / pixels.size
    place = np.cumsum(shares) - shares / 2
    values = np.interp(place, np.linspace(0, 1, len(_USUAL)), _USUAL)
    usual: NDArray[np.uint8] = values.round().astype(np.uint8)[pixels]
    return usual


def _bright_box_in(image: Image.Image, box: Box) -> Box | None:
    """The bright box in the part `box` of an image, from a reduced copy: as exact as one pixel of the copy."""
    left, top, right, bottom = box
    scale = _SIDE / _side(box)
    size = max(1, round((right - left) * scale)), max(1, round((bottom - top) * scale))
    small = image.resize(size, Image.Resampling.BOX, box=box).convert("L")
    found = bright_box(np.asarray(small))
    if found is None:
        return None
    across, down = (right - left) / size[0], (bottom - top) / size[1]
    # Rounding must not lead out of the box: Pillow refuses to resize what lies outside an image.
    right, bottom = min(right, left + found[2] * across), min(bottom, top + found[3] * down)
    return left + found[0] * across, top + found[1] * down, right, bottom


def _side(box: Box) -> float:
    """The longer side of a box."""
    return max(box[2] - box[0], box[3] - box[1])


def bright_box(luminance_HW: NDArray[np.uint8]) -> Box | None:
    """The box around the largest connected bright part and parts near its size; None without one.

    `luminance_HW` is about a hundred pixels wide. Works in OpenCV, which releases the GIL.
    """
    cv2 = opencv()
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
    parts = stats[1:]  # the first component is the background
    largest = parts[:, cv2.CC_STAT_AREA].max(initial=0)
    if largest < _LEAST * luminance_HW.size:
        return None
    parts = parts[parts[:, cv2.CC_STAT_AREA] >= _BESIDE * largest]
    height, width = luminance_HW.shape
    left, right = _span(parts[:, cv2.CC_STAT_LEFT], parts[:, cv2.CC_STAT_WIDTH], width)
    top, bottom = _span(parts[:, cv2.CC_STAT_TOP], parts[:, cv2.CC_STAT_HEIGHT], height)
    return left, top, right, bottom


@cache
def opencv() -> ModuleType:
    """OpenCV with one thread: for images this small, starting more takes longer than the work."""
    with importing_opencv:
        import cv2

    cv2.setNumThreads(1)
    return cv2


def _mean_of_nine(pixels_HW: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The mean of each pixel and its 8 neighbours, mirrored at the edge; each axis is rounded down separately."""
    cv2 = opencv()
    mean_HW = cv2.copyMakeBorder(pixels_HW, 1, 1, 1, 1, cv2.BORDER_REFLECT).astype(np.uint16)
    mean_HW = (mean_HW[:-2] + mean_HW[1:-1] + mean_HW[2:]) // 3
    mean_HW = (mean_HW[:, :-2] + mean_HW[:, 1:-1] + mean_HW[:, 2:]) // 3
    mean: NDArray[np.uint8] = mean_HW.astype(np.uint8)
    return mean


def _percentiles(pixels: NDArray[np.uint8], *shares: float) -> list[float]:
    """Percentiles as of `np.percentile`, from a histogram, in a tenth of its time."""
    up_to = np.bincount(pixels.ravel(), minlength=256).cumsum()
    found = []
    for share in shares:
        place = share / 100 * (pixels.size - 1)
        below, above = np.searchsorted(up_to, (int(place), min(int(place) + 1, pixels.size - 1)), side="right")
        found.append(float(below + (above - below) * (place % 1)))
    return found


def _span(first: NDArray[np.int32], length: NDArray[np.int32], size: int) -> tuple[float, float]:
    """First and last pixel of all parts, less the one by which smoothing widened them inside the frame."""
    start, end = int(first.min()), int((first + length).max())
    if end - start < 4:
        return start, end
    return start + (start > 0), end - (end < size)
