"""Finds copies among N pictures by their descriptors: candidates, verification of each pair, groups.

1. Images with equal pixels are grouped; one image of each picture is searched for.
2. Its keypoints, as they are and mirrored, vote for the pictures with the most similar keypoints: the candidates.
3. Each candidate is registered with the picture; pairs from a similarity of `SAME_PICTURE` on are copies.
4. Groups are the connected components of these pairs.

No step compares all pairs. A million pictures take an index of 3 GB, 2 GB for 24 million candidates, and as many
registrations of 0.5 ms each; their descriptors may be memory-mapped. Must not import Ray.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .descriptors import FEATURE_VALUES, POINTS, Descriptors, Flags, Floats, Ints, Pixels
from .registration import MIRRORED, register

SAME_PICTURE = 0.56  # least similarity of two copies; `registration._similarity` has the measurements
# Most candidates of a picture. A pair counts for one of its two, so a picture may be compared with more.
CANDIDATES = 24
_LEAST_VOTES = 0.45  # votes that make a candidate; 99 % of the hardest copies get more
_NEIGHBOURS = 8  # nearest keypoints that a keypoint may vote for
_LEAST_FEATURE_SIMILARITY = 0.75  # of two keypoints, from which on one votes for the other

# The index of keypoints (faiss).
_REDUCED_VALUES = 64  # of the 128 of a feature, by PCA: finds the same candidates in half the time
_INDEXED_FROM = 8_000  # keypoints; fewer are compared exhaustively
_LISTS_SEARCHED = 4  # inverted lists a query; 8 find 0.5 % more of the hardest copies in twice the time

_IMAGES_AT_ONCE = 256
_PAIRS_AT_ONCE = 2048
_THREADS = 2


@dataclass(frozen=True, eq=False, kw_only=True)
class Pairs:
    """M pairs of pictures, given by their rows in the descriptors."""

    rows: Ints  # [M, 2]
    mirrored: Flags  # [M] whether one is to be mirrored
    score: Floats  # [M] votes of candidates, similarity of verified copies

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, which: npt.NDArray[Any]) -> "Pairs":
        """The pairs that an index or mask chooses."""
        return Pairs(rows=self.rows[which], mirrored=self.mirrored[which], score=self.score[which])


Verify = Callable[[Descriptors, Pairs], Floats]  # the similarity of each pair, [M]


def similarities(descriptors: Descriptors, pairs: Pairs, *, threads: int = _THREADS) -> Floats:
    """[M] the similarity of each pair, 0 where its pictures do not register; runs in threads of this process."""

    def similarity(row: int) -> float:
        first, second = pairs.rows[row].tolist()
        registration = register(descriptors, first, second, mirrored=bool(pairs.mirrored[row]))
        return registration.similarity if registration else 0.0

    with ThreadPoolExecutor(threads) as pool:
        return np.fromiter(pool.map(similarity, range(len(pairs))), np.float32, len(pairs))


def find_copies(descriptors: Descriptors, *, verify: Verify = similarities) -> Pairs:
    """Verified pairs of copies, enough to connect each group; `group_copies` adds the images with equal pixels.

    Takes 40 s on 2 cores for 5,547 images of which half are copies.
    """
    found: list[Pairs] = []
    group = np.arange(len(descriptors))
    candidates = find_candidates(descriptors, distinct_rows(descriptors))
    at_once = max(_PAIRS_AT_ONCE, len(candidates) // 256)
    for start in range(0, len(candidates), at_once):
        chunk = candidates.take(np.arange(start, min(start + at_once, len(candidates))))
        # Pairs that are connected already are not verified: 10,000 variants of one picture cost little more than
        # 10,000 registrations, not 24 times as many.
        chunk = chunk.take(group[chunk.rows[:, 0]] != group[chunk.rows[:, 1]])
        similarity = verify(descriptors, chunk)
        copies = Pairs(rows=chunk.rows, mirrored=chunk.mirrored, score=similarity).take(similarity >= SAME_PICTURE)
        if len(copies):
            found.append(copies)
            links = np.concatenate([np.stack([group, np.arange(len(group))], axis=1), copies.rows])
            group = connected(len(group), links)
    return _concatenate(found)


def group_copies(descriptors: Descriptors, pairs: Pairs) -> Ints:
    """[N] for each image the row of the first of its group: images with equal pixels, or connected by `pairs`.

    An image that could not be read (an empty digest) is a group of its own.
    """
    _, first, same = np.unique(descriptors.digest, return_index=True, return_inverse=True)
    equal = np.stack([first[same], np.arange(len(descriptors))], axis=1)
    return connected(len(descriptors), np.concatenate([equal[descriptors.digest != b""], pairs.rows]))


def connected(count: int, links: Ints) -> Ints:
    """[count] for each node the first node of its connected component; `links` is [M, 2]."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    matrix = coo_array((np.ones(len(links), np.int8), (links[:, 0], links[:, 1])), shape=(count, count))
    _, component = connected_components(matrix, directed=False)
    _, first = np.unique(component, return_index=True)
    return np.asarray(first[component], np.int64)


def distinct_rows(descriptors: Descriptors) -> Ints:
    """One row of each picture that is not featureless, sorted by digest: the order of the images does not matter."""
    _, first = np.unique(descriptors.digest, return_index=True)
    return np.asarray(first[descriptors.shows_something[first]], np.int64)


