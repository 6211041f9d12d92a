"""Scoring with Ray Data: one row a shard, an actor pool, and the accounts of finished parts back to the driver."""

import pickle
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from queue import Empty, Queue
from threading import Thread

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, Dataset
from ray.util.metrics import Counter

from brainray.config import Precision
from brainray.errors import BrainrayError, NoProgress
from brainray.imaging.sandbox import SandboxedDecoder
from brainray.inputs.reader import Reader
from brainray.models.bundle import Bundle
from brainray.resources import ScorePool
from brainray.scoring.manifest import Shard
from brainray.scoring.parts import PartInfo
from brainray.scoring.shard import DecodedShard, decode_shard, predict_shard
from brainray.scoring.shard_task import GIVE_UP_AFTER, SANDBOX_AFTER, ShardState, Target, count_attempt, open_shard
from brainray.storage.shared_paths import SharedPaths

from .ray_internals import is_private
from .session import check_alive, own_errors, quiet_data


class ScoreMetrics:
    """The counters of one worker, by run. They only ever grow, from 0 with each worker that starts."""

    def __init__(self, run_uri: str) -> None:
        def counter(name: str, description: str, *keys: str) -> Counter:
            found = Counter(f"brainray_{name}", description=description, tag_keys=("run", *keys))
            found.set_default_tags({"run": run_uri})
            return found

        self._images = counter("images", "Images that got their row.", "status")
        self._bytes = counter("bytes", "Bytes of those images as listed.")
        self._seconds = counter("seconds", "Seconds of a worker's thread.", "stage")
        self._retries = counter("read_retries", "Reads that were tried again.")
        self._shards = counter("shards", "Shards committed.")

    def count(self, task: ShardState, decoded: DecodedShard, seconds: dict[str, float]) -> None:
        """A shard that was committed; `seconds` by stage."""
        ok = int(decoded.ok.sum())
        sizes = task.pending["size_bytes"].to_pylist()
        _add(self._images, ok, status="ok")
        _add(self._images, len(decoded.ok) - ok, status="error")
        _add(self._bytes, sum(size or 0 for size in sizes))
        _add(self._retries, decoded.retries)
        _add(self._shards, 1)
        for stage, spent_s in seconds.items():
            _add(self._seconds, spent_s, stage=stage)


def _add(counter: Counter, value: float, **tags: str) -> None:
    if value > 0:  # Ray takes nothing else
        counter.inc(value, tags=tags)


_TURN_S = 0.5


@dataclass(frozen=True, kw_only=True)
class ScoreJob:
    """What every worker needs to know."""

    target: Target
    bundle: Bundle
    batch_size: int | None
    precision: Precision
    inputs: tuple[str, ...]
    max_unread: float
    shared_paths: SharedPaths

    def reader(self) -> Reader:
        return Reader(outage_share=self.max_unread, roots=self.inputs)


class Scorer:
    """One worker of the pool: builds its predictor once, then turns shards into part files, in several threads."""

    def __init__(self, job: ScoreJob) -> None:
        from brainray.models.predictor import Predictor, limit_threads

        job.shared_paths.check()
        limit_threads(1)
        self._job = job
        self._reader = job.reader()
        self._remarks: list[str] = []
        self._predictor = Predictor(
            job.bundle, batch_size=job.batch_size, precision=job.precision, say=self._remarks.append
        )
        self._metrics = ScoreMetrics(job.target.run_uri)

    def predict(self, task: ShardState, decoded: DecodedShard) -> pa.Table:
        from brainray.models.predictor import limit_threads

        limit_threads(1)  # holds for the thread that calls; shards, not operators, run side by side
        info = predict_shard(task, decoded, self._predictor, self._job.target)
        self._metrics.count(task, decoded, info.work[-1].seconds)
        return pa.table({"part": [pickle.dumps(info)], "remarks": [pickle.dumps(self._remarks)]})


class ShardScorer(Scorer):
    """Reads, decodes, predicts and writes a shard in one process."""

    def __call__(self, block: pa.Table) -> pa.Table:
        shard = _shard(block)
        with count_attempt(shard.shard_id, self._job.target.writer) as number:
            return self.predict(*_decode(shard, self._job, self._reader, number))


class DecodedScorer(Scorer):
    """Predicts and writes a shard that a task has decoded."""

    def __call__(self, block: pa.Table) -> pa.Table:
        task, decoded = pickle.loads(block["decoded"][0].as_buffer())  # made by `decode_block` in this same job
        with count_attempt(f"predict-{task.shard.shard_id}", self._job.target.writer) as number:
            _check_attempts(task.shard, number)
            return self.predict(task, decoded)


