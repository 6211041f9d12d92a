"""Names the transforms that made a copy from a picture, such as "mirrored + resized", from their registration.

The words are for people and must not be taken for measurements: thumbnails of 96 px do not show a crop of 1 % or a
turn of 1 degree.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from .descriptors import THUMBNAIL_PX, Descriptors, Doubles, Floats, Pixels
from .registration import Registration, moved, register

IDENTICAL = "identical"
JOINED = " + "  # between the words of one copy
_RECOMPRESSED = "recompressed"

# A transform is named from these changes on.
_TURN_DEG = 1.5  # smaller turns are within the error of a registration
_ZOOM = 0.03  # of size, as a logarithm; the box of the head differs by 1 px of 96 between copies
_STRETCH = 0.04  # of the aspect ratio, as a logarithm; for the same reason
_HIDDEN = 0.06  # share of one frame outside the other; a turn by 5 degrees hides 4 % at the corners
_LEVELS = 6.0  # of the mean grey level (0 to 255) where both frames have content
_GAIN = 0.12  # of contrast, as a logarithm

# Equalisation.
_UNEXPLAINED = 0.30  # share of the tones that no tone curve explains; JPEG and resizing leave 0.05 to 0.2
_EVEN = 0.2  # largest distance of an equalised histogram from an even one
_TONES = 16  # steps of the fitted tone curve


def find_transforms(descriptors: Descriptors, rows: npt.NDArray[np.integer[Any]]) -> tuple[Floats, pa.Array]:
    """[M] similarities and words for rows [M, 2] of pictures and their copies; NaN and null for no registration."""
    found = [find_transform(descriptors, original, copy) or (np.nan, None) for original, copy in rows.tolist()]
    return np.array([each[0] for each in found], np.float32), pa.array([each[1] for each in found], pa.string())


def find_transform(descriptors: Descriptors, original: int, copy: int) -> tuple[float, str] | None:
    """The similarity of a copy to its original, and the transforms in words; None where they do not register."""
    if descriptors.digest[original] == descriptors.digest[copy]:
        return 1.0, IDENTICAL
    both = [register(descriptors, original, copy, mirrored=mirrored) for mirrored in (False, True)]
    best = max((each for each in both if each), key=lambda each: each.similarity, default=None)
    return None if best is None else (best.similarity, _describe(descriptors, original, copy, best))


def _describe(descriptors: Descriptors, original: int, copy: int, registration: Registration) -> str:
    """Words such as "mirrored + resized + brighter"; "recompressed" where no change is large enough to name."""
    frames = [_frame_to_thumbnail(descriptors, row) for row in (original, copy)]
    inner = np.vstack([registration.warp, [0, 0, 1]]).astype(np.float64)
    warp: Doubles = np.linalg.inv(frames[1]) @ inner @ frames[0]
    words = [
        *_geometry_words(warp[:2, :2]),
        *_crop_words(descriptors, warp, original, copy),
        *_tone_words(descriptors, original, copy, registration),
    ]
    return JOINED.join(words) or _RECOMPRESSED


def _frame_to_thumbnail(descriptors: Descriptors, row: int) -> Doubles:
    """[3, 3] the matrix that maps pixels of an image to pixels of its thumbnail."""
    height, width = float(descriptors.height[row]), float(descriptors.width[row])
    left, top, right, bottom = (descriptors.box[row].astype(np.float64) * (width, height, width, height)).tolist()
    x, y = THUMBNAIL_PX / (right - left), THUMBNAIL_PX / (bottom - top)
    return np.array([[x, 0, (0.5 - left) * x - 0.5], [0, y, (0.5 - top) * y - 0.5], [0, 0, 1]])


def _geometry_words(linear: Doubles) -> list[str]:
    """Mirrored, turned, resized, stretched: the words for the linear part [2, 2] of a warp between frames."""
    words = []
    if np.linalg.det(linear) < 0:
        words.append("mirrored")
        linear = linear @ np.diag([-1.0, 1.0])
    angle = np.degrees(np.arctan2(linear[1, 0] - linear[0, 1], linear[0, 0] + linear[1, 1]))
    quarter = round(angle / 90) * 90
    if quarter % 360:
        words.append(f"turned {quarter % 360}")
    if abs(angle - quarter) > _TURN_DEG:
        words.append("turned a little")
    wide, high = np.hypot(*linear)
    if abs(np.log(wide * high) / 2) > _ZOOM:
        words.append("resized")
    if abs(np.log(wide / high)) > _STRETCH:
        words.append("stretched")
    return words


def _crop_words(descriptors: Descriptors, warp: Doubles, original: int, copy: int) -> list[str]:
    """Cropped, bordered."""
    lost = 1 - _share_inside(warp, descriptors, original, copy)
    added = 1 - _share_inside(np.asarray(np.linalg.inv(warp), np.float64), descriptors, copy, original)
    return ["cropped"] * (lost > _HIDDEN) + ["bordered"] * (added > _HIDDEN)


def _share_inside(warp: Doubles, descriptors: Descriptors, first: int, second: int) -> float:
    """The share of the first frame that the warp maps into the second, on a grid of 32 x 32."""
    sides = [np.array([descriptors.width[row], descriptors.height[row]], np.float64) for row in (first, second)]
    grid = (np.stack(np.meshgrid(*[np.arange(32) + 0.5] * 2), axis=-1).reshape(-1, 2) / 32) * sides[0] - 0.5
    places = grid @ warp[:2, :2].T + warp[:2, 2]
    return float(((places > -0.5) & (places < sides[1] - 0.5)).all(axis=1).mean())


def _tone_words(descriptors: Descriptors, original: int, copy: int, registration: Registration) -> list[str]:
    """Equalised, brighter, darker, contrast: one of them at most."""
    import cv2

    blurred = [cv2.GaussianBlur(descriptors.thumbnail[row], (0, 0), 1.0).astype(np.float32) for row in (original, copy)]
    overlap = moved(np.ones_like(blurred[0]), registration.warp) > 0.99
    before = blurred[0][overlap].astype(np.float64)
    after = moved(blurred[1], registration.warp)[overlap].astype(np.float64)
    evened = _unevenness(descriptors.thumbnail[copy]) < _EVEN < _unevenness(descriptors.thumbnail[original]) / 2
    if evened or _unexplained_share(before, after) > _UNEXPLAINED:
        return ["equalised"]
    change = float(after.mean() - before.mean())
    if abs(change) > _LEVELS:
        return ["brighter" if change > 0 else "darker"]
    gain = float(after.std() / (before.std() + 1e-6))
    return ["contrast"] if abs(np.log(gain + 1e-6)) > _GAIN else []


def _unexplained_share(before: Doubles, after: Doubles) -> float:
    """The share of the spread of tones that no tone curve explains; a local equalisation (CLAHE) leaves much."""
    edges = np.quantile(before, np.linspace(0, 1, _TONES + 1)[1:-1])
    tone = np.searchsorted(edges, before)
    count = np.maximum(np.bincount(tone, minlength=_TONES), 1)
    curve = np.bincount(tone, weights=after, minlength=_TONES) / count
    return float(np.std(after - curve[tone]) / (np.std(after) + 1e-6))


def _unevenness(thumbnail: Pixels) -> float:
    """The largest distance (0 to 1) of the cumulative histogram from that of evenly spread tones, as Kolmogorov's."""
    shares = np.cumsum(np.bincount(thumbnail.reshape(-1), minlength=256)) / thumbnail.size
    return float(np.abs(shares - np.arange(1, 257) / 256).max())
