"""Checks the Ray cluster that a command would use and each of its nodes, or what a local Ray would have.

`python -m brainray.cluster.doctor` runs in a process of its own (`brainray.doctor.checks.findings_of`), because
connecting to something that is no Ray takes minutes or ends the process. Starts no Ray; the assessment of what is
collected here is in `brainray.doctor.nodes`.
"""

import os
import re
import secrets
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import ray
from ray import cloudpickle
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from brainray import storage
from brainray.doctor import nodes as doctor_nodes
from brainray.doctor.checks import (
    Finding,
    counted,
    finding_of_error,
    guarded,
    ok,
    one_line,
    print_findings,
    wrong,
)
from brainray.doctor.inputs import first_image
from brainray.doctor.local_ray import (
    check_address_space,
    check_loopback,
    check_tasks,
    session_folder,
    shared_memory_bytes,
)
from brainray.doctor.machine import check_objects, check_session_folder
from brainray.doctor.nodes import (
    ClusterNode,
    NodeAnswer,
    NodeQuestions,
    assess_cluster,
    assess_node,
    assess_precision,
    facts,
    unanswered_node,
)
from brainray.doctor.output import nearest_folder
from brainray.errors import BadRequest, BrainrayError, StorageError
from brainray.machine.hardware import Machine, read_machine, tasks_left
from brainray.models.bundle import DESCRIPTION
from brainray.models.versions import DISTRIBUTIONS
from brainray.storage.base import FileInfo
from brainray.storage.shared_paths import NamedPath, SharedPaths

from . import ray_internals, session
from .session import cluster_address

_CONNECT_S = 25.0
_POLL_S = 0.2
_CAPTURED_BYTES = 1 << 20
_ANSWER_S = 30.0  # for a task on a node, which starts a process
_NO_HEAD = "see whether it is a Ray head of this version that runs: ray status"
_TOKEN = (
    "set RAY_AUTH_MODE=token here, and give it the head's token: as RAY_AUTH_TOKEN, or in ~/.ray/auth_token, which "
    "`ray get-auth-token` shows there"
)


def ray_findings(request: str) -> Iterator[Finding]:
    """Check the cluster, or the local Ray where there is none. `request` is `NodeQuestions.to_json()`."""
    questions = NodeQuestions.from_json(request)
    if questions.cluster is False:
        yield from check_local_ray(read_machine())
        return
    try:
        address = cluster_address()
    except BadRequest as exc:
        yield finding_of_error("ray cluster", exc)
        return
    if address is not None:
        failure = _connect(address)
        yield from [failure] if failure else check_nodes(questions, address)
    elif questions.cluster:
        start = "start one with `ray start --head`, or name it: RAY_ADDRESS=host:6379"
        yield wrong("ray cluster", "none runs on this machine, and RAY_ADDRESS names none", start)
    else:
        yield from check_local_ray(read_machine())


def _connect(address: str, *, timeout_s: float = _CONNECT_S) -> Finding | None:
    """Connect to a cluster; returns a finding where that fails, else None.

    Ray tries for 20 s to minutes. Its C++ part prints the cause on the standard error stream only, so that is read.
    """
    os.environ["RAY_BACKEND_LOG_LEVEL"] = "warning"
    raised: list[Exception] = []
    deadline_s = time.monotonic() + timeout_s
    with _stderr_captured() as output:
        attempt = threading.Thread(target=_try_to_connect, args=(address, raised), daemon=True)
        attempt.start()
        while attempt.is_alive():
            attempt.join(_POLL_S)
            if re.search(rb"InvalidAuthToken|Unauthenticated", output()):
                return wrong("ray cluster", f"{address} takes nobody without its token", _TOKEN)
            if time.monotonic() > deadline_s:
                return wrong("ray cluster", f"{address} did not answer as Ray within {timeout_s:g} s", _NO_HEAD)
    if not raised:
        return None
    if isinstance(raised[0], BadRequest):
        return finding_of_error("ray cluster", raised[0])
    reason = one_line(str(raised[0]))
    remedy = "install the Python and the Ray of the cluster here, or run on it: `brainray submit`"
    return wrong("ray cluster", f"no connection to {address}: {reason}", remedy if "mismatch" in reason else _NO_HEAD)


