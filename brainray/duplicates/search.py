"""Signatures -> which pictures are copies of each other: candidates, their verification, groups. Knows no Ray.

Equal pixels are grouped first, and one image of each picture is searched for. Its points look for their like, as they
are and mirrored; the images that most of them lead to are laid upon it, and those that fit are copies. Groups are the
connected parts of what was found. No step looks at all pairs: a million pictures take an index of 3 GB, 2 GB for
24 million candidates, and so many registrations of half a millisecond; their signatures may lie on disk.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .descriptors import FEATURE_VALUES, POINTS, Descriptors, Pixels
from .registration import MIRRORED, register

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]

SAME_PICTURE = 0.56  # least similarity of two copies; `registration` says what it was measured on
CANDIDATES = 24  # at most, that a picture is compared with for itself; more may come to it from the other side
_LEAST_VOTE = 0.45  # of a candidate; 99 % of the copies that are hardest to see get more
_NEARBY = 8  # points that one may vote for
_LOOSE = 0.75  # similarity of two points from which on one votes for the other
_REDUCED = 64  # of 128 values, which find the same candidates in half the time
_INDEXED_FROM = 8_000  # points; fewer are compared with all others
_LISTS_SEARCHED = 4  # 8 find 0.5 % more of the hardest copies in twice the time
_IMAGES_AT_ONCE = 256
_PAIRS_AT_ONCE = 2048
_THREADS = 2


@dataclass(frozen=True, eq=False, kw_only=True)
class Pairs:
    """M pairs of pictures, by their rows."""

    rows: Ints  # [M, 2]
    mirrored: npt.NDArray[np.bool_]
    score: Floats  # votes of a candidate, similarity of a copy

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, which: npt.NDArray[Any]) -> "Pairs":
        return Pairs(rows=self.rows[which], mirrored=self.mirrored[which], score=self.score[which])


Verify = Callable[[Descriptors, Pairs], Floats]


def similarities(signatures: Descriptors, pairs: Pairs, *, threads: int = _THREADS) -> Floats:
    """How alike the pictures of each pair are, 0 where they have too little in common; in this process."""

    def one(row: int) -> float:
        first, second = pairs.rows[row].tolist()
        found = register(signatures, first, second, mirrored=bool(pairs.mirrored[row]))
        return found.similarity if found else 0.0

    with ThreadPoolExecutor(threads) as pool:
        return np.fromiter(pool.map(one, range(len(pairs))), np.float32, len(pairs))


def find_copies(signatures: Descriptors, *, verify: Verify = similarities) -> Pairs:
    """Verified pairs that connect every group but for pixel for pixel copies, which `group_copies` knows by itself.

    For 5,547 images, of which half are copies, 40 s on 2 cores.
    """
    found: list[Pairs] = []
    group = np.arange(len(signatures))
    candidates = find_candidates(signatures, distinct_rows(signatures))
    at_once = max(_PAIRS_AT_ONCE, len(candidates) // 256)
    for start in range(0, len(candidates), at_once):
        some = candidates.take(np.arange(start, min(start + at_once, len(candidates))))
        # What is connected already is not looked at again: 10,000 variants of one picture cost 10,000 registrations
        # and some, not 24 times as many.
        some = some.take(group[some.rows[:, 0]] != group[some.rows[:, 1]])
        score = verify(signatures, some)
        copies = Pairs(rows=some.rows, mirrored=some.mirrored, score=score).take(score >= SAME_PICTURE)
        if len(copies):
            found.append(copies)
            links = np.concatenate([np.stack([group, np.arange(len(group))], axis=1), copies.rows])
            group = connected(len(group), links)
    return _joined(found)


def group_copies(signatures: Descriptors, pairs: Pairs) -> Ints:
    """For each picture the first of its group: those with equal pixels, and what the pairs connect.

    What could not be read (an empty digest) is alone.
    """
    _, first, same = np.unique(signatures.digest, return_index=True, return_inverse=True)
    equal = np.stack([first[same], np.arange(len(signatures))], axis=1)
    return connected(len(signatures), np.concatenate([equal[signatures.digest != b""], pairs.rows]))


def connected(count: int, links: Ints) -> Ints:
    """For each of `count` things the first of those it is linked with, directly or not; `links` is [M, 2]."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    matrix = coo_array((np.ones(len(links), np.int8), (links[:, 0], links[:, 1])), shape=(count, count))
    _, part = connected_components(matrix, directed=False)
    _, first = np.unique(part, return_index=True)
    return np.asarray(first[part], np.int64)


def distinct_rows(signatures: Descriptors) -> Ints:
    """A row of each picture that shows something, by digest: the order does not depend on that of the images."""
    _, first = np.unique(signatures.digest, return_index=True)
    return np.asarray(first[signatures.shows_something[first]], np.int64)


