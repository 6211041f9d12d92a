"""Scores shards with Ray Data: one row for each shard goes through a pool of actors, and the parts' figures come back.

Pixels are decoded in `_decode`: by the actor itself (`ShardScorer`), or beside GPUs by a task before it
(`decode_block`). Ray restarts dead workers and repeats their shard; `count_attempt` counts the attempts, and after
`SANDBOX_AFTER` of them images are decoded in a sandbox, after `GIVE_UP_AFTER` the run ends with an error. Pixels must
never pass through the driver. From top to bottom: the driver, then the workers, then their metrics.
"""

import pickle
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from queue import Empty, Queue
from threading import Thread
from typing import TYPE_CHECKING

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, Dataset
from ray.util.metrics import Counter

from brainray.config import Precision
from brainray.duplicates.seen import read_seen
from brainray.errors import BrainrayError, NoProgress
from brainray.imaging.sandbox import SandboxedDecoder
from brainray.imaging.time_limit import TimeLimit
from brainray.inputs.reader import Reader
from brainray.machine.resources import ScorePool
from brainray.models.bundle import Bundle
from brainray.scoring.manifest import Shard
from brainray.scoring.maps.of_shard import MapOrder, Mapper
from brainray.scoring.parts import PartInfo
from brainray.scoring.shard import DecodedShard, decode_shard, predict_shard, status_of
from brainray.scoring.shard_task import GIVE_UP_AFTER, SANDBOX_AFTER, ShardState, Target, count_attempt, open_shard
from brainray.storage.shared_paths import SharedPaths

from .ray_internals import end_executors, is_private, kill_workers_on_failure, one_task_a_row, processes_died
from .session import check_alive, own_errors, quiet_data

if TYPE_CHECKING:
    from brainray.models.predictor import Predictor

_SHARDS_A_BLOCK = 1024  # of 200 bytes each
_LIMIT = TimeLimit()  # of an image in this process, which Ray replaces where it ends
_POLL_S = 0.5  # between two checks of the lease while waiting for a part
_ENDING_S = 30.0  # for Ray Data to end what it runs


@dataclass(frozen=True, kw_only=True)
class ScoreJob:
    """Settings of a run that every worker needs."""

    target: Target  # where and how parts are written
    bundle: Bundle
    batch_size: int | None  # None: the predictor decides
    precision: Precision
    inputs: tuple[str, ...]  # roots of the inputs
    max_unread: float  # share of unreadable images from which an outage is assumed
    most_bytes: int  # of a file that is read
    shared_paths: SharedPaths
    checked_nodes: frozenset[str]  # ids of the nodes that see them; workers of other nodes check on start
    maps: MapOrder | None = None  # which images get a map

    def check_paths(self) -> None:
        """Raise `BadRequest` where this node, unless it was checked before, sees other files than the driver."""
        if ray.get_runtime_context().get_node_id() not in self.checked_nodes:
            self.shared_paths.check()

    def reader(self) -> Reader:
        """Make the reader of a worker's images."""
        return Reader(outage_share=self.max_unread, roots=self.inputs, most_bytes=self.most_bytes)


def score_shards(
    shards: Sequence[Shard],
    job: ScoreJob,
    pool: ScorePool,
    *,
    stall_timeout_s: float,
    check: Callable[[], None],
    say: Callable[[str], None],
) -> Generator[PartInfo, None, None]:
    """Score shards in any order; yields each part as it is committed. Logs each different remark of workers once.

    Raises `NoProgress` where no part is committed for `stall_timeout_s` seconds, and what `check`, called twice a
    second, raises to end the run. Ray runs in another thread, so that this one can be interrupted by Ctrl-C. However
    this ends, no worker of the run goes on.
    """
    quiet_data().execution_no_progress_timeout_s = 2 * stall_timeout_s  # so that the limit below is reached first
    finished: Queue[PartInfo | str | BaseException | None] = Queue()
    dataset = score_chain(shards, job, pool)
    kill_workers_on_failure(dataset)
    chain = Thread(target=_run_chain, args=(dataset, finished), daemon=True)
    chain.start()
    try:
        yield from _parts_of(finished, stall_timeout_s=stall_timeout_s, check=check, say=say)
    finally:
        _end(chain, dataset)
        del dataset  # which an exception that is kept would keep, and its actors with it


