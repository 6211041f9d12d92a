"""Estimates the duration and the node hours of a run from a probe, which scores a small sample and measures the time.

Must not write anything, nor ask the cluster for its nodes: they are given.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from brainray.config import ScoreOptions
from brainray.inputs.reader import Reader
from brainray.machine.resources import Node, ScorePool

from .manifest import Shard, read_shard

if TYPE_CHECKING:
    from brainray.models.bundle import Bundle

# Largest relative error of the estimated duration in `tests/bench/speed/plan_error.py`: 5,547 to 44,376 images on the
# disk of one machine and in a nearby bucket.
ERROR = 0.25

# The sample.
_PROBE_IMAGES = 256
_SHARDS = 8  # shards that the sample is taken from
_WARM_IMAGES = 32  # images that are scored before the measurement

# Fitted to the measurements of `tests/bench/speed/plan_error.py`.
_BUSY_SPEED = 0.83  # speed of a core while the other cores are busy, relative to a core alone
_START_S = 8.0  # start of Ray and its workers, listing and summary


@dataclass(frozen=True, kw_only=True)
class ProbeTimes:
    """Seconds of an image on an otherwise idle machine."""

    read_s: float  # reading and decoding, on one core
    predict_s: float  # predicting, on one core or one GPU


@dataclass(frozen=True, kw_only=True)
class RunEstimate:
    """The estimated speed and duration of a run. `ERROR` was measured on CPUs of one machine only."""

    images_per_s: float
    seconds: float
    nodes: int

    @property
    def node_hours(self) -> float:
        """The time of all nodes together, which is what a cloud bills."""
        return self.nodes * self.seconds / 3600


def estimate(probe: ProbeTimes, images: int, *, nodes: Sequence[Node], pool: ScorePool) -> RunEstimate:
    """The estimate for this number of images on these nodes, as `pool` divides them."""
    cores = sum(max(1.0, node.cpus) for node in nodes if node.cpus > 0)
    if pool.on_gpu:
        rate = min(cores * _BUSY_SPEED / probe.read_s, pool.actors / probe.predict_s)
    else:
        busy = min(cores, pool.actors * pool.threads_per_actor)
        rate = busy * (_BUSY_SPEED if busy > 1 else 1.0) / (probe.read_s + probe.predict_s)
    working = sum(1 for node in nodes if node.cpus > 0)
    return RunEstimate(images_per_s=rate, seconds=_START_S + images / rate, nodes=working)


def probe(rows: pa.Table, bundle: "Bundle", options: ScoreOptions) -> ProbeTimes:
    """Measure reading, decoding and predicting the images of manifest rows. Imports torch."""
    from brainray.errors import excluded_reasons
    from brainray.models.predictor import Predictor, limit_threads

    from .shard import decode_shard

    limit_threads(1)
    reader = Reader(outage_share=1.0, most_bytes=options.max_file_bytes)
    predict = Predictor(bundle, batch_size=options.batch_size, precision=options.precision)
    excluding = excluded_reasons(all_series=options.all_series)
    predict(decode_shard(rows.slice(0, _WARM_IMAGES), bundle.image, reader=reader, excluding=excluding).images)
    began_s, cpu_began_s = time.perf_counter(), time.process_time()
    decoded = decode_shard(rows, bundle.image, reader=reader, excluding=excluding)
    read_s, cpu_s = time.perf_counter() - began_s, time.process_time() - cpu_began_s
    predict(decoded.images)
    predict_s = time.perf_counter() - began_s - read_s
    # CPU time counts where it is more: in a run the reading threads have no cores of their own.
    return ProbeTimes(read_s=max(read_s, cpu_s) / len(rows), predict_s=predict_s / max(1, len(decoded.images)))


def sample(shards: Sequence[Shard]) -> pa.Table:
    """Manifest rows for `probe`, the same number from each of a few shards that are spread evenly over the manifest."""
    places = np.unique(np.linspace(0, len(shards) - 1, min(_SHARDS, len(shards))).astype(int))
    each = math.ceil(_PROBE_IMAGES / len(places))
    tables = [read_shard(shards[place]) for place in places]
    return pa.concat_tables([table.slice(max(0, len(table) - each) // 2, each) for table in tables])
