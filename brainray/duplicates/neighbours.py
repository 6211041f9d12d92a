"""Finds pictures that look like neighbouring slices of one head, and joins them to groups: a guess at the patients.

1. A picture is described by gradients on a coarse grid, over its frame and over the head in it: what the skull looks
   like, and where it lies. The nearest pictures are searched for, as they are, mirrored and upside down.
2. Two pictures are linked where they are close for where they lie: their distance is compared with that to the seventh
   nearest of each (Zelnik-Manor and Perona, NIPS 2004). So a picture that is much like those of many heads is linked
   with none of them.
3. Links join groups, the closest first. Groups of several pictures need several links, so that no single wrong one
   chains heads together.

Names, numbers and labels of files are not used. Must not read files, nor import Ray or torch.
Shape suffixes: N pictures, F values of a description, C candidates.
"""

from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np

from .descriptors import FEATURE_VALUES, THUMBNAIL_PX, Descriptors, Doubles, Floats, Ints, Pixels

# Largest distance of two linked pictures, as a share of the typical one. Of 2,721 real pictures, without a limit:
#   LINKED                                              0.65    0.70    0.75
#   pairs in a group that are of one block of patients  98.9 %  98.1 %  95.7 %
#   pictures in a group with the slice next to them     90 %    93 %    95 %
LINKED = 0.70
# Largest distance of two linked pictures (0 to 1). Without a limit, right links are from 0.012 to 0.048 long (5th and
# 95th percentile), those among 195 pictures of hardly any two slices of one head from 0.036 to 0.077.
_MOST_DISTANCE = 0.06
SCALE = 7  # the distance to the seventh nearest picture is the typical one, as in the paper
SUPPORT = 3  # links between two groups that join them; as many as the smaller one has pictures where those are fewer
_NEAREST = 10  # pictures that one may be linked with

# The description: SIFT features of four parts of the frame and four parts of the head.
_SIDE_PX = 65  # odd, so that mirroring puts each part exactly where another was
_CENTRES_PX = (16, 48)
_PART_PX = 32  # side of a part
_BLUR_PX = 1.0  # sigma in the thumbnail
_PARTS = 8  # of the frame and of the head together
_VALUES = _PARTS * FEATURE_VALUES

_LEAST_DISTANCE = 1e-3  # typical distance of pictures that are all alike; slices of one head have 0.02

# The search (faiss).
_INDEXED_FROM = 10_000  # pictures; fewer are compared exhaustively
_REDUCED_VALUES = 64  # of the values of a description, by PCA
_LISTS_SEARCHED = 16  # inverted lists a query
_AT_ONCE = 128
_THREADS = 2


def propose_groups(descriptors: Descriptors, rows: Ints, known: Ints) -> Ints:
    """[N] for each of these rows the first place in `rows` of its proposed group.

    `rows` has one row for each picture. `known` [N] numbers what is known to belong together, such as the pictures of
    one patient; -1 where nothing is. Those are together, and no two of them are joined.
    """
    order = np.argsort(descriptors.digest[rows], kind="stable")  # the names of the files must not matter
    links = find_links(describe(descriptors, rows[order]))
    return join(order[links], known)


def describe(descriptors: Descriptors, rows: Ints) -> Pixels:
    """[N, F] the descriptions of the pictures in these rows; all 0 for a featureless one. Takes 1 ms a picture."""
    with ThreadPoolExecutor(_THREADS) as pool:
        values = list(pool.map(lambda row: _describe(descriptors, row), rows.tolist()))
    return np.array(values, np.uint8).reshape(len(rows), _VALUES)