def _end(chain: Thread, dataset: Dataset) -> None:
    """End what Ray Data runs for a dataset, and the thread that waits for it; not on a Ray that has died."""
    deadline = time.monotonic() + _ENDING_S
    while chain.is_alive() and time.monotonic() < deadline and not processes_died():
        end_executors(dataset)  # again: it may have been about to begin
        chain.join(_POLL_S)


def _parts_of(
    finished: "Queue[PartInfo | str | BaseException | None]",
    *,
    stall_timeout_s: float,
    check: Callable[[], None],
    say: Callable[[str], None],
) -> Iterator[PartInfo]:
    """Yield the parts that `_run_chain` puts into the queue, until it has ended."""
    waited_s = 0.0
    while True:
        check()
        check_alive()
        try:
            part = finished.get(timeout=_POLL_S)
        except Empty:
            waited_s += _POLL_S
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
    """Run the pipeline; puts parts, remarks (each once) and a final exception or None into the queue."""
    reported: set[str] = set()
    try:
        for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            remarks = [remark for value in batch["remarks"] for remark in pickle.loads(value.as_buffer())]
            for remark in sorted({*remarks} - reported):
                finished.put(remark)
            reported.update(remarks)
            for value in batch["part"]:
                finished.put(pickle.loads(value.as_buffer()))
        finished.put(None)
    except BaseException as exc:  # noqa: BLE001  raised again where the queue is read
        finished.put(exc)


def score_chain(shards: Sequence[Shard], job: ScoreJob, pool: ScorePool) -> Dataset:
    """Build the Ray Data pipeline. Its input is in the object store already, so no task competes with the actors.

    An object of the store holds `_SHARDS_A_BLOCK` shards, and a task is handed one of its rows. (`from_arrow` would run
    a task for each block, to learn its size.)
    """
    blocks = [shards[i : i + _SHARDS_A_BLOCK] for i in range(0, len(shards), _SHARDS_A_BLOCK)]
    tables = [pa.Table.from_pylist([asdict(shard) for shard in block]) for block in blocks]
    dataset = one_task_a_row(ray.data.from_blocks(tables))
    dataset.set_name("brainray_score")  # in Ray's dashboard
    scorer: type[Scorer] = ShardScorer
    if pool.on_gpu:
        scorer = DecodedScorer
        dataset = dataset.map_batches(
            decode_block,  # type: ignore[arg-type]
            fn_kwargs={"job": job},
            batch_size=1,
            batch_format="pyarrow",
            num_cpus=pool.decoder_cpus,
            memory=pool.decoder_bytes or None,
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
            max_tasks_in_flight_per_actor=pool.threads_per_actor + 1,  # one shard queued, so that no thread idles
        ),
        num_cpus=pool.cpus_per_actor,
        num_gpus=pool.gpus_per_actor or None,
        memory=pool.memory_bytes or None,
    )


class Scorer:
    """An actor of the pool: builds its predictor once, then turns shards into part files in several threads."""

    def __init__(self, job: ScoreJob) -> None:
        from brainray.models.encoder import frozen_encoder
        from brainray.models.predictor import Predictor, limit_threads

        job.check_paths()
        limit_threads(1)
        self._job = job
        self._reader = job.reader()
        self._seen = read_seen(job.bundle)
        self._encode = frozen_encoder()  # here, as tracing a network disturbs others that predict in other threads
        self._remarks: list[str] = []
        self._predictor = Predictor(
            job.bundle, batch_size=job.batch_size, precision=job.precision, say=self._remarks.append
        )
        self._mapper = _mapper(job, self._predictor)
        self._metrics = ScoreMetrics(job.target.run_uri)

    def predict(self, task: ShardState, decoded: DecodedShard) -> pa.Table:
        """Predict and commit a shard; returns one row with its pickled `PartInfo` and the predictor's remarks."""
        from brainray.models.predictor import limit_threads

        limit_threads(1)  # a setting of the calling thread: shards run side by side, operators do not
        info = predict_shard(
            task,
            decoded,
            self._predictor,
            self._job.target,
            seen=self._seen,
            encode=self._encode,
            mapper=self._mapper,
        )
        self._metrics.count(task, decoded, info.work[-1].seconds)
        return pa.table({"part": [pickle.dumps(info)], "remarks": [pickle.dumps(self._remarks)]})


