"""The rows that each Ray Train worker is sent: its share of a data set, cut where the rows lie.

Ray Data's own ways are to send every worker the whole (`Dataset.iterator`) or equally many rows, with the rest dropped
(`streaming_split`). Here a block is cut into one piece a worker on the node that holds it, so that each row travels
once. Tasks take no processor, for Ray Train's workers have taken all of them by then.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import ray
from ray.data import Dataset
from ray.data.block import BlockAccessor
from ray.experimental import get_object_locations
from ray.train import DataConfig
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from brainray.training.decoded import Rows, share_rows, take_rows

_CUTS_AT_ONCE = 8  # a task with no processor is not held back by Ray: each would have a process of its own
_FETCHED_TOGETHER = 16  # pieces

Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True, eq=False)
class SplitSide:
    """The rows of one side of a split, and the column whose numbers the workers share out."""

    positions: Array  # in the training set, ascending
    pictures: Array  # of each position, numbered from 0 without a gap
    by: Literal["picture", "position"]

    @classmethod
    def of(cls, positions: Array, pictures: Array, *, by: Literal["picture", "position"]) -> Self:
        """`pictures` may have any numbers."""
        return cls(positions=positions, pictures=np.unique(pictures, return_inverse=True)[1], by=by)

    def shares(self, workers: int) -> int:
        """How many shares the workers have: where there are fewer pictures than workers, some have the same one."""
        return min(workers, len(np.unique(self.pictures))) or 1 if self.by == "picture" else workers


@dataclass(frozen=True, kw_only=True)
class Share:
    """One worker's rows, in pieces that lie in Ray's object store. Stands in for Ray's `DataIterator`."""

    pieces: tuple["ray.ObjectRef[Rows]", ...]

    def iter_batches(self) -> Iterator[Rows]:
        """One batch a piece; some have no rows."""
        for start in range(0, len(self.pieces), _FETCHED_TOGETHER):
            yield from ray.get(list(self.pieces[start : start + _FETCHED_TOGETHER]))


class ShareConfig(DataConfig):
    """Gives each rank its share of every data set. Ray Train asks again whenever the number of workers has changed."""

    def __init__(self, sides: dict[str, SplitSide]) -> None:
        super().__init__()
        self._sides = sides

    def configure(  # type: ignore[override]  # a share is no DataIterator
        self, datasets: dict[str, Dataset], world_size: int, *args: object, **kwargs: object
    ) -> list[dict[str, Share]]:
        shares = {name: share_out(dataset, self._sides[name], world_size) for name, dataset in datasets.items()}
        return [{name: shares[name][rank] for name in datasets} for rank in range(world_size)]


def share_out(decoded: Dataset, side: SplitSide, workers: int) -> list[Share]:
    """A share for each worker of the rows of a side. The data set must be materialised."""
    count = side.shares(workers)
    cuts = _cut_all(decoded, side, count) if len(side.positions) else []
    return [Share(pieces=tuple(cut[rank % count] for cut in cuts)) for rank in range(workers)]


def _cut_all(decoded: Dataset, side: SplitSide, shares: int) -> list[list["ray.ObjectRef[Rows]"]]:
    """For each block its pieces, one a share."""
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
    """On this node, or on another where it is gone. Small blocks are on none: they travel with the task."""
    return NodeAffinitySchedulingStrategy(node, soft=True) if node else "DEFAULT"


def _cut(block: pa.Table, side: SplitSide, shares: int) -> Any:  # noqa: ANN401  a task of one result gives it bare
    """The rows of a side in this block, in one piece a share."""
    batch: Any = BlockAccessor.for_block(block).to_batch_format("numpy")
    rows = take_rows(batch, side.positions, side.pictures)
    pieces = [share_rows(rows, side.by, (rank, shares)) for rank in range(shares)]
    return pieces if shares > 1 else pieces[0]