def _describe(descriptors: Descriptors, row: int) -> Pixels:
    import cv2

    if descriptors.points[row, 0, 2] <= 0:
        return np.zeros(_VALUES, np.uint8)
    thumbnail = cv2.GaussianBlur(descriptors.thumbnail[row], (0, 0), _BLUR_PX)
    frame = cv2.warpAffine(thumbnail, _thumbnail_to_frame(descriptors, row), (_SIDE_PX, _SIDE_PX))
    head = cv2.resize(thumbnail, (_SIDE_PX, _SIDE_PX), interpolation=cv2.INTER_AREA)
    return np.concatenate([_gradients(np.asarray(each, np.uint8)) for each in (frame, head)])


def _thumbnail_to_frame(descriptors: Descriptors, row: int) -> Doubles:
    """[2, 3] the warp that puts a thumbnail where it lies in its frame, whose longer side fills the square."""
    height, width = float(descriptors.height[row]), float(descriptors.width[row])
    left, top, right, bottom = descriptors.box[row].tolist()
    zoom = _SIDE_PX / max(height, width)
    x, y = zoom * width * (right - left) / THUMBNAIL_PX, zoom * height * (bottom - top) / THUMBNAIL_PX
    return np.array(
        [
            [x, 0, (_SIDE_PX - zoom * width) / 2 + zoom * width * left],
            [0, y, (_SIDE_PX - zoom * height) / 2 + zoom * height * top],
        ]
    )


def _gradients(square: Pixels) -> Pixels:
    """[512] RootSIFT of the four parts of a square of `_SIDE_PX`, scaled to length 255 each."""
    _, values = _sift().compute(square, _parts())
    shares = values / np.maximum(values.sum(axis=1, keepdims=True), 1)
    return np.asarray(np.rint(np.sqrt(shares) * 255), np.uint8).reshape(-1)


@cache
def _sift() -> Any:  # noqa: ANN401
    import cv2

    return cv2.SIFT_create()  # type: ignore[attr-defined]


@cache
def _parts() -> tuple[Any, ...]:
    """The parts as keypoints; a SIFT feature covers six times the size of its keypoint."""
    import cv2

    return tuple(cv2.KeyPoint(x, y, _PART_PX / 6, 0.0) for y in _CENTRES_PX for x in _CENTRES_PX)


@cache
def _turned_values() -> Ints:
    """[4, F] the permutations of a description that turn its picture: none, upside down, left to right, both."""
    square, y, x, row, column, direction = np.meshgrid(*map(np.arange, (2, 2, 2, 4, 4, 8)), indexing="ij")

    def places(*at: Any) -> Ints:  # noqa: ANN401
        return np.asarray(np.ravel_multi_index((square, *at), (2, 2, 2, 4, 4, 8)).reshape(-1), np.int64)

    down = places(1 - y, x, 3 - row, column, (8 - direction) % 8)
    across = places(y, 1 - x, row, 3 - column, (4 - direction) % 8)
    return np.stack([np.arange(_VALUES), down, across, down[across]])


def find_links(descriptions: Pixels) -> Ints:
    """[L, 2] pairs of descriptions [N, F] that are close for where they lie, closest first.

    There are none among `SCALE` pictures or fewer: what is typical cannot be told from so few.
    """
    rows = np.flatnonzero(descriptions.any(axis=1))
    if len(rows) <= SCALE:
        return np.zeros((0, 2), np.int64)
    near_NC, distance_NC = _nearest(descriptions[rows])
    typical_N = np.sqrt(np.maximum(distance_NC[:, SCALE - 1], _LEAST_DISTANCE))
    relative_NC = distance_NC / (typical_N[:, None] * typical_N[near_NC])
    relative = np.where(distance_NC <= _MOST_DISTANCE, relative_NC, np.inf).reshape(-1)
    picture = np.repeat(np.arange(len(rows)), near_NC.shape[1])
    ends = np.sort(np.stack([picture, near_NC.reshape(-1)], axis=1), axis=1)
    order = np.lexsort((ends[:, 1], ends[:, 0], relative))
    ends = ends[order[relative[order] <= LINKED]]
    _, first = np.unique(ends, axis=0, return_index=True)
    return np.asarray(rows[ends[np.sort(first)]], np.int64)


