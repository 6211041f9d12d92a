"""How shards reach the workers: many in an object of Ray's store, and yet each in a task of its own."""

import pickle

import pyarrow as pa
import pytest

from brainray.cluster import ray_internals, score_workers
from brainray.machine.resources import ScorePool
from brainray.scoring.manifest import Shard

POOL = ScorePool(actors=1, cpus_per_actor=0.1)


def shards(count):
    return [Shard(f"{number:020x}", "d" * 20, f"manifest-{number // 32}", number % 32, 1000) for number in range(count)]


def naming_scorer():
    """A class of scorers that say which shard and which task they were given; local, so that Ray sends it along."""

    class NamingScorer:
        def __init__(self, job):
            self.job = job

        def __call__(self, block):
            import ray

            found = [Shard(**row) for row in block.to_pylist()]
            told = (found, ray.get_runtime_context().get_task_id(), self.job)
            return pa.table({"part": [pickle.dumps(told)], "remarks": [pickle.dumps([])]})

    return NamingScorer


@pytest.fixture
def objects(local_ray, monkeypatch):
    """The objects that the driver puts into the store."""
    import ray

    found, put = [], ray.put
    monkeypatch.setattr("ray.put", lambda value, **kwargs: (found.append(value), put(value, **kwargs))[1])
    return found


@pytest.mark.parametrize(("count", "most"), [(1, 1), (1024, 1), (20_000, 20)])
def test_the_store_holds_a_thousand_shards_in_an_object(objects, count, most):
    """40 million images are 40,000 shards, and a store of as many objects needs minutes and gigabytes."""
    score_workers.score_chain(shards(count), "job", POOL)
    assert len(objects) == most
    assert sum(map(len, objects)) == count


def test_each_shard_is_scored_once_and_in_a_task_of_its_own(objects, monkeypatch):
    monkeypatch.setattr(score_workers, "ShardScorer", naming_scorer())
    monkeypatch.setattr(score_workers, "_SHARDS_A_BLOCK", 16)
    given = shards(40)
    told = list(score_workers.score_shards(given, "job", POOL, stall_timeout_s=60, check=lambda: None, say=pytest.fail))
    assert sorted((found for found, _, _ in told), key=lambda found: found[0].shard_id) == [[each] for each in given]
    assert len({task for _, task, _ in told}) == len(given), "a worker that dies repeats one shard, not its neighbours"


def test_a_ray_without_slices_cuts_the_blocks_itself(monkeypatch):
    asked = []

    class Blocks:
        def repartition(self, **kwargs):
            asked.append(kwargs)
            return "rows"

    assert ray_internals.one_task_a_row(Blocks()) == "rows", "no plan is known"
    monkeypatch.delattr("ray.data._internal.execution.interfaces.ref_bundle.BlockSlice")
    assert ray_internals.one_task_a_row(Blocks()) == "rows"
    assert asked == [{"target_num_rows_per_block": 1}] * 2