def find_candidates(signatures: Descriptors, rows: Ints) -> Pairs:
    """Pairs among these rows that may be copies, the most promising first."""
    present = signatures.points[rows, :, 2] > 0
    found = _joined(list(_votes(signatures.features, rows, present)))
    ends = np.sort(found.rows, axis=1)
    # Places among the rows until here, which decide ties: the result does not depend on the order of the images.
    order = np.lexsort((ends[:, 1], ends[:, 0], -found.score))
    ends, found = ends[order], found.take(order)
    _, first = np.unique(ends[:, 0] * max(len(rows), 1) + ends[:, 1], return_index=True)
    first.sort()
    return Pairs(rows=rows[ends[first]], mirrored=found.mirrored[first], score=found.score[first])


def _votes(features: Pixels, rows: Ints, present: npt.NDArray[np.bool_]) -> Iterator[Pairs]:
    """Each point votes for the images of the points most like it, as it is and mirrored."""
    owner = np.repeat(np.arange(len(rows), dtype=np.int32), present.sum(axis=1))
    if not len(owner):
        return
    index = _index(features, rows, present)
    for start in range(0, len(rows), _IMAGES_AT_ONCE):
        chosen = present[start : start + _IMAGES_AT_ONCE]
        points = features[rows[start : start + _IMAGES_AT_ONCE]][chosen]
        image = start + np.repeat(np.arange(len(chosen)), chosen.sum(axis=1))
        for mirrored in (False, True):
            asked = points[:, MIRRORED] if mirrored else points
            distance, hit = index.search(_unit(asked), _NEARBY + 1)
            weight = np.where(hit < 0, 0, 1 - distance / 2 - _LOOSE)
            yield _counted(image, owner[hit].astype(np.int64), weight, len(rows), mirrored=mirrored)


def _index(features: Pixels, rows: Ints, present: npt.NDArray[np.bool_]) -> Any:  # noqa: ANN401
    """Of all points, by squared distance: exact where they are few, else in lists of some hundred, a byte a value."""
    import faiss

    points = int(present.sum())
    index: Any
    if points < _INDEXED_FROM:
        index = faiss.IndexFlatL2(FEATURE_VALUES)
    else:
        lists = int(np.clip(points // 400, 16, 65_536))
        index = faiss.index_factory(FEATURE_VALUES, f"PCA{_REDUCED},IVF{lists},SQ8")
        index.train(_sample(features, rows, present, lists * 50))
        faiss.extract_index_ivf(index).nprobe = _LISTS_SEARCHED
    for start in range(0, len(rows), _IMAGES_AT_ONCE):
        some = slice(start, start + _IMAGES_AT_ONCE)
        index.add(_unit(features[rows[some]][present[some]]))
    return index


def _sample(features: Pixels, rows: Ints, present: npt.NDArray[np.bool_], points: int) -> Floats:
    """Features to learn the index from; with one seed, so that a run finds what the last one found."""
    some = np.random.default_rng(0).permutation(len(rows))[: -(-points // POINTS) + 1]
    some.sort()
    return _unit(features[rows[some]][present[some]])


def _unit(features: Pixels) -> Floats:
    return features.astype(np.float32) / np.float32(255)


def _counted(image: Ints, voted_for: Ints, weight: Floats, count: int, *, mirrored: bool) -> Pairs:
    """The best candidates of each image. A point has one vote for an image: that of the nearest point there."""
    valid = (weight > 0) & (voted_for != image[:, None])
    point, _ = np.nonzero(valid)
    other, strength = voted_for[valid], weight[valid]
    _, first = np.unique(point * count + other, return_index=True)
    ballots, place = np.unique(image[point[first]] * count + other[first], return_inverse=True)
    votes = np.bincount(place, weights=strength[first], minlength=len(ballots))
    rows = np.stack([ballots // count, ballots % count], axis=1)
    order = np.lexsort((rows[:, 1], -votes, rows[:, 0]))
    rank = np.arange(len(order)) - np.searchsorted(rows[order, 0], rows[order, 0])
    best = order[(rank < CANDIDATES) & (votes[order] >= _LEAST_VOTE)]
    return Pairs(rows=rows[best], mirrored=np.full(len(best), mirrored), score=votes[best].astype(np.float32))


def _joined(parts: list[Pairs]) -> Pairs:
    """One after another; none is fine too."""
    nothing = Pairs(rows=np.zeros((0, 2), np.int64), mirrored=np.zeros(0, bool), score=np.zeros(0, np.float32))
    return Pairs(
        rows=np.concatenate([part.rows for part in (nothing, *parts)]),
        mirrored=np.concatenate([part.mirrored for part in (nothing, *parts)]),
        score=np.concatenate([part.score for part in (nothing, *parts)]),
    )