def find_candidates(descriptors: Descriptors, rows: Ints) -> Pairs:
    """Pairs among these rows that may be copies, those with the most votes first."""
    present = descriptors.points[rows, :, 2] > 0
    found = _concatenate(list(_votes(descriptors.features, rows, present)))
    ends = np.sort(found.rows, axis=1)
    # Ties are decided by the place in `rows`, so that the result does not depend on the order of the images.
    order = np.lexsort((ends[:, 1], ends[:, 0], -found.score))
    ends, found = ends[order], found.take(order)
    _, first = np.unique(ends[:, 0] * max(len(rows), 1) + ends[:, 1], return_index=True)
    first.sort()
    return Pairs(rows=rows[ends[first]], mirrored=found.mirrored[first], score=found.score[first])


def _votes(features: Pixels, rows: Ints, present: Flags) -> Iterator[Pairs]:
    """Each keypoint, as it is and mirrored, votes for the images of the keypoints nearest to it.

    `present` [R, K] marks the rows of `features` that hold a keypoint. The pairs count places in `rows`.
    """
    owner = np.repeat(np.arange(len(rows), dtype=np.int32), present.sum(axis=1))
    if not len(owner):
        return
    index = _build_index(features, rows, present)
    for start in range(0, len(rows), _IMAGES_AT_ONCE):
        chosen = present[start : start + _IMAGES_AT_ONCE]
        points = features[rows[start : start + _IMAGES_AT_ONCE]][chosen]
        image = start + np.repeat(np.arange(len(chosen)), chosen.sum(axis=1))
        for mirrored in (False, True):
            queries = points[:, MIRRORED] if mirrored else points
            distance, hit = index.search(_unit(queries), _NEIGHBOURS + 1)
            weight = np.where(hit < 0, 0, 1 - distance / 2 - _LEAST_FEATURE_SIMILARITY)
            yield _best_candidates(image, owner[hit].astype(np.int64), weight, len(rows), mirrored=mirrored)


def _build_index(features: Pixels, rows: Ints, present: Flags) -> Any:  # noqa: ANN401
    """A faiss index of all keypoints by squared distance: exact for few, else inverted lists of 8-bit codes."""
    import faiss

    points = int(present.sum())
    index: Any
    if points < _INDEXED_FROM:
        index = faiss.IndexFlatL2(FEATURE_VALUES)
    else:
        lists = int(np.clip(points // 400, 16, 65_536))
        index = faiss.index_factory(FEATURE_VALUES, f"PCA{_REDUCED_VALUES},IVF{lists},SQ8")
        index.train(_training_sample(features, rows, present, lists * 50))
        faiss.extract_index_ivf(index).nprobe = _LISTS_SEARCHED
    for start in range(0, len(rows), _IMAGES_AT_ONCE):
        chunk = slice(start, start + _IMAGES_AT_ONCE)
        index.add(_unit(features[rows[chunk]][present[chunk]]))
    return index


def _training_sample(features: Pixels, rows: Ints, present: Flags, points: int) -> Floats:
    """About `points` features to train the index on; the seed is fixed, so that every run finds the same copies."""
    chosen = np.random.default_rng(0).permutation(len(rows))[: -(-points // POINTS) + 1]
    chosen.sort()
    return _unit(features[rows[chosen]][present[chosen]])


def _unit(features: Pixels) -> Floats:
    """Features as vectors of length 1."""
    return features.astype(np.float32) / np.float32(255)


def _best_candidates(image: Ints, voted_for: Ints, weight: Floats, count: int, *, mirrored: bool) -> Pairs:
    """The candidates of each image with the most votes, at most `CANDIDATES`.

    `image` [P] is the image of each keypoint; `voted_for` and `weight` [P, neighbours] are the images of its nearest
    keypoints and the weights of its votes. A keypoint has one vote for an image, through its nearest keypoint there.
    """
    valid = (weight > 0) & (voted_for != image[:, None])
    point, _ = np.nonzero(valid)
    other, strength = voted_for[valid], weight[valid]
    _, first = np.unique(point * count + other, return_index=True)
    pairs, place = np.unique(image[point[first]] * count + other[first], return_inverse=True)
    votes = np.bincount(place, weights=strength[first], minlength=len(pairs))
    rows = np.stack([pairs // count, pairs % count], axis=1)
    order = np.lexsort((rows[:, 1], -votes, rows[:, 0]))
    rank = np.arange(len(order)) - np.searchsorted(rows[order, 0], rows[order, 0])
    best = order[(rank < CANDIDATES) & (votes[order] >= _LEAST_VOTES)]
    return Pairs(rows=rows[best], mirrored=np.full(len(best), mirrored), score=votes[best].astype(np.float32))


def _concatenate(parts: list[Pairs]) -> Pairs:
    """The pairs of all parts in order; none for no parts."""
    none = Pairs(rows=np.zeros((0, 2), np.int64), mirrored=np.zeros(0, bool), score=np.zeros(0, np.float32))
    return Pairs(
        rows=np.concatenate([part.rows for part in (none, *parts)]),
        mirrored=np.concatenate([part.mirrored for part in (none, *parts)]),
        score=np.concatenate([part.score for part in (none, *parts)]),
    )
