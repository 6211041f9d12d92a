"""What was done to a picture to make a copy of it, in words, from how the copy lies upon it and how its tones changed.

Words for people, no measurement: thumbnails of 96 pixels do not tell a crop of 1 % or a turn of 1 degree.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from .descriptors import THUMBNAIL_PX, Descriptors
from .registration import Registration, moved, register

Doubles = npt.NDArray[np.float64]

IDENTICAL, RECOMPRESSED = "identical", "recompressed"
JOINED = " + "
_TURN_DEG = 1.5  # less is within the error of a registration
_ZOOM, _STRETCH = 0.03, 0.04  # the box of the head differs by a pixel of 96 in copies
_UNSEEN = 0.06  # share of a frame that the other does not show; a turn by 5 degrees loses 4 % at the corners
_LEVELS = 6.0  # of 255, in the mean of what both show
_GAIN = 0.12  # of contrast
_LOCAL = 0.30  # share of the tones that no curve explains: JPEG and resizing leave 0.05 to 0.2
_FLAT = 0.2  # greatest distance of the tones from being equally frequent, after equalisation
_TONES = 16


def find_transforms(
    signatures: Descriptors, rows: npt.NDArray[np.integer[Any]]
) -> tuple[npt.NDArray[np.float32], pa.Array]:
    """For [M, 2] pictures and copies of them: similarity and words, NaN and null where they do not register."""
    found = [find_transform(signatures, original, copy) or (np.nan, None) for original, copy in rows.tolist()]
    return np.array([one[0] for one in found], np.float32), pa.array([one[1] for one in found], pa.string())


def find_transform(signatures: Descriptors, original: int, copy: int) -> tuple[float, str] | None:
    """Similarity of a copy to another picture, and what was done to that; None where they do not register."""
    if signatures.digest[original] == signatures.digest[copy]:
        return 1.0, IDENTICAL
    tried = [register(signatures, original, copy, mirrored=mirrored) for mirrored in (False, True)]
    best = max((found for found in tried if found), key=lambda found: found.similarity, default=None)
    return None if best is None else (best.similarity, describe(signatures, original, copy, best))


def describe(signatures: Descriptors, original: int, copy: int, found: Registration) -> str:
    """Such as "mirrored + resized + brighter"; "recompressed" where nothing can be seen."""
    frames = [_frame_to_thumbnail(signatures, row) for row in (original, copy)]
    inner = np.vstack([found.warp, [0, 0, 1]]).astype(np.float64)
    warp = np.linalg.inv(frames[1]) @ inner @ frames[0]
    words = [
        *_moves(warp[:2, :2]),
        *_crops(signatures, warp, original, copy),
        *_tones(signatures, original, copy, found),
    ]
    return JOINED.join(words) or RECOMPRESSED


def _frame_to_thumbnail(signatures: Descriptors, row: int) -> Doubles:
    """[3, 3] pixels of the image -> pixels of its thumbnail."""
    height, width = float(signatures.height[row]), float(signatures.width[row])
    left, top, right, bottom = (signatures.box[row].astype(np.float64) * (width, height, width, height)).tolist()
    x, y = THUMBNAIL_PX / (right - left), THUMBNAIL_PX / (bottom - top)
    return np.array([[x, 0, (0.5 - left) * x - 0.5], [0, y, (0.5 - top) * y - 0.5], [0, 0, 1]])


def _moves(linear: Doubles) -> list[str]:
    """Mirrored, turned, resized."""
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


def _crops(signatures: Descriptors, warp: Doubles, original: int, copy: int) -> list[str]:
    lost = 1 - _shown(warp, signatures, original, copy)
    added = 1 - _shown(np.linalg.inv(warp), signatures, copy, original)
    return ["cropped"] * (lost > _UNSEEN) + ["bordered"] * (added > _UNSEEN)


def _shown(warp: npt.NDArray[Any], signatures: Descriptors, here: int, there: int) -> float:
    """The share of one frame that lies within the other."""
    sides = [np.array([signatures.width[row], signatures.height[row]], np.float64) for row in (here, there)]
    grid = (np.stack(np.meshgrid(*[np.arange(32) + 0.5] * 2), axis=-1).reshape(-1, 2) / 32) * sides[0] - 0.5
    places = grid @ warp[:2, :2].T + warp[:2, 2]
    return float(((places > -0.5) & (places < sides[1] - 0.5)).all(axis=1).mean())


def _tones(signatures: Descriptors, original: int, copy: int, found: Registration) -> list[str]:
    """Brighter, darker, with another contrast, or equalised."""
    import cv2

    blurred = [cv2.GaussianBlur(signatures.thumbnail[row], (0, 0), 1.0).astype(np.float32) for row in (original, copy)]
    seen = moved(np.ones_like(blurred[0]), found.warp) > 0.99
    before, after = blurred[0][seen].astype(np.float64), moved(blurred[1], found.warp)[seen].astype(np.float64)
    evened = _unevenness(signatures.thumbnail[copy]) < _FLAT < _unevenness(signatures.thumbnail[original]) / 2
    if evened or _unexplained(before, after) > _LOCAL:
        return ["equalised"]
    change = float(after.mean() - before.mean())
    if abs(change) > _LEVELS:
        return ["brighter" if change > 0 else "darker"]
    gain = float(after.std() / (before.std() + 1e-6))
    return ["contrast"] if abs(np.log(gain + 1e-6)) > _GAIN else []


def _unexplained(before: npt.NDArray[Any], after: npt.NDArray[Any]) -> float:
    """The share of the tones that no curve explains: what was changed here otherwise than there, as CLAHE does."""
    edges = np.quantile(before, np.linspace(0, 1, _TONES + 1)[1:-1])
    tone = np.searchsorted(edges, before)
    count = np.maximum(np.bincount(tone, minlength=_TONES), 1)
    curve = np.bincount(tone, weights=after, minlength=_TONES) / count
    return float(np.std(after - curve[tone]) / (np.std(after) + 1e-6))


def _unevenness(thumbnail: npt.NDArray[np.uint8]) -> float:
    """The greatest distance of the distribution of tones from an even one over 0 to 255."""
    shares = np.cumsum(np.bincount(thumbnail.reshape(-1), minlength=256)) / thumbnail.size
    return float(np.abs(shares - np.arange(1, 257) / 256).max())