def _nearest(descriptions: Pixels) -> tuple[Ints, Floats]:
    """[N, C] the nearest other pictures in any orientation, nearest first, and their distances (0 to 1).

    Where the index finds fewer, any picture follows, at an infinite distance.
    """
    index, wanted = _build_index(descriptions), min(_NEAREST, len(descriptions) - 1)
    near, distance = [], []
    for start in range(0, len(descriptions), _AT_ONCE):
        own_B = np.arange(start, min(start + _AT_ONCE, len(descriptions)))
        turned_B4F = _unit(descriptions[own_B][:, _turned_values()])
        found = [index.search(np.ascontiguousarray(turned_B4F[:, way]), wanted + 1)[1] for way in range(4)]
        found_BC = np.sort(np.concatenate(found, axis=1), axis=1)
        alike_BC4 = _unit(descriptions[found_BC]) @ turned_B4F.transpose(0, 2, 1)
        distance_BC = 1 - alike_BC4.max(axis=2)
        repeated_BC = np.diff(found_BC, axis=1, prepend=-1) == 0
        distance_BC[repeated_BC | (found_BC < 0) | (found_BC == own_B[:, None])] = np.inf
        order_BC = np.argsort(distance_BC, axis=1, kind="stable")[:, :wanted]
        near.append(np.take_along_axis(found_BC, order_BC, axis=1))
        distance.append(np.take_along_axis(distance_BC, order_BC, axis=1))
    return np.concatenate(near).astype(np.int64), np.concatenate(distance).astype(np.float32)


def _build_index(descriptions: Pixels) -> Any:  # noqa: ANN401
    """A faiss index of the descriptions: exact for few, else inverted lists of 8-bit codes."""
    import faiss

    count = len(descriptions)
    index: Any
    if count < _INDEXED_FROM:
        index = faiss.IndexFlatL2(_VALUES)
    else:
        lists = int(np.clip(count // 200, 16, 16_384))
        index = faiss.index_factory(_VALUES, f"PCA{_REDUCED_VALUES},IVF{lists},SQ8")
        # The seed is fixed, so that every run proposes the same groups.
        index.train(_unit(descriptions[np.random.default_rng(0).permutation(count)[: lists * 50]]))
        faiss.extract_index_ivf(index).nprobe = _LISTS_SEARCHED
    for start in range(0, count, _AT_ONCE):
        index.add(_unit(descriptions[start : start + _AT_ONCE]))
    return index


def _unit(descriptions: Pixels) -> Floats:
    """Descriptions as vectors of length 1."""
    return descriptions.astype(np.float32) / np.float32(255 * _PARTS**0.5)


def join(links: Ints, known: Ints) -> Ints:
    """[N] for each picture the first of its group, by links [L, 2], closest first; `known` as in `propose_groups`."""
    group = _first_places(np.where(known < 0, len(known) + np.arange(len(known)), known)).tolist()
    is_known = {group[picture] for picture in np.flatnonzero(known >= 0)}
    members, linked = defaultdict[int, list[int]](list), defaultdict[int, list[int]](list)
    for picture, its_group in enumerate(group):
        members[its_group].append(picture)
    for one, other in links.tolist():
        linked[one].append(other)
        linked[other].append(one)
    for ends in links.tolist():
        small, large = sorted((group[end] for end in ends), key=lambda each: (len(members[each]), each))
        if small == large or {small, large} <= is_known:
            continue
        across = sum(group[other] == large for picture in members[small] for other in linked[picture])
        if across >= min(SUPPORT, len(members[small])):
            for picture in members[small]:
                group[picture] = large
            members[large] += members.pop(small)
            is_known |= {large} if small in is_known else set()
    return _first_places(np.array(group, np.int64))


def _first_places(values: Ints) -> Ints:
    """[N] for each value the place of the first equal one."""
    _, first, number = np.unique(values, return_index=True, return_inverse=True)
    return np.asarray(first[number], np.int64)
