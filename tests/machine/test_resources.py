"""How resources are shared out, decided with no cluster."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brainray.errors import BadRequest
from brainray.machine.resources import Node, can_hold, score_pool, train_pool

sizes = st.lists(st.integers(1, 64), min_size=1, max_size=6)


@pytest.mark.parametrize(
    ("cpus", "images", "actors", "threads"),
    [
        ([1], 9, 1, 1),
        ([2], 7999, 1, 2),
        ([2], 8000, 2, 1),
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


@pytest.mark.parametrize("nodes", [[], [Node(cpus=0)]])
def test_a_cluster_without_a_worker_yet_is_refused_in_words(nodes):
    with pytest.raises(BadRequest, match="start a worker node"):
        score_pool(nodes, workers=None, shards=9, images=9)
    with pytest.raises(BadRequest, match="start a worker node"):
        train_pool(nodes, workers=None)


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
    gib = 1 << 30
    large, small, tiny = (Node(cpus=8, memory_bytes=n * gib) for n in (64, 4, 1))
    pool = score_pool([large, small], workers=None, shards=1000, images=10**6)
    assert pool.actors == 8 + 3
    assert 3 * pool.memory_bytes <= 4 * gib
    assert score_pool([tiny], workers=None, shards=1000, images=10**6).actors == 1


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


def test_a_machine_that_is_too_small_for_a_worker_does_not_count_as_one():
    """Else a run that has lost all others would wait for it."""
    pool = score_pool([Node(cpus=8)], workers=None, shards=100, images=10)
    on_gpus = score_pool([Node(cpus=8, gpus=1)], workers=None, shards=100, images=10)
    assert can_hold([Node(cpus=0), Node(cpus=2)], pool)
    assert not can_hold([Node(cpus=0), Node(cpus=1)], pool)
    assert not can_hold([Node(cpus=8)], on_gpus)
    assert can_hold([Node(cpus=8), Node(cpus=1, gpus=1)], on_gpus)


def test_a_head_without_processors_is_not_counted_where_training_shares_out_processors():
    assert train_pool([Node(cpus=0), Node(cpus=4)], workers=2) == train_pool([Node(cpus=4)], workers=2)


@pytest.mark.parametrize(
    ("cpus", "workers", "expected"), [(1, None, 1), (2, None, 1), (2, 2, 2), (8, None, 4), (1, 2, 2)]
)
def test_training_leaves_processors_to_the_tasks_that_decode(cpus, workers, expected):
    pool = train_pool([Node(cpus=cpus)], workers=workers)
    assert pool.workers == expected
    assert pool.workers * pool.cpus_per_worker + pool.decode_cpus <= cpus + 1e-6
    assert pool.threads_per_worker >= 1


def test_more_train_workers_than_fit_are_refused():
    with pytest.raises(BadRequest, match=r"--workers is 9, but the cluster has 2 processor"):
        train_pool([Node(cpus=2)], workers=9)
    with pytest.raises(BadRequest, match=r"--workers is 3, but the cluster has 2 GPU"):
        train_pool([Node(cpus=16, gpus=2)], workers=3)


@pytest.mark.parametrize(("cpus", "fitting"), [(1, 1), (2, 1), (4, 2), (8, 4), (16, 8)])
def test_as_many_workers_as_join_find_room_on_a_machine_and_no_more(cpus, fitting):
    pool = train_pool([Node(cpus=cpus)], workers=1, most=20)
    assert (pool.workers, pool.most_workers) == (1, 20)
    assert cpus // pool.cpus_per_worker == fitting
    assert pool.threads_per_worker * fitting <= cpus
    on_gpus = train_pool([Node(cpus=cpus, gpus=1)], workers=None, most=4)
    assert on_gpus.use_gpu and on_gpus.workers == 1 and on_gpus.cpus_per_worker < 1
