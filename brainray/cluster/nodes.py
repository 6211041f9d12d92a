"""The machines of a cluster: waits for those that are to come, and asks each whether it sees the files."""

import time

import pyarrow as pa
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from brainray.callbacks import Say
from brainray.config import ScoreOptions
from brainray.errors import BadRequest, BrainrayError
from brainray.models.bundle import Bundle
from brainray.resources import Node, ScorePool, can_hold, has_processors
from brainray.scoring.estimate import ProbeTimes, probe
from brainray.storage.shared_paths import SharedPaths, unshared_message

from .session import cluster_nodes, own_error, own_errors

_ANSWER_S = 60.0  # of a node: a process is started there
_WORKER_S = 600.0  # of an autoscaler: a machine is started
_LOOK_S = 2.0
_PROBE_S = 300.0


def await_workers(nodes: list[Node], *, say: Say, wait_s: float = _WORKER_S) -> list[Node]:
    """The nodes, as soon as one of them has processors for work: an autoscaler is asked for one."""
    if has_processors(nodes):
        return nodes
    from ray.autoscaler.sdk import request_resources

    say(f"the cluster has no machine with processors for work yet; waiting up to {wait_s / 60:.0f} min for one")
    request_resources(bundles=[{"CPU": 1}])
    deadline = time.monotonic() + wait_s
    try:
        while time.monotonic() < deadline:
            if has_processors(nodes := cluster_nodes()):
                return nodes
            time.sleep(_LOOK_S)
    finally:
        request_resources(bundles=[])  # it was for the start; from now on what waits in line asks for machines
    raise BadRequest(f"the cluster got no machine with processors in {wait_s / 60:.0f} min; start a worker node")


class Replacements:
    """Asks an autoscaler for a machine where none that is left could hold a worker of the pool.

    Ray asks for one too, with all that an actor asks for. But where the types of machines are listed without their
    memory, as on some clouds, an autoscaler finds that no type has any, and the run would wait for ever.
    """

    def __init__(self, pool: ScorePool, *, say: Say) -> None:
        self._pool = pool
        self._say = say
        self._look_at = 0.0
        self._asked = False

    def check(self) -> None:
        """Look at the machines, where the last look was not just now."""
        if (now := time.monotonic()) < self._look_at:
            return
        self._look_at = now + _LOOK_S
        bereft = not can_hold(cluster_nodes(), self._pool)
        if bereft != self._asked:
            self._request([{"CPU": 1, "GPU": 1} if self._pool.on_gpu else {"CPU": 1}] if bereft else [])
            self._asked = bereft
            if bereft:
                self._say("the cluster has lost its last machine for work; another one is asked for")

    def close(self) -> None:
        """Take back what was asked for."""
        if self._asked:
            self._request([])

    def _request(self, bundles: list[dict[str, int]]) -> None:
        from ray.autoscaler.sdk import request_resources

        request_resources(bundles=bundles)


def check_every_node(shared_paths: SharedPaths, *, answer_s: float = _ANSWER_S) -> None:
    """Raise `BadRequest` where a node does not see what the command names. One that does not answer is passed over:

    its workers look for themselves when they start.
    """
    alive = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    working = [node for node in alive if node["Resources"].get("CPU") or node["Resources"].get("GPU")]
    if len(alive) < 2:
        return
    asked = {
        _unseen.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(
            shared_paths
        ): node
        for node in working
    }
    answered, late = ray.wait(list(asked), num_returns=len(asked), timeout=answer_s)
    for reference in late:
        ray.cancel(reference, force=True)
    blind = []
    for reference in answered:
        try:
            unseen = ray.get(reference)
        except ray.exceptions.RayError as exc:
            if own := own_error(exc):
                raise own from exc
            continue  # the node has left
        if unseen is not None:
            blind.append((asked[reference]["NodeManagerHostname"], unseen))
    if blind:
        raise BadRequest(unshared_message(blind))


def probe_on_a_node(rows: pa.Table, bundle: Bundle, options: ScoreOptions, *, on_gpu: bool) -> ProbeTimes:
    """`estimate.probe` where workers will run."""
    asked = _probe.options(num_cpus=1, num_gpus=1 if on_gpu else 0).remote(rows, bundle, options)
    try:
        with own_errors():
            found: ProbeTimes = ray.get(asked, timeout=_PROBE_S)
    except ray.exceptions.GetTimeoutError:
        ray.cancel(asked, force=True)
        raise BrainrayError(f"the cluster did not come to a small probe in {_PROBE_S:g} s; is it busy?") from None
    return found


@ray.remote(max_retries=0)
def _probe(rows: pa.Table, bundle: Bundle, options: ScoreOptions) -> ProbeTimes:
    return probe(rows, bundle, options)


@ray.remote(num_cpus=0, max_retries=0)
def _unseen(shared_paths: SharedPaths) -> str | None:
    return shared_paths.unseen()