def _mapper(job: ScoreJob, predictor: "Predictor") -> Mapper | None:
    """What maps the images of a job; None where no map is asked for."""
    if job.maps is None:
        return None
    from brainray.models.scored_maps import MappingPredictor

    return Mapper(order=job.maps, predict=MappingPredictor(predictor, job.bundle.model.name))


class ShardScorer(Scorer):
    """Reads, decodes, predicts and writes a shard in one process. Used on CPUs."""

    def __call__(self, block: pa.Table) -> pa.Table:
        shard = _shard(block)
        with count_attempt(shard.shard_id, self._job.target.writer) as number:
            return self.predict(*_decode(shard, self._job, self._reader, number))


class DecodedScorer(Scorer):
    """Predicts and writes a shard that a task has decoded. Used on GPUs."""

    def __call__(self, block: pa.Table) -> pa.Table:
        task, decoded = pickle.loads(block["decoded"][0].as_buffer())  # made by `decode_block` in this same job
        with count_attempt(f"predict-{task.shard.shard_id}", self._job.target.writer) as number:
            _check_attempts(task.shard, number)
            return self.predict(task, decoded)


def decode_block(block: pa.Table, job: ScoreJob) -> pa.Table:
    """Decode a shard in a task beside the GPU; its pickled pixels go to an actor by the object store."""
    job.check_paths()
    shard = _shard(block)
    with count_attempt(shard.shard_id, job.target.writer) as number:
        decoded = _decode(shard, job, job.reader(), number)
    return pa.table({"decoded": pa.array([pickle.dumps(decoded, protocol=5)], pa.large_binary())})


def _decode(shard: Shard, job: ScoreJob, reader: Reader, number: int) -> tuple[ShardState, DecodedShard]:
    """Open and decode a shard; raises `BrainrayError` after too many attempts.

    A shard that has killed its worker repeatedly is decoded in a sandbox, which finds the image that does it.
    """
    _check_attempts(shard, number)
    task, spec = open_shard(shard, job.target), job.bundle.image
    decoded = partial(
        decode_shard,
        task.pending,
        spec,
        reader=reader,
        series_key=job.target.series_key,
        uids=job.target.uids,
        names=job.target.names,
    )
    if number <= SANDBOX_AFTER:
        return task, decoded(excluding=job.target.excluding, limit=_LIMIT)
    with SandboxedDecoder(spec, excluding=job.target.excluding) as sandbox:
        return task, decoded(decoder=sandbox)


def _check_attempts(shard: Shard, number: int) -> None:
    """Raise `BrainrayError` where a shard has killed too many workers. `number` is that of this attempt, from 1."""
    if number > GIVE_UP_AFTER:
        raise BrainrayError(
            f"shard {shard.shard_id} has killed {number - 1} workers, also with its images decoded apart: the machine "
            "may be short of memory; give fewer --workers or a smaller --shard-size"
        )


def _shard(block: pa.Table) -> Shard:
    return Shard(**block.to_pylist()[0])


class ScoreMetrics:
    """Ray metrics of one worker, labelled with the run. Counters start at 0 with each worker and only grow."""

    def __init__(self, run_uri: str) -> None:
        def counter(name: str, description: str, *keys: str) -> Counter:
            metric = Counter(f"brainray_{name}", description=description, tag_keys=("run", *keys))
            metric.set_default_tags({"run": run_uri})
            return metric

        self._images = counter("images", "Images that got their row.", "status")
        self._bytes = counter("bytes", "Bytes of those images as listed.")
        self._seconds = counter("seconds", "Seconds of a worker's thread.", "stage")
        self._retries = counter("read_retries", "Reads that were tried again.")
        self._shards = counter("shards", "Shards committed.")

    def count(self, task: ShardState, decoded: DecodedShard, seconds: dict[str, float]) -> None:
        """Count a committed shard; `seconds` has the seconds of each stage."""
        statuses = status_of(decoded).to_pylist()
        sizes = task.pending["size_bytes"].to_pylist()
        for status in ("ok", "error", "excluded"):
            _add(self._images, statuses.count(status), status=status)
        _add(self._bytes, sum(size or 0 for size in sizes))
        _add(self._retries, decoded.retries)
        _add(self._shards, 1)
        for stage, spent_s in seconds.items():
            _add(self._seconds, spent_s, stage=stage)


def _add(counter: Counter, value: float, **tags: str) -> None:
    if value > 0:  # Ray raises on 0
        counter.inc(value, tags=tags)