def _try_to_connect(address: str, raised: list[Exception]) -> None:
    """Connect in a thread; appends the exception of a failure to `raised`."""
    try:
        session.bring_token(address)  # as `session` does
        ray.init(address=address, log_to_driver=False)
    except Exception as exc:  # noqa: BLE001  the waiting thread reports it
        raised.append(exc)


@contextmanager
def _stderr_captured() -> Iterator[Callable[[], bytes]]:
    """Capture the standard error stream, also of C++; yields a function that reads what was written so far."""
    saved = os.dup(2)
    with tempfile.TemporaryFile() as captured:
        os.dup2(captured.fileno(), 2)
        try:
            yield lambda: os.pread(captured.fileno(), _CAPTURED_BYTES, 0)
        finally:
            os.dup2(saved, 2)
            os.close(saved)


def check_local_ray(machine: Machine) -> Iterator[Finding]:
    """Check what a local Ray would have: processors, session folder, object store."""
    cpus = counted(ray_internals.processors(machine.usable), "processor")
    yield ok("ray", f"{ray.__version__}; no cluster in use, so brainray starts Ray here, with {cpus}")
    yield from guarded("virtual memory", check_address_space)
    yield from guarded("processes", lambda: check_tasks(tasks_left(), machine.usable))
    yield from guarded("loopback network", check_loopback)
    yield from guarded("ray session folder", lambda: check_session_folder(session_folder()))
    folder = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"
    yield from guarded("ray objects", lambda: check_objects(machine, shared_memory_bytes(), folder))


def check_nodes(questions: NodeQuestions, address: str) -> Iterator[Finding]:
    """Check the connected cluster: its nodes, and whether each reads and writes the same locations as this machine."""
    nodes = [_cluster_node(node) for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    yield from assess_cluster(nodes, address)
    here = facts(DISTRIBUTIONS)
    same_code: list[ClusterNode] = []
    bf16: list[tuple[ClusterNode, bool]] = []
    for node, answer in _run_on_nodes(nodes, facts, DISTRIBUTIONS):
        if not isinstance(answer, NodeAnswer):
            yield answer
            continue
        yield from assess_node(node, answer, here)
        bf16.append((node, answer.facts["bf16"]))
        if node.can_work and answer.facts["brainray"] == here["brainray"]:
            same_code.append(node)
    yield from assess_precision(bf16)
    yield from guarded("node paths", lambda: _check_paths(questions, same_code))


def _cluster_node(node: dict[str, Any]) -> ClusterNode:
    """Convert a node from the form of `ray.nodes()`."""
    resources = node["Resources"]
    return ClusterNode(
        node_id=node["NodeID"],
        name=f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})",
        cpus=resources.get("CPU", 0.0),
        gpus=resources.get("GPU", 0.0),
        memory_bytes=int(resources.get("memory", 0)),
        objects_bytes=int(resources.get("object_store_memory", 0)),
    )


def _run_on_nodes(
    nodes: Sequence[ClusterNode], function: Callable[..., Any], *arguments: object, answer_s: float = _ANSWER_S
) -> Iterator[tuple[ClusterNode, Any]]:
    """Run a function on every node; yields each with a `NodeAnswer`, or a `Finding` of its failure, as they arrive."""
    cloudpickle.register_pickle_by_value(doctor_nodes)  # type: ignore[no-untyped-call]
    task = ray.remote(num_cpus=0, max_retries=0)(function)
    began_s, deadline_s = time.time(), time.monotonic() + answer_s
    pending = {
        task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node.node_id, soft=False)).remote(
            *arguments
        ): node
        for node in nodes
    }
    while pending:
        ready, _ = ray.wait(list(pending), num_returns=1, timeout=max(0.0, deadline_s - time.monotonic()))
        if not ready:
            break
        node = pending.pop(ready[0])
        try:
            value = ray.get(ready[0])
        except RayError as exc:
            yield node, wrong(f"node {node.name}", f"a task failed there ({_reason(exc)})", "see its raylet.out")
            continue
        yield node, NodeAnswer(facts=value, sent_s=began_s, received_s=time.time())
    for reference, node in pending.items():
        ray.cancel(reference, force=True)
        yield node, unanswered_node(node, answer_s)


