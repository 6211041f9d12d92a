"""Each Ray Train worker's share of the decoded data set, which it takes from the nodes that hold the rows.

Ray Data itself sends every worker all rows (`Dataset.iterator`), or equally many with the rest dropped
(`streaming_split`). Here a worker reads the blocks on its own node in shared memory, and asks each other node for its
piece of the blocks there, so that a row is sent once. The tasks that cut these pieces must not request processors,
because Ray Train's workers hold all of them by then.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
import pyarrow as pa
import ray
from ray.data import Dataset
from ray.data.block import BlockAccessor
from ray.experimental import get_object_locations
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from brainray.training.decoded import Array, Rows, share_rows, take_rows

_CUTS_AT_ONCE = 8  # of all workers; Ray starts tasks without processors all at once, each in a process of its own


@dataclass(frozen=True, kw_only=True, eq=False)
class SplitSide:
    """The rows of one side of a split, and the column by whose numbers they are divided among the workers."""

    positions: Array  # in the training set, ascending
    pictures: Array  # of each position, numbered from 0 without a gap
    by: Literal["picture", "position"]

    @classmethod
    def of(cls, positions: Array, pictures: Array, *, by: Literal["picture", "position"]) -> Self:
        """Make a side whose pictures are renumbered from 0 without a gap."""
        return cls(positions=positions, pictures=np.unique(pictures, return_inverse=True)[1], by=by)

    def shares(self, workers: int) -> int:
        """Number of different shares: with fewer pictures than workers, several workers get the same share."""
        return min(workers, len(np.unique(self.pictures))) or 1 if self.by == "picture" else workers


@dataclass(frozen=True, kw_only=True, eq=False)
class Shares:
    """The decoded rows as blocks in Ray's object store, and which of them belong to which side of the split."""

    blocks: tuple["ray.ObjectRef[pa.Table]", ...]
    sides: dict[str, SplitSide]

    @classmethod
    def of(cls, decoded: Dataset, sides: dict[str, SplitSide]) -> Self:
        """Make the shares of a data set, which must be materialised."""
        return cls(blocks=tuple(decoded.to_arrow_refs()), sides=sides)

    def rows(self, name: str, *, rank: int, workers: int) -> Iterator[Rows]:
        """Take one worker's share of a side, a batch a block; some have no rows."""
        side = self.sides[name]
        if not len(side.positions):
            return
        shares = side.shares(workers)
        share = (rank % shares, shares)
        here, elsewhere = _by_place(self.blocks)
        yield from _cut_elsewhere(elsewhere, side, share, at_once=max(_CUTS_AT_ONCE // workers, 1))
        for block in here:
            yield _cut(ray.get(block), side, share)


def _by_place(blocks: Sequence[Any]) -> tuple[list[Any], list[tuple[Any, str]]]:
    """The blocks on this node, and those elsewhere with a node that holds each.

    Blocks that have no node are taken to be here: small ones, and those that were spilled.
    """
    own_node, locations = ray.get_runtime_context().get_node_id(), get_object_locations(list(blocks))
    here, elsewhere = [], []
    for block in blocks:
        nodes = locations.get(block, {}).get("node_ids") or [own_node]
        if own_node in nodes:
            here.append(block)
        else:
            elsewhere.append((block, nodes[0]))
    return here, elsewhere


def _cut_elsewhere(
    blocks: list[tuple[Any, str]], side: SplitSide, share: tuple[int, int], *, at_once: int
) -> Iterator[Rows]:
    """Have each block cut on its node, or on another where that is gone."""
    cut: Any = ray.remote(_cut)
    held, running = ray.put(side) if blocks else None, deque[Any]()
    for block, node in blocks:
        if len(running) == at_once:
            yield ray.get(running.popleft())
        there = NodeAffinitySchedulingStrategy(node, soft=True)
        running.append(cut.options(num_cpus=0, scheduling_strategy=there).remote(block, held, share))
    while running:
        yield ray.get(running.popleft())


def _cut(block: pa.Table, side: SplitSide, share: tuple[int, int]) -> Rows:
    """Cut the rows of a share (rank, shares) of a side out of a block."""
    batch: Any = BlockAccessor.for_block(block).to_batch_format("numpy")
    return share_rows(take_rows(batch, side.positions, side.pictures), side.by, share)
