"""The sample of a run whose images get features, by which its archive is compared with what the model knows.

An image is in the sample where the hash of its bytes is among the lowest: the same images every night, in whatever
order they are listed, from whatever folder, and however often a run is stopped. Workers know only their shard, so they
take all hashes below a limit that leaves a few too many; the summary keeps the lowest `SAMPLE`. Images are drawn, not
whole groups: 1,000 images of 800 patients say more of an archive than those of 20, and a group may be of any size.
The features lie in the rows, so that they are written, kept and replaced with them.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from .prediction_schema import FEATURES

Encode = Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.float32]]  # images -> [N, F], see `models.encoder`

SAMPLE = 1_000  # images
# Times the sample: 1,150 images are expected, with a standard deviation of 34, so chance never leaves too few.
_SPARE = 1.15
_DIGITS = 13  # of the hash in hexadecimal: 52 bits, which a float holds


def hash_limit(images: int, sample: int | None = None) -> float:
    """The share of all hashes, 0 to 1, from which a sample of a run of this many images is taken; None: `SAMPLE`."""
    return min(1.0, _SPARE * (SAMPLE if sample is None else sample) / max(1, images))


def hash_places(content_hash: pa.ChunkedArray) -> npt.NDArray[np.float64]:
    """[N] the place of each hash among all, 0 to 1; 2 where there is none."""
    heads = pc.utf8_slice_codeunits(content_hash, 0, _DIGITS).to_pylist()
    return np.array([2.0 if head is None else int(head, 16) / 16**_DIGITS for head in heads], np.float64)


def sample_features(
    content_hash: pa.ChunkedArray, images: npt.NDArray[np.uint8], limit: float, encode: Encode | None
) -> pa.Array:
    """[M] the features of the images below the limit, rounded to fp16 as those of a reference; null for the others."""
    chosen = hash_places(content_hash) < limit
    if encode is None or not chosen.any():
        return pa.nulls(len(images), FEATURES)
    features_SF = encode(images[chosen]).astype(np.float16).astype(np.float32)
    values = pa.ListArray.from_arrays(
        np.arange(len(features_SF) + 1, dtype=np.int32) * features_SF.shape[1], pa.array(features_SF.ravel())
    ).cast(FEATURES)
    return values.take(pa.array(np.cumsum(chosen) - 1, mask=~chosen))