def decode_block(block: pa.Table, job: ScoreJob) -> pa.Table:
    """A task beside the GPU: the shard's pixels as one value, for pixels never pass through the driver."""
    job.shared_paths.check()
    shard = _shard(block)
    with count_attempt(shard.shard_id, job.target.writer) as number:
        decoded = _decode(shard, job, job.reader(), number)
    return pa.table({"decoded": pa.array([pickle.dumps(decoded, protocol=5)], pa.large_binary())})


def _decode(shard: Shard, job: ScoreJob, reader: Reader, number: int) -> tuple[ShardState, DecodedShard]:
    """A shard that has killed its worker time and again is decoded apart, which finds the image that does it."""
    _check_attempts(shard, number)
    task, spec = open_shard(shard, job.target), job.bundle.image
    if number <= SANDBOX_AFTER:
        return task, decode_shard(task.pending, spec, reader=reader)
    with SandboxedDecoder(spec) as apart:
        return task, decode_shard(task.pending, spec, reader=reader, decoder=apart)


def _check_attempts(shard: Shard, number: int) -> None:
    if number > GIVE_UP_AFTER:
        raise BrainrayError(
            f"shard {shard.shard_id} has killed {number - 1} workers, also with its images decoded apart: the machine "
            "may be short of memory; give fewer --workers or a smaller --shard-size"
        )


def _shard(block: pa.Table) -> Shard:
    return Shard(**block.to_pylist()[0])


def score_chain(shards: Sequence[Shard], job: ScoreJob, pool: ScorePool) -> Dataset:
    """The whole chain. Its input is objects that are there already: no task competes with the actors for processors."""
    dataset: Dataset = ray.data.from_arrow([pa.Table.from_pylist([asdict(shard)]) for shard in shards])
    dataset.set_name("brainray_score")  # in Ray's dashboard
    scorer: type[Scorer] = ShardScorer
    if pool.on_gpu:
        scorer = DecodedScorer
        dataset = dataset.map_batches(
            decode_block,  # type: ignore[arg-type]
            fn_kwargs={"job": job},
            batch_size=1,
            batch_format="pyarrow",
            max_retries=GIVE_UP_AFTER,
        )
    return dataset.map_batches(
        scorer,
        fn_constructor_args=(job,),
        batch_size=1,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(
            min_size=pool.actors,
            max_size=pool.actors if is_private() else max(pool.actors, pool.most_actors),
            max_concurrent_calls_per_actor=pool.threads_per_actor,
            enable_true_multi_threading=True,
            max_tasks_in_flight_per_actor=pool.threads_per_actor + 1,  # one waits, so that no thread does
        ),
        num_cpus=pool.cpus_per_actor,
        num_gpus=pool.gpus_per_actor or None,
        memory=pool.memory_bytes or None,
    )


def score_shards(
    shards: Sequence[Shard],
    job: ScoreJob,
    pool: ScorePool,
    *,
    stall_timeout_s: float,
    check: Callable[[], None],
    say: Callable[[str], None],
) -> Iterator[PartInfo]:
    """Score shards in any order; yields as each is committed. Raises `NoProgress` where none is for so long.

    What workers remark, `say` is told once.
    Ray is waited for in a thread, so that this one hears of Ctrl-C and asks `check`, which raises to end the run, at
    every turn.
    """
    quiet_data().execution_no_progress_timeout_s = 2 * stall_timeout_s  # ours comes first
    finished: Queue[PartInfo | str | BaseException | None] = Queue()
    Thread(target=_run_chain, args=(score_chain(shards, job, pool), finished), daemon=True).start()
    waited_s = 0.0
    while True:
        check()
        check_alive()
        try:
            part = finished.get(timeout=_TURN_S)
        except Empty:
            waited_s += _TURN_S
            if waited_s >= stall_timeout_s:
                raise NoProgress(
                    f"no shard was finished for {stall_timeout_s:g} s, so the run was ended; finished ones are kept, "
                    "run the same command to go on"
                ) from None
            continue
        if part is None:
            return
        if isinstance(part, str):
            say(part)
            continue
        if isinstance(part, BaseException):
            with own_errors():
                raise part
        waited_s = 0.0
        yield part


def _run_chain(dataset: Dataset, finished: "Queue[PartInfo | str | BaseException | None]") -> None:
    """Whatever comes of the chain goes into the queue, a remark once; None ends it."""
    told: set[str] = set()
    try:
        for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            remarks = [remark for value in batch["remarks"] for remark in pickle.loads(value.as_buffer())]
            for remark in sorted({*remarks} - told):
                finished.put(remark)
            told.update(remarks)
            for value in batch["part"]:
                finished.put(pickle.loads(value.as_buffer()))
        finished.put(None)
    except BaseException as exc:  # noqa: BLE001  it is raised where the queue is read
        finished.put(exc)
