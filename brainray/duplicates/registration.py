"""Registers two pictures by their descriptors: the affine warp from one to the other, and their similarity under it.

Matched keypoints give a first warp (shift, rotation, scale, mirroring), which is refined on the thumbnails; then the
fine structure is compared where both pictures have content. Must not read files, nor import Ray.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .descriptors import THUMBNAIL_PX, Descriptors, Doubles, Flags, Floats, Ints, Pixels

Blur = Callable[[Floats, tuple[int, int], float], Any]

# The first warp, from keypoints.
_SAME_POINT = 0.80  # least cosine similarity of the features of matched keypoints
# Largest distance of a keypoint from where the warp puts it, in thumbnail pixels: in the vote, and after the fit.
_NEAR_PX = (6.0, 4.0)
_ZOOM = (0.5, 2.0)  # least and largest scale between two thumbnails; both show the head, one of them may be cropped
# Fewest matched keypoints. Of copies that are equalised and cropped into the head, 9 in 10 have 8 or more.
_FEWEST_POINTS = 5

# The refinement (ECC).
_STEPS = (6, 20)  # most iterations at half size, where more change nothing, and at full size
# Least correlation at half size. 3 of 4 pairs that are not copies stay below; the lowest of 240 equalised copies is
# 0.79.
_LEAST_ROUGH_CORRELATION = 0.78

# The similarity.
_EDGE_PX = 2  # border of the thumbnail that is left out, because the blur lacks neighbours there
_LEAST_OVERLAP = 0.35  # share of the thumbnail that both show; cropping 15 % off each side leaves half
_FLOOR = 0.2  # of the local strength of detail, in standard deviations of the picture
_DETAIL_PX = 1.5  # sigma of the blur; detail finer than this is compared
_WINDOW_PX = 17  # side of the windows in which detail is correlated
_STRUCTURED = 0.15  # least variance of the detail in a window that is compared
_LEAST_STRUCTURE = 0.05  # least share of the thumbnail in such windows
_WORST_PERCENT = 10  # percentile of the windows' correlations that is the similarity


@dataclass(frozen=True, slots=True, eq=False)
class Registration:
    """The warp from a first picture to a second, and their similarity under it."""

    similarity: float  # of the fine structure, -1 to 1; copies from `search.SAME_PICTURE` on
    warp: Floats  # [2, 3] maps pixels of the first thumbnail to pixels of the second


def _mirrored_values() -> Ints:
    """[128] the permutation of a SIFT feature (4 rows, 4 columns, 8 directions) that mirrors its picture."""
    row, column, direction = np.meshgrid(np.arange(4), np.arange(4), np.arange(8), indexing="ij")
    return np.asarray((3 - row) * 32 + column * 8 + (8 - direction) % 8).reshape(-1)


MIRRORED = _mirrored_values()


def register(descriptors: Descriptors, first: int, second: int, *, mirrored: bool) -> Registration | None:
    """Register the pictures in these rows, the first mirrored or not; None where they have too little in common."""
    start = _warp_from_points(descriptors, first, second, mirrored=mirrored)
    if start is None:
        return None
    return _refine(descriptors.thumbnail[first], descriptors.thumbnail[second], start)


def _refine(first: Pixels, second: Pixels, start: Doubles) -> Registration | None:
    """Refine a rough warp at half size, where most pairs that are not copies are rejected, then at full size."""
    half = THUMBNAIL_PX // 2
    rough = _align(_coarse_structure(first, half), _coarse_structure(second, half), _scale_warp(start, 0.5), _STEPS[0])
    if rough is None or rough[0] < _LEAST_ROUGH_CORRELATION:
        return None
    full = _coarse_structure(first, THUMBNAIL_PX), _coarse_structure(second, THUMBNAIL_PX)
    fine = _align(*full, _scale_warp(rough[1], 2.0), _STEPS[1])
    return None if fine is None else Registration(similarity=_similarity(first, second, fine[1]), warp=fine[1])


def _coarse_structure(picture: Pixels, side_px: int) -> Floats:
    """[side, side] the structure coarse enough to align a picture by."""
    import cv2

    small = cv2.resize(picture, (side_px, side_px), interpolation=cv2.INTER_AREA)
    return _structure(np.asarray(small), _box_blur, side_px / 12)


def _scale_warp(warp: npt.NDArray[np.floating[Any]], by: float) -> Floats:
    """The warp for thumbnails of `by` times the size; coordinates count from the centre of the first pixel."""
    centre = (by - 1) / 2
    scaled = np.array(warp, np.float32, order="C")
    scaled[:, 2] = by * warp[:, 2] + centre * (1 - warp[:, :2].sum(axis=1))
    return scaled


def _align(first: Floats, second: Floats, start: Floats, steps: int) -> tuple[float, Floats] | None:
    """Correlation and affine warp after at most `steps` iterations of ECC; None where they do not converge.

    ECC: Evangelidis and Psarakis, PAMI 2008.
    """
    import cv2

    try:
        criteria = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, steps, 1e-3)
        correlation, warp = cv2.findTransformECC(first, second, start, cv2.MOTION_AFFINE, criteria, None, 3)  # type: ignore[call-overload]
    except cv2.error:
        return None
    return float(correlation), np.asarray(warp, np.float32)


def _warp_from_points(descriptors: Descriptors, first: int, second: int, *, mirrored: bool) -> Doubles | None:
    """[2, 3] the warp that most matched keypoints agree on; None for too few of them."""
    features = [descriptors.features[i][descriptors.points[i, :, 2] > 0] for i in (first, second)]
    points = [descriptors.points[i, : len(values)] for i, values in zip((first, second), features, strict=True)]
    if mirrored:
        features[0], points[0] = features[0][:, MIRRORED], _mirror_points(points[0])
    cosine = features[0].astype(np.float32) @ features[1].astype(np.float32).T / 255**2
    if min(cosine.shape) < _FEWEST_POINTS:
        return None
    nearest, back = cosine.argmax(axis=1), cosine.argmax(axis=0)
    rows = np.arange(len(nearest))
    matched = (back[nearest] == rows) & (cosine[rows, nearest] > _SAME_POINT)
    warp = _fit_warp(points[0][matched], points[1][nearest[matched]])
    if warp is not None and mirrored:
        warp = warp @ np.array([[-1, 0, THUMBNAIL_PX - 1], [0, 1, 0], [0, 0, 1.0]])
    return warp


def _mirror_points(points: Floats) -> Floats:
    """Keypoints [P, 4] as they lie in the mirrored thumbnail."""
    mirrored = points.copy()
    mirrored[:, 0] = THUMBNAIL_PX - 1 - points[:, 0]
    mirrored[:, 3] = (180 - points[:, 3]) % 360
    return mirrored


def _fit_warp(first: Floats, second: Floats) -> Doubles | None:
    """[2, 3] an affine warp from matched keypoints [P, 4]; None where too few agree.

    Each match, with its sizes and angles, gives a similarity transform. The affine warp is fitted by least squares to
    the matches that agree with the best supported of these transforms.
    """
    if len(first) < _FEWEST_POINTS:
        return None
    zoom, turn = second[:, 2] / first[:, 2], np.deg2rad(second[:, 3] - first[:, 3])
    offsets = (first[None, :, :2] - first[:, None, :2]) @ np.array([[1], [1j]])  # x + iy: a turn is a multiplication
    targets = second[:, :2] @ np.array([1, 1j])
    errors_px = np.abs((zoom * np.exp(1j * turn))[:, None] * offsets[:, :, 0] + targets[:, None] - targets[None])
    agree = (errors_px < _NEAR_PX[0]) & ((zoom > _ZOOM[0]) & (zoom < _ZOOM[1]))[:, None]
    inside = agree[agree.sum(axis=1).argmax()]
    from_, to = np.c_[first[:, :2], np.ones(len(first))].astype(np.float64), second[:, :2].astype(np.float64)
    warp = None
    for _ in range(2):
        if inside.sum() < _FEWEST_POINTS:
            return None
        warp = np.linalg.lstsq(from_[inside], to[inside], rcond=None)[0].T
        inside = np.hypot(*(from_ @ warp.T - to).T) < _NEAR_PX[1]
    return warp if inside.sum() >= _FEWEST_POINTS else None


def _similarity(first: Pixels, second: Pixels, warp: Floats) -> float:
    """The similarity of two thumbnails, -1 to 1: the tenth percentile of the correlations of detail in small windows.

    The low percentile counts because neighbouring slices share the skull and differ inside, while copies agree
    everywhere. Measured:

        pairs                                                number  similarity
        neighbouring slices of a public set, most similar      880   at most 0.44
        slices of a volume, 4 mm apart                         148   at most 0.31
        slices of a volume, 2 mm apart, resampled              182   0.56 or more for 4
        real copies, sharpened (the hardest kind)              400   0.56 or more for 99 %

    One correlation over the whole thumbnail separates them worse (neighbours reach 0.85, a tenth of the copies less),
    and so does detail of other sizes. 0 where the thumbnails overlap too little.
    """
    import cv2

    overlap = moved(np.ones_like(first, np.float32), warp) > 0.99
    overlap[:_EDGE_PX] = overlap[-_EDGE_PX:] = overlap[:, :_EDGE_PX] = overlap[:, -_EDGE_PX:] = False
    if overlap.mean() < _LEAST_OVERLAP:
        return 0.0
    first_detail = _structure(cv2.equalizeHist(first), cv2.GaussianBlur, _DETAIL_PX)
    second_detail = moved(_structure(cv2.equalizeHist(second), cv2.GaussianBlur, _DETAIL_PX), warp)
    return _local_correlation(first_detail, second_detail, overlap)


def _local_correlation(first: Floats, second: Floats, overlap: Flags) -> float:
    """The tenth percentile of the correlations in windows with enough structure; 0 where there are too few of those."""
    import cv2

    weight = overlap.astype(np.float32)
    share = np.maximum(cv2.blur(weight, (_WINDOW_PX, _WINDOW_PX)), 1e-6)

    def mean(values: Floats) -> Floats:
        return np.asarray(cv2.blur(values * weight, (_WINDOW_PX, _WINDOW_PX)) / share, np.float32)

    first_mean, second_mean = mean(first), mean(second)
    first_power, second_power = mean(first * first) - first_mean**2, mean(second * second) - second_mean**2
    structured = overlap & (np.maximum(first_power, second_power) > _STRUCTURED)
    if structured.mean() < _LEAST_STRUCTURE:
        return 0.0
    shared = (mean(first * second) - first_mean * second_mean)[structured]
    local = shared / np.sqrt(np.maximum(first_power[structured] * second_power[structured], 1e-6))
    return float(np.percentile(local, _WORST_PERCENT))


def _box_blur(values: Floats, _: tuple[int, int], sigma: float) -> Floats:
    """A box blur of the width of a Gaussian with this sigma; for 8 px it is four times as fast."""
    import cv2

    side = int(sigma * 12**0.5) | 1
    return np.asarray(cv2.blur(values, (side, side)), np.float32)


def _structure(picture: npt.NDArray[Any], blur: Blur, sigma: float) -> Floats:
    """The detail finer than `sigma` pixels, divided by its local strength; noise below `_FLOOR` stays weak."""
    values = picture.astype(np.float32)
    values /= values.std() + 1e-3
    detail = values - blur(values, (0, 0), sigma)
    return np.asarray(detail / (np.sqrt(blur(detail * detail, (0, 0), sigma)) + _FLOOR), np.float32)


def moved(picture: Floats, warp: Floats) -> Floats:
    """[96, 96] values of the second thumbnail resampled onto the first; 0 where the second has none."""
    import cv2

    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpAffine(picture, warp, (THUMBNAIL_PX, THUMBNAIL_PX), flags=flags), np.float32)
