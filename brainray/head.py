"""Where in a picture the head is, so that margins, and with them the scale, tell a model nothing.

Scanners, viewers and data sets leave margins of any width, and write on them. Knows pixels only.
"""

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

Box = tuple[float, float, float, float]  # left, top, right, bottom


def head_box(image: Image.Image, box: Box) -> Box:
    """The part of `box`, in the image's pixels, that shows the head; all of it where none stands out."""
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
    """Around the largest connected bright part, and parts near its size, of a picture some hundred pixels wide."""
    from scipy import ndimage

    smooth_HW = ndimage.uniform_filter(luminance_HW, 3)
    rim = np.concatenate([luminance_HW[0], luminance_HW[-1], luminance_HW[:, 0], luminance_HW[:, -1]])
    margin = np.percentile(rim, _RIM)
    upper, bright = np.percentile(smooth_HW, (75, 99))
    above = _SHARE_OF_BRIGHT * (bright - margin)
    least = margin + max(_DARKEST, above)
    if upper > _LIFTED * 255:
        import cv2

        least = max(least, cv2.threshold(smooth_HW, 0, 255, cv2.THRESH_OTSU)[0])
    part_HW, _ = ndimage.label(ndimage.binary_opening(smooth_HW > least))
    sizes = np.bincount(part_HW.ravel())
    sizes[0] = 0
    if sizes.max() < _LEAST * luminance_HW.size:
        return None
    kept_HW = (sizes >= _BESIDE * sizes.max())[part_HW]
    rows, columns = np.flatnonzero(kept_HW.any(1)), np.flatnonzero(kept_HW.any(0))
    height, width = luminance_HW.shape
    (left, right), (top, bottom) = _span(columns, width), _span(rows, height)
    return left, top, right, bottom


def _span(places: NDArray[np.intp], size: int) -> tuple[float, float]:
    """From the first to the last place; smoothing has widened what does not touch the frame by one on each side."""
    first, end = int(places[0]), int(places[-1]) + 1
    if end - first < 4:
        return first, end
    return first + (first > 0), end - (end < size)
