"""Decides how many workers a cluster gets, and how many processors, GPUs and bytes each reserves.

Pure arithmetic on the nodes that are passed in: knows no Ray and no running cluster.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace

from brainray.errors import BadRequest

# An actor reserves a little less than one processor, so that a node full of actors keeps room for Ray Data's own tasks.
# Actors that take every processor leave none for other tasks, and the run hangs (ray issue 44687).
_ACTOR_CPU_SHARE = 0.9
# One process per core is 19 % faster than one process with two threads (GIL; 1,218 against 1,027 images/s). A start
# costs 3 CPU seconds, but processes start side by side: on two processors a run of 924 images took as long with either,
# one of 5,547 took 28 instead of 32 s. Shorter ones use threads, which leave the processors to others.
_THREADS_PER_ACTOR = 2
_IMAGES_A_START = 500  # per processor: a run of fewer images is short
# Memory of a process: 0.7 GB of libraries and model; of each thread: bytes read ahead, and the pixels of its shard.
_ACTOR_BYTES = 900 << 20
_THREAD_BYTES = 150 << 20
# Memory of a task that decodes beside GPUs: libraries without torch, and the shard of one thread.
_DECODER_BYTES = (350 << 20) + _THREAD_BYTES
# Free memory below which no worker runs beside a Ray on the same machine. Their proportional set sizes for four images
# of 32 px add up to 0.89 GB without the driver; with 0.99 GB free a run ended, with 0.97 GB (a container of 1000 MiB on
# a busy machine) and with 0.78 GB workers died repeatedly.
_LEAST_BYTES = 1_000_000_000
# An actor beside a GPU leaves the processors to the tasks that decode: on a machine of one processor, which is what
# Slurm gives with a GPU, a task must fit beside it. Both reserve something, so that neither runs on a machine that its
# owner has given no processors for work.
_GPU_ACTOR_CPUS = 0.001
_DECODER_CPUS = 0.99
# Train workers reserve less, because their data tasks run beside them.
_TRAIN_CPU_SHARE = 0.5
_THREADS_PER_TRAINER = 2
# Images of a step for each worker on processors. With fewer, workers wait for each other, and what batch normalisation
# measures is noise; the processors that are left give each worker more threads.
_LEAST_SHARE_OF_BATCH = 8
# Elastic workers (their number changes) leave too little room for one more worker, but enough for Ray's own tasks.
_ELASTIC_CPU_SHARE = 0.95
_ELASTIC_GPU_CPUS = 0.5
_MOST_AUGMENTING = 8  # threads beside a GPU; each augments some 500 images of 192 px a second


@dataclass(frozen=True, kw_only=True)
class Node:
    """The resources of one machine of the cluster."""

    cpus: float
    gpus: float = 0.0
    memory_bytes: int = sys.maxsize  # memory that Ray gives to workers


@dataclass(frozen=True, kw_only=True)
class ScorePool:
    """The actors that score, and the resources that each reserves. With GPUs, decoding runs in tasks of its own."""

    actors: int
    cpus_per_actor: float
    gpus_per_actor: float = 0.0
    threads_per_actor: int = 1  # each thread scores a shard of its own
    memory_bytes: int = 0  # reserved by each actor, so that Ray starts none where memory would run out
    decoder_cpus: float = 0.0  # reserved by each task that decodes beside GPUs
    decoder_bytes: int = 0  # the same
    most_actors: int = 0  # upper limit as machines join

    @property
    def on_gpu(self) -> bool:
        return self.gpus_per_actor > 0


def score_pool(nodes: Sequence[Node], *, workers: int | None, shards: int, images: int) -> ScorePool:
    """One actor per GPU where there are GPUs (of machines with processors), else one per processor.

    For few images, and where memory has no room for that, one per two processors may score in two threads. Never more
    actors than `workers` or `shards`. Raises `BadRequest` where no node has processors.
    """
    sizes = _sizes(nodes)
    able = [node for node in nodes if node.cpus > 0]
    if gpus := usable_gpus(nodes):
        return ScorePool(
            actors=min(workers or gpus, gpus, shards),
            cpus_per_actor=_GPU_ACTOR_CPUS,
            gpus_per_actor=1,
            most_actors=min(workers or shards, shards),
            decoder_cpus=_DECODER_CPUS * min(1.0, max(node.cpus for node in able)),
            decoder_bytes=min(_DECODER_BYTES, max(node.memory_bytes for node in able)),
        )

    def held(threads: int) -> int:
        return max(1, min(_ACTOR_BYTES + threads * _THREAD_BYTES, max(node.memory_bytes for node in able)))

    def fitting(threads: int) -> int:
        rooms = (node.memory_bytes // held(threads) for node in able)
        return max(1, sum(min(size // threads, room) for size, room in zip(sizes, rooms, strict=True)))

    threads = 1
    if all(size % _THREADS_PER_ACTOR == 0 for size in sizes):
        few = images < _IMAGES_A_START * sum(sizes)
        # Where memory has no room for a process for each processor, threads may keep more of them busy.
        choices = (_THREADS_PER_ACTOR, 1) if few else (1, _THREADS_PER_ACTOR)
        threads = max(choices, key=lambda each: each * fitting(each))
    if workers is not None:
        threads = min(threads, max(1, sum(sizes) // workers))
    actors = fitting(threads)
    asked = _ACTOR_CPU_SHARE * min(threads, min(node.cpus for node in able))
    most = -(-shards // threads)
    return ScorePool(
        actors=min(workers or actors, actors, most),
        cpus_per_actor=round(asked, 3),
        threads_per_actor=threads,
        memory_bytes=held(threads),
        most_actors=min(workers or most, most),
    )


def largest_pool(nodes: Sequence[Node]) -> ScorePool:
    """The pool for a run of unlimited size: as many actors as these machines hold."""
    return score_pool(nodes, workers=None, shards=sys.maxsize, images=sys.maxsize)


def can_hold(nodes: Sequence[Node], pool: ScorePool) -> bool:
    """Whether any of the nodes, when idle, has room for one actor of the pool."""
    return any(0 < node.cpus >= pool.cpus_per_actor and node.gpus >= pool.gpus_per_actor for node in nodes)


def missing_memory(available_bytes: int) -> int:
    """The bytes that this machine lacks for a Ray of its own with one worker; 0: it has room."""
    return max(0, _LEAST_BYTES - available_bytes)


def has_processors(nodes: Sequence[Node]) -> bool:
    return any(node.cpus > 0 for node in nodes)


def usable_gpus(nodes: Sequence[Node]) -> int:
    """The whole GPUs of machines with processors, without which no worker runs there."""
    return sum(int(node.gpus) for node in nodes if node.cpus > 0)


def _sizes(nodes: Sequence[Node]) -> list[int]:
    """The whole processors of each machine that has any. Raises `BadRequest` where none has."""
    sizes = [max(1, int(node.cpus)) for node in nodes if node.cpus > 0]
    if not sizes:
        raise BadRequest(
            "the Ray cluster has no machine with processors for work yet; start a worker node, then run again"
        )
    return sizes


@dataclass(frozen=True, kw_only=True)
class TrainPool:
    """The Ray Train workers, and the resources that each reserves. The tasks that decode use the rest."""

    workers: int
    cpus_per_worker: float
    use_gpu: bool
    threads_per_worker: int
    decode_cpus: float  # reserved by one decoding task
    most_workers: int | None = None  # upper limit as machines join; None: the number is fixed


def train_pool(nodes: Sequence[Node], *, workers: int | None, batch_size: int, most: int | None = None) -> TrainPool:
    """One worker per GPU where there are GPUs, else one per two processors and eight images of a batch, or one.

    With `most`, the number of workers may grow from `workers` to `most` as machines join. Raises `BadRequest` for more
    workers than the cluster can hold, which would wait for ever.
    """
    pool = _fixed_pool(nodes, workers=workers, batch_size=batch_size)
    if most is None:
        return pool
    if pool.use_gpu:
        return replace(pool, cpus_per_worker=min(_ELASTIC_GPU_CPUS, pool.cpus_per_worker), most_workers=most)
    # The workers planned for a machine must fill it, whatever its size, for Ray starts as many as fit.
    threads = min(_THREADS_PER_TRAINER, *_sizes(nodes))
    asked = threads * _ELASTIC_CPU_SHARE
    return replace(pool, cpus_per_worker=asked, threads_per_worker=threads, most_workers=most)


def _fixed_pool(nodes: Sequence[Node], *, workers: int | None, batch_size: int) -> TrainPool:
    cpus = sum(sizes := _sizes(nodes))
    if gpus := usable_gpus(nodes):
        count = workers or min(gpus, batch_size)
        if count > gpus:
            raise BadRequest(f"--workers is {count}, but the cluster has {gpus} GPU(s); ask for {gpus} or fewer")
        # Of the machines with GPUs alone: Ray Train would wait for ever for room on the others.
        beside = [node for node in nodes if node.cpus > 0 and node.gpus >= 1]
        share = min(1.0, _TRAIN_CPU_SHARE * min(node.cpus / min(int(node.gpus), count) for node in beside))
        return TrainPool(
            workers=count,
            cpus_per_worker=share,
            use_gpu=True,
            threads_per_worker=max(1, min(_MOST_AUGMENTING, sum(_sizes(beside)) // count)),
            decode_cpus=min(1.0, max(node.cpus for node in nodes)),
        )
    count = workers or max(1, min(int(cpus) // _THREADS_PER_TRAINER, batch_size // _LEAST_SHARE_OF_BATCH))
    most = max(2, 2 * int(cpus))
    if count > most:
        raise BadRequest(f"--workers is {count}, but the cluster has {cpus:g} processor(s); ask for {most} or fewer")
    share = min(1.0, _TRAIN_CPU_SHARE * min(node.cpus for node in nodes if node.cpus) * len(sizes) / count)
    return TrainPool(
        workers=count,
        cpus_per_worker=round(share, 3),
        use_gpu=False,
        threads_per_worker=max(1, int(cpus) // count),
        decode_cpus=min(1.0, _TRAIN_CPU_SHARE * cpus),
    )
