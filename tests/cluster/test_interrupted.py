"""A run that is interrupted while the Ray of its caller goes on, and runs in several threads of a process."""

import pickle
import threading
import time
from contextlib import contextmanager

import pyarrow as pa
import pytest
from support.machine.waiting import wait_for
from support.scoring.runs import request_for

from brainray.cluster import ray_internals, score_workers, session
from brainray.commands.score import score
from brainray.errors import BrainrayError, OutputHeld
from brainray.machine.resources import ScorePool
from brainray.scoring.manifest import Shard
from brainray.storage.lease import refuse_if_held

SHARDS = [Shard(f"{number:020x}", "d" * 20, "manifest", number, 10) for number in range(8)]


def blocking_scorer(folder):
    """A class of scorers that commit the shard they get first, whichever it is, others once there is a file `go`."""

    class BlockingScorer:
        def __init__(self, job):
            self._first = True

        def __call__(self, block):
            name = block["shard_id"][0].as_py()
            while not self._first and not (folder / "go").exists():
                time.sleep(0.02)
            self._first = False
            (folder / name).touch()
            return pa.table({"part": [pickle.dumps((name,))], "remarks": [pickle.dumps([])]})

    return BlockingScorer


def test_no_worker_goes_on_after_an_interrupted_run(local_ray, monkeypatch, tmp_path):
    """Else it writes parts into an output that is no longer the run's, and keeps processors of the caller's Ray."""
    import ray

    monkeypatch.setattr(score_workers, "ShardScorer", blocking_scorer(tmp_path))
    pool, before = ScorePool(actors=1, cpus_per_actor=0.1), {*threading.enumerate()}
    parts = score_workers.score_shards(SHARDS, None, pool, stall_timeout_s=60, check=lambda: None, say=pytest.fail)
    try:
        first = next(parts)[0]
        parts.close()
        left = [thread.name for thread in {*threading.enumerate()} - before if "StreamingExecutor" in thread.name]
        assert left == []
        wait_for(
            lambda: ray.available_resources().get("CPU") == ray.cluster_resources()["CPU"], "its processors are free"
        )
    finally:
        (tmp_path / "go").touch()
    assert [path.name for path in tmp_path.iterdir() if path.name != "go"] == [first]


def test_no_worker_keeps_its_processor_after_a_run_that_failed(local_ray, monkeypatch):
    """Whoever keeps the error, as a notebook does, would keep the processors of the next run."""
    import ray

    class FailingScorer:
        def __init__(self, job):
            pass

        def __call__(self, block):
            raise BrainrayError("one shard fails")

    monkeypatch.setattr(score_workers, "ShardScorer", FailingScorer)
    pool = ScorePool(actors=2, cpus_per_actor=0.1)
    parts = score_workers.score_shards(SHARDS, None, pool, stall_timeout_s=60, check=lambda: None, say=pytest.fail)
    with pytest.raises(BrainrayError, match="one shard fails") as kept:
        list(parts)
    wait_for(lambda: ray.available_resources().get("CPU") == ray.cluster_resources()["CPU"], "its processors are free")
    assert kept.tb


def test_the_engine_ends_before_the_lease_whoever_interrupts(archive, bundle, tmp_path):
    """In a notebook, what is interrupted stays as the last traceback, and would go on."""
    held = []

    def engine(request, plan, lease):
        try:
            yield score_workers  # no part: to count it fails
        finally:
            with pytest.raises(OutputHeld):
                refuse_if_held(request.output)
            held.append(request.output)

    request = request_for(archive(images=1), tmp_path / "run", bundle)
    with pytest.raises(AttributeError) as caught:
        score(request, listener=lambda _: None, say=lambda _: None, engine=engine)
    assert caught.tb and held == [f"{tmp_path}/run"]


class StreamingExecutor(threading.Thread):
    """Named as Ray Data's class is."""

    def __init__(self, identity, ended):
        super().__init__(name=f"StreamingExecutor-{identity}", daemon=True)
        self._ended, self._go_on = ended, threading.Event()

    def run(self):
        self._go_on.wait()

    def shutdown(self, force):
        self._go_on.set()
        self._ended.append(self.name)


class Named:
    def get_dataset_id(self):
        return "brainray_score_A_-1"  # before it was executed


def test_what_the_caller_runs_beside_it_goes_on():
    ended = []
    executors = [StreamingExecutor(name, ended) for name in ("brainray_score_A_0", "brainray_score_AB_0", "mine_C_0")]
    for executor in executors:
        executor.start()
    ray_internals.end_executors(Named())
    assert ended == ["StreamingExecutor-brainray_score_A_0"]
    for executor in executors:
        executor.shutdown(force=True)


@pytest.fixture
def connections(monkeypatch):
    """How many connections to Ray there are, after each begin and end; there is no Ray."""
    counts = [0]

    @contextmanager
    def connected(prestart, environments):
        counts.append(counts[-1] + 1)
        yield []
        counts.append(counts[-1] - 1)

    monkeypatch.setattr(session, "_turn", session._Turn())
    monkeypatch.setattr(session, "_connected", connected)
    monkeypatch.setattr("ray.is_initialized", lambda: counts[-1] > 0)
    monkeypatch.setattr(session, "cluster_nodes", lambda: ["of the connection"])
    return counts


def test_runs_in_two_threads_take_turns(connections):
    """Else the one that ends first ends the Ray of the other, and its workers: a process that dies, or rows lost."""
    waiting, found = threading.Event(), []

    def second():
        with session.session(say=lambda line: (found.append(line), waiting.set())) as nodes:
            found.append(nodes)

    thread = threading.Thread(target=second, daemon=True)
    with session.session(say=pytest.fail):
        with session.session(say=pytest.fail) as nodes:
            assert nodes == ["of the connection"], "a call within a call has the same"
        thread.start()
        assert waiting.wait(60)
        assert connections == [0, 1]
    thread.join(60)
    assert connections == [0, 1, 0, 1, 0]
    assert found == ["another call in this process uses Ray; waiting until it has ended", []]


def test_runs_in_threads_of_a_caller_who_has_connected_do_not_wait(connections):
    connections.append(1)
    with session.session(say=pytest.fail) as nodes:
        thread = threading.Thread(target=lambda: session.session(say=pytest.fail).__enter__(), daemon=True)
        thread.start()
        thread.join(60)
        assert not thread.is_alive()
    assert nodes == ["of the connection"]
    assert connections == [0, 1]


def test_who_was_interrupted_leaves_the_turn_to_others(connections):
    with pytest.raises(KeyboardInterrupt), session.session():
        raise KeyboardInterrupt
    connections.append(0)
    with session.session(say=pytest.fail):
        assert connections[-1] == 1
