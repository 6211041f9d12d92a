"""Counts by group, of as many groups as there are: a run may have one for each patient of a country.

`Counts` has a grid for each group, 1.7 kB with four classes, of which an image fills some ten cells. Here only cells
that hold something are kept, in arrays without a Python object for a group: 200,000 groups of five images take 60 MB.
A few groups at a time become `Counts`, which the figures are computed from; their `histogram`, which is of a whole run,
is empty. Axes: G groups, N rows, C cells.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Unpack

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .counts import Counts, Ints, RowArrays, additions, field_shapes

_PIECE = 1 << 18  # cells that are added up at once: sorting takes ten times the memory of what is sorted


@dataclass(frozen=True, kw_only=True, eq=False)
class GroupCounts:
    """The counts of some rows by group; the sum over the groups is that of `count_rows`."""

    names: pa.Array  # [G] distinct and rising
    places: Ints  # [C] rising: group * width + the place in the fields of `Counts`, one after the other
    values: Ints  # [C] not 0
    classes: int

    @property
    def width(self) -> int:
        """The cells of a group in `Counts`."""
        return sum(math.prod(shape) for shape in field_shapes(self.classes).values())

    def without(self, others: "GroupCounts") -> "GroupCounts":
        """The counts of these rows less `others`, which are some of them."""
        return total([self, replace(others, values=-others.values)])

    def renamed(self, names: pa.Array | pa.ChunkedArray) -> "GroupCounts":
        """The counts with the group at each place named anew; groups of one name are added up."""
        found, group_G = _ranked(names)
        places, values = _added_up(self._moved(group_G), self.values)
        return GroupCounts(names=found, places=places, values=values, classes=self.classes)

    def _moved(self, group_G: Ints) -> Ints:
        """[C] the places of the cells where each group has another place."""
        return group_G[self.places // self.width] * self.width + self.places % self.width

    def take(self, groups: Ints) -> Counts:
        """The counts of the groups at some places, in that order."""
        starts = np.searchsorted(self.places, groups * self.width)
        lengths = np.searchsorted(self.places, (groups + 1) * self.width) - starts
        rows = np.repeat(np.arange(len(groups)), lengths)
        cells = np.arange(len(rows)) - np.repeat(np.cumsum(lengths) - lengths, lengths) + np.repeat(starts, lengths)
        grid = np.zeros((len(groups), self.width), np.int64)
        grid[rows, self.places[cells] % self.width] = self.values[cells]
        fields, start = {}, 0
        for name, shape in field_shapes(self.classes).items():
            stop = start + math.prod(shape)
            fields[name] = grid[:, start:stop].reshape(len(groups), *shape)
            start = stop
        return Counts(groups=tuple(self.names.take(pa.array(groups)).to_pylist()), **fields)

    def chunks(self, order: Ints | None = None, *, most_cells: int = 1 << 21) -> Iterator[Ints]:
        """The places of the groups, or of those of `order`: a few at a time, whose `Counts` are 16 MB."""
        order = np.arange(len(self.names)) if order is None else order
        size = max(1, most_cells // self.width)
        for start in range(0, len(order), size):
            yield order[start : start + size]


def count_by_group(names: pa.Array | pa.ChunkedArray, **rows: Unpack[RowArrays]) -> GroupCounts:
    """Count N rows by the names of their groups."""
    found, group_N = _ranked(names)
    classes = rows["probs_NK"].shape[1]
    shapes = field_shapes(classes)
    sizes = [math.prod(shape) for shape in shapes.values()]
    starts = dict(zip(shapes, np.cumsum([0, *sizes[:-1]]).tolist(), strict=True))
    width, places, values = sum(sizes), [], []
    for name, (group, *index), addend in additions(group_N, rows):
        if name == "histogram":
            continue
        inside = np.ravel_multi_index(tuple(index), shapes[name]) if index else 0
        places.append(group * width + starts[name] + inside)
        values.append(np.ones(len(group), np.int64) if addend is None else addend)
    place_C, value_C = _added_up(np.concatenate(places), np.concatenate(values))
    return GroupCounts(names=found, places=place_C, values=value_C, classes=classes)


def total(parts: Sequence[GroupCounts]) -> GroupCounts:
    """The sum of one or more."""
    found, rank = _ranked(pa.chunked_array([part.names for part in parts]))
    ends = np.cumsum([len(part.names) for part in parts])
    group_of = [rank[end - len(part.names) : end] for part, end in zip(parts, ends, strict=True)]
    places = [part._moved(of) for part, of in zip(parts, group_of, strict=True)]  # rising, as names are
    pieces = 1 + sum(map(len, places)) // _PIECE
    edges = np.linspace(0, len(found), pieces + 1).astype(np.int64) * parts[0].width
    cuts = [np.searchsorted(own, edges) for own in places]
    added = []
    for k in range(pieces):
        own = [slice(cut[k], cut[k + 1]) for cut in cuts]
        piece = [place[rows] for place, rows in zip(places, own, strict=True)]
        values = [part.values[rows] for part, rows in zip(parts, own, strict=True)]
        added.append(_added_up(np.concatenate(piece), np.concatenate(values)))
    place_C, value_C = (np.concatenate(column) for column in zip(*added, strict=True))
    return GroupCounts(names=found, places=place_C, values=value_C, classes=parts[0].classes)


def _ranked(names: pa.Array | pa.ChunkedArray) -> tuple[pa.Array, Ints]:
    """The distinct names, rising, and the place of each name among them."""
    encoded = names.combine_chunks() if isinstance(names, pa.ChunkedArray) else names
    encoded = encoded.dictionary_encode()
    order = pc.sort_indices(encoded.dictionary)
    rank = np.empty(len(order), np.int64)
    rank[order.to_numpy()] = np.arange(len(order))
    return encoded.dictionary.take(order), rank[encoded.indices.to_numpy(zero_copy_only=False)]


def _added_up(place_C: Ints, value_C: Ints) -> tuple[Ints, Ints]:
    """Cells in order; values of one cell are added up, and cells of 0 left out."""
    order = np.argsort(place_C, kind="stable")  # which merges what is in order already
    places, values = place_C[order], value_C[order]
    starts = np.flatnonzero(np.diff(places, prepend=-1))
    sums = np.add.reduceat(values, starts) if len(starts) else values
    kept = sums != 0
    return places[starts[kept]], sums[kept]
