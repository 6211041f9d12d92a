"""The nodes of a cluster: waits for workers, requests replacements, and checks that nodes share the paths.

Must not size pools: `machine.resources` decides how many processes run.
"""

import time

import pyarrow as pa
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from brainray.callbacks import Say
from brainray.config import ScoreOptions
from brainray.errors import BadRequest, BrainrayError
from brainray.machine.resources import Node, ScorePool, can_hold, has_processors
from brainray.models.bundle import Bundle
from brainray.scoring.estimate import ProbeTimes, probe
from brainray.storage.shared_paths import NamedPath, SharedPaths, unshared_message

from .session import cluster_nodes, own_error, own_errors

_ANSWER_S = 60.0  # for a task on a node, which starts a process
_WORKER_S = 600.0  # for an autoscaler, which starts a machine
_POLL_S = 2.0
_PROBE_S = 300.0


def await_workers(nodes: list[Node], *, say: Say, wait_s: float = _WORKER_S) -> list[Node]:
    """Wait until a node has processors for workers, and request one from the autoscaler; returns all nodes.

    Raises `BadRequest` after `wait_s` seconds.
    """
    if has_processors(nodes):
        return nodes
    say(f"the cluster has no machine with processors for work yet; waiting up to {wait_s / 60:.0f} min for one")
    deadline = time.monotonic() + wait_s
    try:
        while time.monotonic() < deadline:
            _request([{"CPU": 1}])
            if has_processors(nodes := cluster_nodes()):
                return nodes
            time.sleep(_POLL_S)
    finally:
        _request([])  # it was for the start only; later, pending actors make Ray request machines
    raise BadRequest(f"the cluster got no machine with processors in {wait_s / 60:.0f} min; start a worker node")


class Replacements:
    """Requests a machine from the autoscaler while no remaining node can hold a worker of the pool.

    Ray requests one too, with the memory of an actor. But on clouds whose machine types are listed without memory, its
    autoscaler finds no type that fits, and the run would wait for ever. A cluster keeps one such request, the last:
    Ray Data replaces it by its own every 20 s, so this one is repeated for as long as it is needed.
    """

    def __init__(self, pool: ScorePool, *, say: Say) -> None:
        self._pool = pool
        self._say = say
        self._next_check_s = 0.0
        self._requested = False

    def check(self) -> None:
        """Read the list of nodes and request what is missing; does nothing within 2 s of the last call."""
        if (now := time.monotonic()) < self._next_check_s:
            return
        self._next_check_s = now + _POLL_S
        if can_hold(cluster_nodes(), self._pool):
            self.close()
            return
        _request([{"CPU": 1, "GPU": 1} if self._pool.on_gpu else {"CPU": 1}])
        if not self._requested:
            self._say("the cluster has lost its last machine for work; another one is asked for")
        self._requested = True

    def close(self) -> None:
        """Withdraw the request."""
        if self._requested:
            _request([])
        self._requested = False


def _request(bundles: list[dict[str, int]]) -> None:
    """Replace the cluster's request for machines, whoever made it."""
    from ray.autoscaler.sdk import request_resources

    request_resources(bundles=bundles)


def check_every_node(shared_paths: SharedPaths, *, answer_s: float = _ANSWER_S) -> frozenset[str]:
    """Return the ids of the nodes that resolve the paths of the command to the same files.

    The only node of a private Ray does. Nodes that do not answer are left out; their workers check on start. Raises
    `BadRequest` where a node resolves a path to another file, or to none.
    """
    alive = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    working = [node for node in alive if node["Resources"].get("CPU")]
    if len(alive) < 2:
        return frozenset(node["NodeID"] for node in alive)
    tasks = {
        _unshared_path.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(
            shared_paths
        ): node
        for node in working
    }
    answered, unanswered = ray.wait(list(tasks), num_returns=len(tasks), timeout=answer_s)
    for reference in unanswered:
        ray.cancel(reference, force=True)
    unshared, checked = [], set()
    for reference in answered:
        try:
            unseen = ray.get(reference)
        except ray.exceptions.RayError as exc:
            if own_exc := own_error(exc):
                raise own_exc from exc
            continue  # the node has left
        if unseen is None:
            checked.add(tasks[reference]["NodeID"])
        else:
            unshared.append((tasks[reference]["NodeManagerHostname"], unseen))
    if unshared:
        raise BadRequest(unshared_message(unshared))
    return frozenset(checked)


def probe_on_a_node(rows: pa.Table, bundle: Bundle, options: ScoreOptions, *, on_gpu: bool) -> ProbeTimes:
    """Run `estimate.probe` on a node of the cluster. Raises `BrainrayError` where none is free within 300 s."""
    tasks = _probe.options(num_cpus=1, num_gpus=1 if on_gpu else 0).remote(rows, bundle, options)
    try:
        with own_errors():
            found: ProbeTimes = ray.get(tasks, timeout=_PROBE_S)
    except ray.exceptions.GetTimeoutError:
        ray.cancel(tasks, force=True)
        raise BrainrayError(f"the cluster did not come to a small probe in {_PROBE_S:g} s; is it busy?") from None
    return found


@ray.remote(max_retries=0)
def _probe(rows: pa.Table, bundle: Bundle, options: ScoreOptions) -> ProbeTimes:
    return probe(rows, bundle, options)


@ray.remote(num_cpus=0, max_retries=0)
def _unshared_path(shared_paths: SharedPaths) -> NamedPath | None:
    return shared_paths.unseen()
