"""Runs an audit on Ray: Ray Data decodes images to descriptors, tasks compare candidate pairs.

Must not decide which pictures are copies: that is in `brainray.duplicates`.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import ray

from brainray.duplicates.descriptors import Descriptors
from brainray.duplicates.groups import READABLE, describe_rows_apart
from brainray.duplicates.search import Pairs, similarities
from brainray.duplicates.transforms import find_transforms
from brainray.inputs.frames.below import PLACE_SCHEMA

from .session import own_errors, quiet_data

Array = npt.NDArray[Any]
_IMAGES_A_TASK = 256  # takes some seconds, yields 4 MB of descriptors
_PAIRS_A_TASK = 256  # takes a quarter of a second, is sent up to 8 MB
_WAITING = 2  # tasks submitted at a time for each processor


class RayAudit:
    """Runs the expensive steps of an audit on Ray. `cpus` is the number of processors of the cluster.

    Medical images are left out by the reasons of `excluding`.
    """

    def __init__(self, cpus: int, excluding: tuple[str, ...]) -> None:
        self._excluding = excluding
        self._max_running = max(2, _WAITING * cpus)
        self._cpus_per_task = 1.0 if cpus > 1 else 0.5  # on one processor Ray Data's own tasks need some of it

    def read(self, images: pa.Table, signatures: Descriptors) -> Array:
        """Decode images and fill in their descriptors; returns a code [N] for each: why it cannot be read, or -1."""
        quiet_data()
        errors = np.full(len(images), READABLE, np.int8)
        table = images.select(["uri", *PLACE_SCHEMA.names]).append_column("position", pa.array(np.arange(len(images))))
        slices = [table.slice(start, _IMAGES_A_TASK) for start in range(0, len(table), _IMAGES_A_TASK)]
        dataset = ray.data.from_blocks(slices).map_batches(
            describe_rows_apart,
            fn_kwargs={"excluding": self._excluding},
            batch_size=None,
            batch_format="pyarrow",
            num_cpus=self._cpus_per_task,
        )
        batches: Any = dataset.iter_batches(batch_size=None)
        with own_errors():
            for batch in batches:
                errors[batch["position"]] = batch["error"]
                signatures.put(batch["position"], Descriptors.from_columns(batch))
        return errors

    def verify(self, signatures: Descriptors, pairs: Pairs) -> npt.NDArray[np.float32]:
        """Compute the similarity of each pair; returns [M]."""
        parts = [np.zeros(0, np.float32)]

        def task(start: int) -> Any:  # noqa: ANN401
            batch = pairs.take(np.arange(start, min(start + _PAIRS_A_TASK, len(pairs))))
            rows, places = np.unique(batch.rows, return_inverse=True)
            within = Pairs(rows=places.reshape(-1, 2), mirrored=batch.mirrored, score=batch.score)
            return _verify.remote(signatures.take(rows), within)

        return np.concatenate(parts + list(self._in_order(task, len(pairs))))

    def describe(self, signatures: Descriptors, rows: Array) -> tuple[Array, pa.Array]:
        """Describe the transform between each picture and its copy, rows [M, 2].

        Returns similarities [M], NaN where a pair does not register, and transforms in words [M].
        """

        def task(start: int) -> Any:  # noqa: ANN401
            pictures, places = np.unique(rows[start : start + _PAIRS_A_TASK], return_inverse=True)
            return _describe.remote(signatures.take(pictures), places.reshape(-1, 2))

        parts = [(np.zeros(0, np.float32), pa.array([], pa.string())), *self._in_order(task, len(rows))]
        return np.concatenate([part[0] for part in parts]), pa.concat_arrays([part[1] for part in parts])

    def _in_order(self, task: Callable[[int], Any], count: int) -> Iterator[Any]:
        """Submit a task for each batch and yield the results in order, with a limited number running ahead."""
        starts = range(0, count, _PAIRS_A_TASK)
        ahead: list[Any] = []
        for start in starts:
            ahead.append(task(start))
            if len(ahead) == self._max_running:
                yield _result(ahead.pop(0))
        yield from map(_result, ahead)


def _result(reference: Any) -> Any:  # noqa: ANN401
    with own_errors():
        return ray.get(reference)


@ray.remote(num_cpus=1)
def _verify(signatures: Descriptors, pairs: Pairs) -> npt.NDArray[np.float32]:
    return similarities(signatures, pairs, threads=1)


@ray.remote(num_cpus=1)
def _describe(signatures: Descriptors, rows: Array) -> tuple[Array, pa.Array]:
    return find_transforms(signatures, rows)
