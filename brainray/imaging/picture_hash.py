"""A perceptual hash of a fitted picture: copies of another size, format or compression have nearly the same bits.

A bit is the sign of one of the lowest frequencies of the picture, as in pHash, after the head is brought to one place
and size by its moments: the crop that a model gets moves by a pixel from copy to copy, and signs with it. A window
lets the middle count most, where neighbouring slices differ and crops do not. Knows pixels only. Axes: N images,
H and W of the reduced picture, B bytes.
"""

from functools import cache

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

HASH_BYTES = 24
_REDUCED = 64  # side of the picture whose moments are computed, in pixels
_ALIGNED = 32  # side of the picture that is transformed
_SPAN = 4.4  # its sides, in standard deviations of the brightness along each
_AIR = 12  # grey level (0 to 255) up to which a pixel weighs nothing
_AT_ONCE = 64  # pictures, so that all of them stay in the cache of a core
_LEAST = 1.0  # mean weight and spread, in grey levels, below which a picture shows nothing and has no hash


def hash_pictures(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """[N, B] the hashes of images [N, H, W] or [N, H, W, 3]; all zeros for a picture that shows nothing."""
    parts = [_hash_some(images[start : start + _AT_ONCE]) for start in range(0, len(images), _AT_ONCE)]
    return np.concatenate([np.zeros((0, HASH_BYTES), np.uint8), *parts])


def mirrored(hash_NB: NDArray[np.uint8], *, across: bool, down: bool) -> NDArray[np.uint8]:
    """The hashes of the mirror images: left to right, upside down, or both, which is a turn by 180 degrees.

    Mirroring changes the sign of each frequency that has an odd number of half waves in that direction.
    """
    vertical, horizontal = np.divmod(_lowest_first(), _ALIGNED)
    flips = (horizontal * across + vertical * down) % 2
    return hash_NB ^ np.packbits(flips.astype(bool))


def _hash_some(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    from .normalise import opencv  # imports Pillow, which who only compares hashes need not wait for

    cv2 = opencv()
    reduced_NHW = np.zeros((len(images), _REDUCED, _REDUCED), np.float32)
    for number, image in enumerate(images):
        reduced = cv2.resize(image, (_REDUCED, _REDUCED), interpolation=cv2.INTER_AREA)
        reduced_NHW[number] = reduced if reduced.ndim == 2 else reduced.mean(axis=2)
    weight_NHW = np.maximum(reduced_NHW - _AIR, 0)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    aligned_NHW = np.zeros((len(images), _ALIGNED, _ALIGNED), np.float32)
    for number, warp in enumerate(_warps(weight_NHW)):
        aligned_NHW[number] = cv2.warpAffine(reduced_NHW[number], warp, (_ALIGNED, _ALIGNED), flags=flags)
    hashes = np.packbits(_lowest_frequencies(aligned_NHW) > 0, axis=1)
    shows = np.minimum(weight_NHW.mean(axis=(1, 2)), reduced_NHW.std(axis=(1, 2))) >= _LEAST
    hashes[~shows] = 0
    return hashes


def _warps(weight_NHW: Floats) -> NDArray[np.float32]:
    """[N, 2, 3] the matrices that map pixels of the aligned picture to those of the reduced one."""
    places = np.arange(_REDUCED) + 0.5
    warps = np.zeros((len(weight_NHW), 2, 3), np.float32)
    for axis, across in enumerate((1, 2)):  # x has the sums of columns, y those of rows
        sums = weight_NHW.sum(axis=across) + 1e-6
        shares = sums / sums.sum(axis=1, keepdims=True)
        centre = shares @ places
        spread = np.sqrt((shares * (places - centre[:, None]) ** 2).sum(axis=1))
        step = _SPAN * spread / _ALIGNED
        warps[:, axis, axis] = step
        warps[:, axis, 2] = centre - _SPAN / 2 * spread + step / 2 - 0.5
    return warps


def _lowest_frequencies(aligned_NHW: Floats) -> Floats:
    """[N, bits] the cosine transform of the windowed pictures, the lowest frequencies but the mean."""
    basis, window = _cosines(), _window()
    mean = (aligned_NHW * window).sum(axis=(1, 2), keepdims=True) / window.sum()
    frequencies = basis @ ((aligned_NHW - mean) * window) @ basis.T
    lowest: Floats = frequencies.reshape(len(aligned_NHW), -1)[:, _lowest_first()]
    return lowest


@cache
def _window() -> Floats:
    """[H, W] Hann's, 1 in the middle and 0 at the rim."""
    places = (np.arange(_ALIGNED) + 0.5) / _ALIGNED
    hann = np.sin(np.pi * places) ** 2
    return np.outer(hann, hann).astype(np.float32)


@cache
def _cosines() -> Floats:
    """[frequency, place] the basis of the discrete cosine transform."""
    places = np.arange(_ALIGNED)
    return np.cos(np.pi * (2 * places[None] + 1) * places[:, None] / (2 * _ALIGNED)).astype(np.float32)


@cache
def _lowest_first() -> NDArray[np.int64]:
    """The places of the frequencies in the transform, as many as a hash has bits."""
    down, right = np.divmod(np.arange(_ALIGNED**2), _ALIGNED)
    return np.lexsort((down, down**2 + right**2))[1 : 1 + 8 * HASH_BYTES]
