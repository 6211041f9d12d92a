"""Scoring with Ray Data: one row a shard, an actor pool, and the accounts of finished parts back to the driver."""

import pickle
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, Dataset
from ray.data.exceptions import ExecutionTimeoutError
from ray.exceptions import RayError

from .bundle import Bundle
from .config import Precision
from .errors import NoProgress
from .listing import Shard, read_shard
from .ray_session import ScorePool, own_error, quiet_data
from .results import PartInfo
from .scoring import DecodedShard, decode_shard, predict_shard


@dataclass(frozen=True, kw_only=True)
class ScoreJob:
    """What every worker needs to know."""

    run_uri: str
    bundle: Bundle
    batch_size: int | None
    precision: Precision


class Scorer:
    """One worker of the pool: builds its predictor once, then turns shards into part files, in several threads."""

    def __init__(self, job: ScoreJob) -> None:
        import torch

        from .predict import Predictor

        torch.set_num_threads(1)
        self._job = job
        self._predictor = Predictor(job.bundle, batch_size=job.batch_size, precision=job.precision)

    def predict(self, manifest: pa.Table, decoded: DecodedShard) -> PartInfo:
        import torch

        torch.set_num_threads(1)  # holds for the thread that calls; shards, not operators, run side by side
        bundle = self._job.bundle
        return predict_shard(
            manifest,
            decoded,
            self._predictor,
            run_uri=self._job.run_uri,
            classes=bundle.classes,
            fingerprint=bundle.fingerprint,
        )


class ShardScorer(Scorer):
    """Reads, decodes, predicts and writes a shard in one process."""

    def __call__(self, block: pa.Table) -> pa.Table:
        manifest = read_shard(_shard(block))
        return _finished(self.predict(manifest, decode_shard(manifest, self._job.bundle.image)))


class DecodedScorer(Scorer):
    """Predicts and writes a shard that a task has decoded."""

    def __call__(self, block: pa.Table) -> pa.Table:
        manifest, decoded = pickle.loads(block["decoded"][0].as_buffer())  # made by `decode_block` in this same job
        return _finished(self.predict(manifest, decoded))


def decode_block(block: pa.Table, job: ScoreJob) -> pa.Table:
    """A task beside the GPU: the shard's pixels as one value, for pixels never pass through the driver."""
    manifest = read_shard(_shard(block))
    decoded = decode_shard(manifest, job.bundle.image)
    return pa.table({"decoded": pa.array([pickle.dumps((manifest, decoded), protocol=5)], pa.large_binary())})


def _shard(block: pa.Table) -> Shard:
    return Shard(**block.to_pylist()[0])


def _finished(info: PartInfo) -> pa.Table:
    return pa.table({"part": [pickle.dumps(info)]})


def score_chain(shards: Sequence[Shard], job: ScoreJob, pool: ScorePool) -> Dataset:
    """The whole chain. Its input is objects that are there already: no task competes with the actors for processors."""
    dataset: Dataset = ray.data.from_arrow([pa.Table.from_pylist([asdict(shard)]) for shard in shards])
    scorer: type[Scorer] = ShardScorer
    if pool.on_gpu:
        scorer = DecodedScorer
        dataset = dataset.map_batches(
            decode_block,  # type: ignore[arg-type]
            fn_kwargs={"job": job},
            batch_size=1,
            batch_format="pyarrow",
        )
    return dataset.map_batches(
        scorer,
        fn_constructor_args=(job,),
        batch_size=1,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(
            size=pool.actors,
            max_concurrent_calls_per_actor=pool.threads_per_actor,
            enable_true_multi_threading=True,
            max_tasks_in_flight_per_actor=pool.threads_per_actor + 1,  # one waits, so that no thread does
        ),
        num_cpus=pool.cpus_per_actor,
        num_gpus=pool.gpus_per_actor or None,
    )


def score_shards(
    shards: Sequence[Shard], job: ScoreJob, pool: ScorePool, *, stall_timeout_s: float
) -> Iterator[PartInfo]:
    """Score shards in any order; yields as each is committed. Raises `NoProgress` where none is for so long."""
    quiet_data().execution_no_progress_timeout_s = stall_timeout_s
    try:
        for batch in score_chain(shards, job, pool).iter_batches(
            batch_size=None, batch_format="pyarrow", prefetch_batches=0
        ):
            for value in batch["part"]:
                yield pickle.loads(value.as_buffer())
    except RayError as exc:
        raise own_error(exc) or exc from exc
    except ExecutionTimeoutError as exc:
        raise NoProgress(
            f"no shard was finished for {stall_timeout_s:g} s; finished ones are kept, run the same command to go on"
        ) from exc
