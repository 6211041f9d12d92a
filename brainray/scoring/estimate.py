"""How long a run will take and what it will cost, from a small probe. Asks no cluster and no clock but the probe's."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from brainray.config import ScoreOptions
from brainray.inputs.reader import Reader
from brainray.resources import Node, ScorePool

from .manifest import Shard, read_shard

if TYPE_CHECKING:
    from brainray.models.bundle import Bundle

PROBE_IMAGES = 256
_SHARDS = 8  # that they are taken from
_WARM_IMAGES = 32
# A processor does less when its neighbour is busy, too. This and the next are fitted to `tests/bench/plan_error.py`.
_BESIDE_OTHERS = 0.83
_START_S = 8.0  # Ray and its workers, listing and summary
# By which the true time differed from the expected one there, at most: 5,547 to 44,376 images
# on one machine's disk and in a bucket near by.
ERROR = 0.25


@dataclass(frozen=True, kw_only=True)
class ProbeTimes:
    """Seconds an image takes one processor, or to predict one GPU, with nothing else to do."""

    read_s: float  # and to be decoded
    predict_s: float


@dataclass(frozen=True, kw_only=True)
class RunEstimate:
    """What a run will take, within `ERROR` where that was measured: by processors of one machine."""

    images_per_s: float
    seconds: float
    nodes: int

    @property
    def node_hours(self) -> float:
        return self.nodes * self.seconds / 3600


def estimate(probe: ProbeTimes, images: int, *, nodes: Sequence[Node], pool: ScorePool) -> RunEstimate:
    """For so many images on these machines."""
    processors = sum(max(1.0, node.cpus) for node in nodes if node.cpus > 0)
    if pool.on_gpu:
        rate = min(processors * _BESIDE_OTHERS / probe.read_s, pool.actors / probe.predict_s)
    else:
        busy = min(processors, pool.actors * pool.threads_per_actor)
        rate = busy * (_BESIDE_OTHERS if busy > 1 else 1.0) / (probe.read_s + probe.predict_s)
    working = sum(1 for node in nodes if node.cpus > 0 or node.gpus > 0)
    return RunEstimate(images_per_s=rate, seconds=_START_S + images / rate, nodes=working)


def probe(rows: pa.Table, bundle: "Bundle", options: ScoreOptions) -> ProbeTimes:
    """Read, decode and predict the images of manifest rows, and write nothing. Torch is imported here."""
    from brainray.models.predictor import Predictor, limit_threads

    from .shard import decode_shard

    limit_threads(1)
    reader = Reader(outage_share=1.0)
    predict = Predictor(bundle, batch_size=options.batch_size, precision=options.precision)
    predict(decode_shard(rows.slice(0, _WARM_IMAGES), bundle.image, reader=reader).images)
    began_s, busy_s = time.perf_counter(), time.process_time()
    decoded = decode_shard(rows, bundle.image, reader=reader)
    read_s, busy_s = time.perf_counter() - began_s, time.process_time() - busy_s
    predict(decoded.images)
    predict_s = time.perf_counter() - began_s - read_s
    # Threads that read beside the one that decodes will have no processor of their own.
    return ProbeTimes(read_s=max(read_s, busy_s) / len(rows), predict_s=predict_s / max(1, len(decoded.images)))


def sample(shards: Sequence[Shard]) -> pa.Table:
    """Manifest rows, evenly from a few shards, which lie evenly in the archive."""
    places = np.unique(np.linspace(0, len(shards) - 1, min(_SHARDS, len(shards))).astype(int))
    each = math.ceil(PROBE_IMAGES / len(places))
    tables = [read_shard(shards[place]) for place in places]
    return pa.concat_tables([table.slice(max(0, len(table) - each) // 2, each) for table in tables])
