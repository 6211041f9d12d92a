"""How resources are shared out, decided with no cluster."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.each import each

from brainray.errors import BadRequest
from brainray.machine.resources import Node, can_hold, score_pool, train_pool

sizes = st.lists(st.integers(1, 64), min_size=1, max_size=6)
GIB = 1 << 30


def trained(cpus, *, gpus=0, workers=None, batch_size=32, most=None):
    nodes = [Node(cpus=n, gpus=gpus) for n in cpus]
    return train_pool(nodes, workers=workers, batch_size=batch_size, most=most)


@each(
    ("cpus", "images", "actors", "threads"),
    [
        ([1], 9, 1, 1),
        ([2], 999, 1, 2),
        ([2], 1000, 2, 1),
        ([3], 9, 3, 1),
        ([8], 9, 4, 2),
        ([8], 10**6, 8, 1),
        ([8, 4], 9, 6, 2),
        ([0, 8], 9, 4, 2),
    ],
)
def test_every_processor_has_a_thread_that_scores(cpus, images, actors, threads):
    pool = score_pool([Node(cpus=n) for n in cpus], workers=None, shards=1000, images=images)
    assert (pool.actors, pool.threads_per_actor) == (actors, threads)


@each("nodes", [[], [Node(cpus=0)]])
def test_a_cluster_without_a_worker_yet_is_refused_in_words(nodes):
    with pytest.raises(BadRequest, match="start a worker node"):
        score_pool(nodes, workers=None, shards=9, images=9)
    with pytest.raises(BadRequest, match="start a worker node"):
        train_pool(nodes, workers=None, batch_size=32)


@given(cpus=sizes, workers=st.none() | st.integers(1, 100), shards=st.integers(1, 100), images=st.integers(1, 10**6))
def test_a_pool_fits_its_cluster_and_leaves_something_over(cpus, workers, shards, images):
    pool = score_pool([Node(cpus=n) for n in cpus], workers=workers, shards=shards, images=images)
    assert 1 <= pool.actors <= (workers or 10**6)
    assert pool.actors * pool.cpus_per_actor < sum(cpus)
    assert pool.cpus_per_actor < min(cpus)  # any node can hold one
    assert sum(int(n // pool.cpus_per_actor) for n in cpus) >= pool.actors
    assert pool.actors * pool.threads_per_actor <= max(sum(cpus), pool.threads_per_actor)


def test_a_machine_of_little_memory_gets_as_many_workers_as_it_can_hold():
    """Or the kernel would kill one after the other, and the run with them."""
    large, small, tiny = (Node(cpus=8, memory_bytes=n * GIB) for n in (64, 4, 1))
    pool = score_pool([large, small], workers=None, shards=1000, images=10**6)
    assert (pool.actors, pool.threads_per_actor) == (4 + 3, 2)
    assert 3 * pool.memory_bytes <= 4 * GIB
    assert score_pool([tiny], workers=None, shards=1000, images=10**6).actors == 1


def test_threads_keep_processors_busy_that_memory_has_no_process_for():
    narrow = score_pool([Node(cpus=2, memory_bytes=2 * GIB)], workers=None, shards=1000, images=10**6)
    assert (narrow.actors, narrow.threads_per_actor) == (1, 2)
    assert score_pool([Node(cpus=2, memory_bytes=0)], workers=None, shards=9, images=9).actors == 1


def test_workers_are_processes_and_share_the_processors():
    two = [Node(cpus=2)]
    assert score_pool(two, workers=2, shards=9, images=9).actors == 2
    assert score_pool(two, workers=2, shards=9, images=9).threads_per_actor == 1
    assert score_pool(two, workers=9, shards=9, images=9).actors == 2
    assert score_pool(two, workers=None, shards=1, images=9).actors == 1


def test_with_gpus_an_actor_holds_one_and_processors_decode():
    pool = score_pool([Node(cpus=8, gpus=2), Node(cpus=8)], workers=None, shards=100, images=9)
    assert pool.on_gpu
    assert (pool.actors, pool.gpus_per_actor) == (2, 1)
    assert pool.actors * pool.cpus_per_actor < 1


@each("nodes", [[Node(cpus=1, gpus=1)], [Node(cpus=0.5, gpus=1)], [Node(cpus=4, gpus=8)], [Node(cpus=64, gpus=8)]])
def test_a_task_that_decodes_has_room_beside_all_actors_of_a_machine_with_gpus(nodes):
    """Else a run with one processor and one GPU, which is what Slurm gives, would wait for ever."""
    pool = score_pool(nodes, workers=None, shards=1000, images=10**6)
    assert pool.on_gpu
    left = nodes[0].cpus - nodes[0].gpus * pool.cpus_per_actor
    assert left // pool.decoder_cpus == max(1, nodes[0].cpus)
    assert pool.cpus_per_actor > 0 < pool.decoder_cpus, "else work would go to a head that is given no processors"
    assert trained([nodes[0].cpus], gpus=nodes[0].gpus).decode_cpus <= nodes[0].cpus


def test_a_gpu_without_a_processor_beside_it_is_not_counted():
    """Else a run would wait for ever for work on a head that has a GPU and no processors."""
    head, plain = Node(cpus=0, gpus=1, memory_bytes=64 * GIB), Node(cpus=2, memory_bytes=4 * GIB)
    assert score_pool([head, plain], workers=None, shards=9, images=9) == score_pool(
        [plain], workers=None, shards=9, images=9
    )
    assert train_pool([head, plain], workers=None, batch_size=32) == train_pool([plain], workers=None, batch_size=32)
    assert not score_pool([Node(cpus=1, gpus=0.5)] * 2, workers=None, shards=9, images=9).on_gpu, "no actor finds one"
    on_gpu = score_pool([head, Node(cpus=2, gpus=1)], workers=None, shards=9, images=9)
    assert on_gpu.actors == 1
    assert not can_hold([head], on_gpu)


def test_a_training_beside_gpus_asks_for_no_processors_of_machines_without():
    """Else it would wait for ever for room on the machine that has the GPUs."""
    pool = train_pool([Node(cpus=2, gpus=4), Node(cpus=64)], workers=None, batch_size=32)
    assert pool.workers * pool.cpus_per_worker <= 2
    elastic = train_pool([Node(cpus=1, gpus=4)], workers=4, batch_size=32, most=8)
    assert elastic.workers * elastic.cpus_per_worker <= 1


def test_a_machine_that_is_too_small_for_a_worker_does_not_count_as_one():
    """Else a run that has lost all others would wait for it."""
    pool = score_pool([Node(cpus=8)], workers=None, shards=100, images=10)
    on_gpus = score_pool([Node(cpus=8, gpus=1)], workers=None, shards=100, images=10)
    assert can_hold([Node(cpus=0), Node(cpus=2)], pool)
    assert not can_hold([Node(cpus=0), Node(cpus=1)], pool)
    assert not can_hold([Node(cpus=8)], on_gpus)
    assert can_hold([Node(cpus=8), Node(cpus=1, gpus=1)], on_gpus)


def test_a_head_without_processors_is_not_counted_where_training_shares_out_processors():
    assert trained([0, 4], workers=2) == trained([4], workers=2)


@each(("cpus", "workers", "expected"), [(1, None, 1), (2, None, 1), (2, 2, 2), (8, None, 4), (1, 2, 2)])
def test_training_leaves_processors_to_the_tasks_that_decode(cpus, workers, expected):
    pool = trained([cpus], workers=workers)
    assert pool.workers == expected
    assert pool.workers * pool.cpus_per_worker + pool.decode_cpus <= cpus + 1e-6
    assert pool.threads_per_worker >= 1


def test_more_train_workers_than_fit_are_refused():
    with pytest.raises(BadRequest, match=r"--workers is 9, but the cluster has 2 processor"):
        trained([2], workers=9)
    with pytest.raises(BadRequest, match=r"--workers is 3, but the cluster has 2 GPU"):
        trained([16], gpus=2, workers=3)


@each(("cpus", "fitting"), [(1, 1), (2, 1), (4, 2), (8, 4), (16, 8)])
def test_as_many_workers_as_join_find_room_on_a_machine_and_no_more(cpus, fitting):
    pool = trained([cpus], workers=1, most=20)
    assert (pool.workers, pool.most_workers) == (1, 20)
    assert cpus // pool.cpus_per_worker == fitting
    assert pool.threads_per_worker * fitting <= cpus
    on_gpus = trained([cpus], gpus=1, most=4)
    assert on_gpus.use_gpu and on_gpus.workers == 1 and on_gpus.cpus_per_worker < 1


@each(
    ("nodes", "actors", "threads"),
    [
        ([Node(cpus=64, memory_bytes=256 * GIB)], 64, 1),
        ([Node(cpus=64, memory_bytes=34 * GIB)] * 3, 3 * 29, 2),  # memory for half of the workers: threads
        ([Node(cpus=1, memory_bytes=2 * GIB)], 1, 1),
        ([Node(cpus=4, memory_bytes=3 * GIB)], 2, 2),  # a cgroup of 4 of 64 processors, and of little memory
        ([Node(cpus=0.5, memory_bytes=2 * GIB)], 1, 1),
    ],
)
def test_a_large_or_a_limited_machine_gets_what_it_has_room_for(nodes, actors, threads):
    pool = score_pool(nodes, workers=None, shards=10**5, images=10**8)
    assert (pool.actors, pool.threads_per_actor) == (actors, threads)
    for node in nodes:
        assert min(node.cpus // pool.cpus_per_actor, node.memory_bytes // pool.memory_bytes) >= actors // len(nodes)


def test_a_machine_of_eight_gpus_decodes_on_all_processors_that_its_memory_allows():
    large = score_pool([Node(cpus=64, gpus=8, memory_bytes=512 * GIB)], workers=None, shards=10**4, images=10**7)
    assert (large.actors, large.gpus_per_actor) == (8, 1)
    assert 63 * large.decoder_bytes < 512 * GIB and 8 * large.cpus_per_actor < 1
    small = score_pool([Node(cpus=64, gpus=8, memory_bytes=16 * GIB)], workers=None, shards=10**4, images=10**7)
    assert 30 <= 16 * GIB // small.decoder_bytes <= 40, "else the kernel kills decoders until the run gives up"
    tiny = score_pool([Node(cpus=2, gpus=1, memory_bytes=GIB // 4)], workers=None, shards=9, images=9)
    assert tiny.decoder_bytes <= GIB // 4, "else no task would ever begin"


@each(
    ("cpus", "gpus", "batch_size", "workers", "threads"),
    [
        ([64], 0, 32, 4, 16),  # 32 workers would learn from one image each
        ([64], 0, 256, 32, 2),
        ([64] * 4, 0, 32, 4, 64),
        ([1], 0, 32, 1, 1),
        ([4], 0, 4, 1, 4),
        ([64], 8, 32, 8, 8),  # threads that augment beside a GPU
        ([64], 8, 4, 4, 8),
        ([4], 4, 32, 4, 1),
    ],
)
def test_training_on_many_processors_keeps_enough_images_for_each_worker(cpus, gpus, batch_size, workers, threads):
    pool = trained(cpus, gpus=gpus, batch_size=batch_size)
    assert (pool.workers, pool.threads_per_worker) == (workers, threads)
    assert pool.workers * pool.cpus_per_worker < sum(cpus) + 1e-6
