"""Cuts the decoded data set into one share for each Ray Train worker, on the nodes that hold the rows.

Ray Data itself sends every worker all rows (`Dataset.iterator`), or equally many with the rest dropped
(`streaming_split`). Here each block is cut into one piece for each worker on the node that holds it, so that a row is
sent once. The tasks must not request processors, because Ray Train's workers hold all of them by then.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
import pyarrow as pa
import ray
from ray.data import Dataset
from ray.data.block import BlockAccessor
from ray.experimental import get_object_locations
from ray.train import DataConfig
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from brainray.training.decoded import Array, Rows, share_rows, take_rows

_CUTS_AT_ONCE = 8  # Ray starts tasks without processors all at once, each in a process of its own
_FETCHED_TOGETHER = 16  # pieces in one call of ray.get


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


@dataclass(frozen=True, kw_only=True)
class Share:
    """One worker's rows, in pieces in Ray's object store. Replaces Ray's `DataIterator`."""

    pieces: tuple["ray.ObjectRef[Rows]", ...]

    def iter_batches(self) -> Iterator[Rows]:
        """Fetch the pieces and yield each as a batch; some have no rows."""
        for start in range(0, len(self.pieces), _FETCHED_TOGETHER):
            yield from ray.get(list(self.pieces[start : start + _FETCHED_TOGETHER]))


class ShareConfig(DataConfig):
    """Gives each rank its share of every data set. Ray Train calls it again when the number of workers changes."""

    def __init__(self, sides: dict[str, SplitSide]) -> None:
        super().__init__()
        self._sides = sides

    def configure(  # type: ignore[override]  # a share is no DataIterator
        self, datasets: dict[str, Dataset], world_size: int, *args: object, **kwargs: object
    ) -> list[dict[str, Share]]:
        shares = {name: share_out(dataset, self._sides[name], world_size) for name, dataset in datasets.items()}
        return [{name: shares[name][rank] for name in datasets} for rank in range(world_size)]


def share_out(decoded: Dataset, side: SplitSide, workers: int) -> list[Share]:
    """Divide the rows of a side into a share for each worker. The data set must be materialised."""
    count = side.shares(workers)
    cuts = _cut_all(decoded, side, count) if len(side.positions) else []
    return [Share(pieces=tuple(cut[rank % count] for cut in cuts)) for rank in range(workers)]


def _cut_all(decoded: Dataset, side: SplitSide, shares: int) -> list[list["ray.ObjectRef[Rows]"]]:
    """Cut every block; returns for each block its pieces, one for each share."""
    blocks, held = decoded.to_arrow_refs(), ray.put(side)
    locations = get_object_locations(blocks)
    cut: Any = ray.remote(_cut)
    cuts, running = [], deque[Any]()
    for block in blocks:
        nodes = locations.get(block, {}).get("node_ids") or [None]
        options = {"num_cpus": 0, "num_returns": shares, "scheduling_strategy": _on(nodes[0])}
        pieces = cut.options(**options).remote(block, held, shares)
        cuts.append(pieces if shares > 1 else [pieces])
        running.append(cuts[-1][0])
        if len(running) > _CUTS_AT_ONCE:
            ray.wait([running.popleft()], fetch_local=False)
    return cuts


def _on(node: str | None) -> Any:  # noqa: ANN401
    """Schedule on this node, or on another where it is gone. Small blocks have no node: they are sent with the task."""
    return NodeAffinitySchedulingStrategy(node, soft=True) if node else "DEFAULT"


def _cut(block: pa.Table, side: SplitSide, shares: int) -> Any:  # noqa: ANN401  a task of one result gives it bare
    """Cut the rows of a side out of a block, one piece for each share."""
    batch: Any = BlockAccessor.for_block(block).to_batch_format("numpy")
    rows = take_rows(batch, side.positions, side.pictures)
    pieces = [share_rows(rows, side.by, (rank, shares)) for rank in range(shares)]
    return pieces if shares > 1 else pieces[0]