def _reason(exc: RayError) -> str:
    """Return the last line of an error of brainray or Ray."""
    return one_line(str(session.own_error(exc) or exc).strip().rpartition("\n")[2])


def _check_paths(questions: NodeQuestions, nodes: Sequence[ClusterNode]) -> Iterator[Finding]:
    """Check that every node with workers resolves local paths to the same files and may use the same buckets."""
    files = list(_sample_files(questions))
    remote_output = questions.output if questions.output and _is_remote(questions.output) else None
    with _marked_paths(questions, files) as shared_paths:
        remote = [(seen.option, seen.uri) for seen in files if _is_remote(seen.uri)]
        if not (remote or remote_output or shared_paths.seen or shared_paths.mark):
            return
        for node, answer in _run_on_nodes(nodes, path_problems, shared_paths, remote, remote_output):
            if not isinstance(answer, NodeAnswer):
                yield answer
                continue
            name = f"node {node.name} paths"
            for found, remedy in answer.facts["problems"]:
                yield wrong(name, found, remedy)
            if not answer.facts["problems"]:
                yield ok(name, "sees and reaches what this machine does")


def path_problems(
    shared_paths: SharedPaths, remote: list[tuple[str, str]], remote_output: str | None
) -> dict[str, list[tuple[str, str]]]:
    """List the paths this node cannot use, each as (problem, remedy). Runs on the node.

    `remote` has an option and a file in a bucket each; `remote_output` is an output in a bucket.
    """
    problems = []
    unseen = shared_paths.unseen()
    if unseen is not None:
        advice = "mount the same file system at the same place on all nodes, or give s3://"
        problems.append((f"{unseen} is not the same there as here", advice))
    attempts: list[tuple[str, Callable[[], object]]] = [
        (option, partial(storage.read_range, uri, 0, 1)) for option, uri in remote
    ]
    if remote_output is not None:
        attempts.append(("--output", partial(storage.check_access, remote_output, write=True)))
    for option, access in attempts:
        try:
            access()
        except BrainrayError as exc:
            finding = finding_of_error(option, exc, remedy="give every node the same credentials and network")
            problems.append((f"{option} {finding.found}", finding.remedy))
    return {"problems": problems}


@contextmanager
def _marked_paths(questions: NodeQuestions, files: Sequence[NamedPath]) -> Iterator[SharedPaths]:
    """Describe the local paths of this machine. Until the end, a file marks the folder of the output."""
    mark = None
    if questions.output and not _is_remote(questions.output):
        mark = storage.join(nearest_folder(questions.output), f".brainray-doctor-{secrets.token_hex(8)}")
        try:
            storage.write_bytes(mark, b"")
        except StorageError:  # reported by the check of --output
            mark = None
    try:
        seen = tuple(seen for seen in files if not _is_remote(seen.uri))
        yield SharedPaths(output=questions.output or "", mark=mark, seen=seen)
    finally:
        if mark is not None:
            with suppress(StorageError):
                storage.delete(mark)


def _sample_files(questions: NodeQuestions) -> Iterator[NamedPath]:
    """Yield one file for each option. An option without one is reported by its own check."""
    for option, uri in questions.reads:
        with suppress(BrainrayError):
            if option == "--model":
                found: FileInfo | None = next(iter(storage.list_files(storage.join(uri, DESCRIPTION))))
            else:
                found, _ = first_image(uri)
            if found is not None:
                yield NamedPath(option, found.uri, found.version)


def _is_remote(uri: str) -> bool:
    return uri.startswith("s3://")


if __name__ == "__main__":
    print_findings(ray_findings)
