"""How the processors and GPUs of a cluster are shared out among workers. Asks no cluster: nodes are given."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace

from .errors import BadRequest

# An actor asks for a little less than a processor, so that a node full of them keeps room for Ray Data's own tasks:
# actors that take every processor leave none for other tasks, and the run hangs (ray issue 44687).
_ACTOR_CPU_SHARE = 0.9
# A process a processor scores 19 % more a second than one with two threads for two processors, which wait for each
# other's Python (1,218 and 1,027 images/s). But a start takes 2.5 s of a processor: few images are left to threads.
_THREADS_PER_ACTOR = 2
_IMAGES_A_START = 4000  # for each processor
# Held by a process: 0.7 GB of libraries and model, then what is read ahead and the pixels of each thread's shard.
_ACTOR_BYTES = 900 << 20
_THREAD_BYTES = 150 << 20
# Train workers leave more: their data tasks run beside them.
_TRAIN_CPU_SHARE = 0.5
_THREADS_PER_TRAINER = 2
# Of those whose number changes: what they leave is too little for another one, and enough for Ray's own tasks.
_ELASTIC_CPU_SHARE = 0.95
_ELASTIC_GPU_CPUS = 0.5


@dataclass(frozen=True, kw_only=True)
class Node:
    """What one machine of the cluster offers."""

    cpus: float
    gpus: float = 0.0
    memory_bytes: int = sys.maxsize  # that Ray gives to workers


@dataclass(frozen=True, kw_only=True)
class ScorePool:
    """Actors that score, and what each asks for. With GPUs, processors decode in tasks of their own."""

    actors: int
    cpus_per_actor: float
    gpus_per_actor: float = 0.0
    threads_per_actor: int = 1  # each works on a shard of its own
    memory_bytes: int = 0  # that each asks for, so that none is put where it would be killed for want of it
    most_actors: int = 0  # as many, where machines join

    @property
    def on_gpu(self) -> bool:
        return self.gpus_per_actor > 0


def score_pool(nodes: Sequence[Node], *, workers: int | None, shards: int, images: int) -> ScorePool:
    """One actor a GPU where there are GPUs, else one a processor, or for few images one with two threads for two.

    Never more than `workers`, nor more than there are shards to do. Raises `BadRequest` where nobody could do them.
    """
    gpus = int(sum(node.gpus for node in nodes))
    if gpus:
        actors = min(workers or gpus, gpus, shards)
        return ScorePool(
            actors=actors, cpus_per_actor=0.1, gpus_per_actor=1, most_actors=min(workers or shards, shards)
        )
    sizes = _sizes(nodes)
    few = images < _IMAGES_A_START * sum(sizes)
    threads = _THREADS_PER_ACTOR if few and all(size % _THREADS_PER_ACTOR == 0 for size in sizes) else 1
    if workers is not None:
        threads = min(threads, max(1, sum(sizes) // workers))
    able = [node for node in nodes if node.cpus > 0]
    held = min(_ACTOR_BYTES + threads * _THREAD_BYTES, max(node.memory_bytes for node in able))
    actors = sum(min(size // threads, node.memory_bytes // held) for size, node in zip(sizes, able, strict=True))
    asked = _ACTOR_CPU_SHARE * min(threads, min(node.cpus for node in able))
    most = -(-shards // threads)
    return ScorePool(
        actors=min(workers or actors, actors, most),
        cpus_per_actor=round(asked, 3),
        threads_per_actor=threads,
        memory_bytes=held,
        most_actors=min(workers or most, most),
    )


def largest_pool(nodes: Sequence[Node]) -> ScorePool:
    """For more images than these machines could ever do."""
    return score_pool(nodes, workers=None, shards=sys.maxsize, images=sys.maxsize)


def can_hold(nodes: Sequence[Node], pool: ScorePool) -> bool:
    """Whether there is room for one of its actors on any of the nodes, were it idle."""
    return any(node.cpus >= pool.cpus_per_actor and node.gpus >= pool.gpus_per_actor for node in nodes)


def has_processors(nodes: Sequence[Node]) -> bool:
    return any(node.cpus > 0 for node in nodes)


def _sizes(nodes: Sequence[Node]) -> list[int]:
    """The processors of each machine that has any."""
    sizes = [max(1, int(node.cpus)) for node in nodes if node.cpus > 0]
    if not sizes:
        raise BadRequest(
            "the Ray cluster has no machine with processors for work yet; start a worker node, then run again"
        )
    return sizes


@dataclass(frozen=True, kw_only=True)
class TrainPool:
    """Ray Train workers, and what each asks for; the rest is left to the tasks that decode."""

    workers: int
    cpus_per_worker: float
    use_gpu: bool
    threads_per_worker: int
    decode_cpus: float  # of one task
    most_workers: int | None = None  # as machines join; None: always the same number


def train_pool(nodes: Sequence[Node], *, workers: int | None, most: int | None = None) -> TrainPool:
    """One worker a GPU where there are GPUs, else one for every two processors, and no fewer than one.

    More workers than the cluster can hold would wait for ever: `BadRequest`. With `most`, those are the fewest.
    """
    pool = _fixed_pool(nodes, workers=workers)
    if most is None:
        return pool
    if pool.use_gpu:
        return replace(pool, cpus_per_worker=_ELASTIC_GPU_CPUS, most_workers=most)
    # As many as a machine is meant to have must fill it, whatever its size, for Ray fits in what it can.
    threads = min(_THREADS_PER_TRAINER, *_sizes(nodes))
    asked = threads * _ELASTIC_CPU_SHARE
    return replace(pool, cpus_per_worker=asked, threads_per_worker=threads, most_workers=most)


def _fixed_pool(nodes: Sequence[Node], *, workers: int | None) -> TrainPool:
    gpus = int(sum(node.gpus for node in nodes))
    cpus = sum(sizes := _sizes(nodes))
    if gpus:
        count = workers or gpus
        if count > gpus:
            raise BadRequest(f"--workers is {count}, but the cluster has {gpus} GPU(s); ask for {gpus} or fewer")
        share = min(1.0, _TRAIN_CPU_SHARE * cpus / count)
        return TrainPool(workers=count, cpus_per_worker=share, use_gpu=True, threads_per_worker=1, decode_cpus=1)
    count = workers or max(1, int(cpus) // _THREADS_PER_TRAINER)
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
