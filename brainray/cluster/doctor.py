"""Asks Ray: the cluster a command would use and each of its nodes, or what a Ray started on this machine would have.

`python -m brainray.cluster.doctor` is a program for `doctor.findings_of`: who connects to what is no Ray waits for
minutes, or Ray's library ends the process.
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
    attempted,
    counted,
    finding_of_error,
    ok,
    one_line,
    print_findings,
    warning,
    wrong,
)
from brainray.doctor.inputs import first_image
from brainray.doctor.machine import check_objects, check_session_folder
from brainray.doctor.nodes import (
    ClusterNode,
    NodeAnswer,
    NodeQuestions,
    facts,
    judge_cluster,
    judge_late,
    judge_node,
    judge_precision,
)
from brainray.doctor.output import nearest_folder
from brainray.errors import BadRequest, BrainrayError, StorageError
from brainray.hardware import Machine, read_disk, read_machine
from brainray.models.bundle import DESCRIPTION
from brainray.storage.base import FileInfo
from brainray.storage.shared_paths import NamedPath, SharedPaths
from brainray.versions import DISTRIBUTIONS

from . import ray_internals, session
from .session import cluster_address

_CONNECT_S = 25.0
_TURN_S = 0.2
_HEARD_BYTES = 1 << 20
_ANSWER_S = 30.0  # of a node, which starts a process for it
_NO_HEAD = "see whether it is a Ray head of this version that runs: ray status"
_TOKEN = (
    "set RAY_AUTH_MODE=token here, and give it the head's token: as RAY_AUTH_TOKEN, or in ~/.ray/auth_token, which "
    "`ray get-auth-token` shows there"
)


def look_at_ray(request: str) -> Iterator[Finding]:
    """What the program tells."""
    asked = NodeQuestions.from_json(request)
    if asked.cluster is False:
        yield from look_here(read_machine())
        return
    try:
        address = cluster_address()
    except BadRequest as exc:
        yield finding_of_error("ray cluster", exc)
        return
    if address is not None:
        unreached = _connect(address)
        yield from [unreached] if unreached else look_at_cluster(asked, address)
    elif asked.cluster:
        start = "start one with `ray start --head`, or name it: RAY_ADDRESS=host:6379"
        yield wrong("ray cluster", "none runs on this machine, and RAY_ADDRESS names none", start)
    else:
        yield from look_here(read_machine())


def _connect(address: str, *, timeout_s: float = _CONNECT_S) -> Finding | None:
    """Why there is no connection; None where there is one.

    Ray tries for 20 s to minutes. What its C++ knows better by then is on the standard error stream, in no exception.
    """
    os.environ["RAY_BACKEND_LOG_LEVEL"] = "warning"
    raised: list[Exception] = []
    deadline_s = time.monotonic() + timeout_s
    with _stderr_captured() as said:
        trying = threading.Thread(target=_try_to_connect, args=(address, raised), daemon=True)
        trying.start()
        while trying.is_alive():
            trying.join(_TURN_S)
            if re.search(rb"InvalidAuthToken|Unauthenticated", said()):
                return wrong("ray cluster", f"{address} takes nobody without its token", _TOKEN)
            if time.monotonic() > deadline_s:
                return wrong("ray cluster", f"{address} did not answer as Ray within {timeout_s:g} s", _NO_HEAD)
    if not raised:
        return None
    if isinstance(raised[0], BadRequest):
        return finding_of_error("ray cluster", raised[0])
    why = one_line(str(raised[0]))
    remedy = "install the Python and the Ray of the cluster here, or run on it: `brainray submit`"
    return wrong("ray cluster", f"no connection to {address}: {why}", remedy if "mismatch" in why else _NO_HEAD)


def _try_to_connect(address: str, raised: list[Exception]) -> None:
    try:
        session.bring_token(address)  # as `session` does
        ray.init(address=address, log_to_driver=False)
    except Exception as exc:  # noqa: BLE001  it is told by who waits
        raised.append(exc)


@contextmanager
def _stderr_captured() -> Iterator[Callable[[], bytes]]:
    """What is written to the standard error stream meanwhile, by C++ too."""
    kept = os.dup(2)
    with tempfile.TemporaryFile() as heard:
        os.dup2(heard.fileno(), 2)
        try:
            yield lambda: os.pread(heard.fileno(), _HEARD_BYTES, 0)
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def look_here(machine: Machine) -> Iterator[Finding]:
    """What the Ray will find that a command starts here, where there is no cluster."""
    cpus = ray_internals.processors()
    found = f"{ray.__version__}; no cluster in use, so brainray starts Ray here, with {counted(cpus, 'processor')}"
    if cpus > machine.usable:
        fitting = max(1, int(machine.usable))
        advice = f"give --workers {fitting}, or start Ray yourself: ray start --head --num-cpus={fitting}"
        yield warning("ray", f"{found}, of which {machine.usable:g} may be used", advice)
    else:
        yield ok("ray", found)
    folder = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"
    yield from attempted("ray session folder", lambda: check_session_folder(folder))
    yield from attempted("ray objects", lambda: check_objects(machine, read_disk("/dev/shm").free_bytes, folder))


def look_at_cluster(asked: NodeQuestions, address: str) -> Iterator[Finding]:
    """The cluster connected to: its nodes, and whether each sees and reaches what this machine does."""
    nodes = [_described(node) for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    yield from judge_cluster(nodes, address)
    here = facts(DISTRIBUTIONS)
    able: list[ClusterNode] = []
    bf16: list[tuple[ClusterNode, bool]] = []
    for node, answer in _ask(nodes, facts, DISTRIBUTIONS):
        if not isinstance(answer, NodeAnswer):
            yield answer
            continue
        yield from judge_node(node, answer, here)
        bf16.append((node, answer.facts["bf16"]))
        if node.works and answer.facts["brainray"] == here["brainray"]:
            able.append(node)
    yield from judge_precision(bf16)
    yield from attempted("node paths", lambda: _look_at_paths(asked, able))


def _described(node: dict[str, Any]) -> ClusterNode:
    resources = node["Resources"]
    return ClusterNode(
        node_id=node["NodeID"],
        name=f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})",
        cpus=resources.get("CPU", 0.0),
        gpus=resources.get("GPU", 0.0),
        memory_bytes=int(resources.get("memory", 0)),
        objects_bytes=int(resources.get("object_store_memory", 0)),
    )


def _ask(
    nodes: Sequence[ClusterNode], function: Callable[..., Any], *arguments: object, answer_s: float = _ANSWER_S
) -> Iterator[tuple[ClusterNode, Any]]:
    """Each node with its `Answer`, or with what is wrong with it; in the order in which they come."""
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
            yield node, wrong(f"node {node.name}", f"a task failed there ({_why(exc)})", "see its raylet.out")
            continue
        yield node, NodeAnswer(facts=value, asked_s=began_s, answered_s=time.time())
    for reference, node in pending.items():
        ray.cancel(reference, force=True)
        yield node, judge_late(node, answer_s)


def _why(exc: RayError) -> str:
    return one_line(str(session.own_error(exc) or exc).strip().rpartition("\n")[2])


def _look_at_paths(asked: NodeQuestions, nodes: Sequence[ClusterNode]) -> Iterator[Finding]:
    """Whether every node that works sees the same files, and may use the same buckets."""
    files = list(_files(asked))
    written = asked.output if asked.output and _is_far(asked.output) else None
    with _shared_paths(asked, files) as shared_paths:
        far = [(seen.option, seen.uri) for seen in files if _is_far(seen.uri)]
        if not (far or written or shared_paths.seen or shared_paths.mark):
            return
        for node, answer in _ask(nodes, reach, shared_paths, far, written):
            if not isinstance(answer, NodeAnswer):
                yield answer
                continue
            name = f"node {node.name} paths"
            for found, remedy in answer.facts["problems"]:
                yield wrong(name, found, remedy)
            if not answer.facts["problems"]:
                yield ok(name, "sees and reaches what this machine does")


def reach(
    shared_paths: SharedPaths, far: list[tuple[str, str]], written: str | None
) -> dict[str, list[tuple[str, str]]]:
    """On a node: what it does not see or may not use, and what to do. `far`: an option and its file in a bucket."""
    problems = []
    unseen = shared_paths.unseen()
    if unseen is not None:
        advice = "mount the same file system at the same place on all nodes, or give s3://"
        problems.append((f"{unseen} is not the same there as here", advice))
    tries: list[tuple[str, Callable[[], object]]] = [
        (option, partial(storage.read_range, uri, 0, 1)) for option, uri in far
    ]
    if written is not None:
        tries.append(("--output", partial(storage.check_access, written, write=True)))
    for option, attempt in tries:
        try:
            attempt()
        except BrainrayError as exc:
            finding = finding_of_error(option, exc, remedy="give every node the same credentials and network")
            problems.append((f"{option} {finding.found}", finding.remedy))
    return {"problems": problems}


@contextmanager
def _shared_paths(asked: NodeQuestions, files: Sequence[NamedPath]) -> Iterator[SharedPaths]:
    """What this machine sees of local paths. While it lasts, the folder of the output holds a file that marks it."""
    mark = None
    if asked.output and not _is_far(asked.output):
        mark = storage.join(nearest_folder(asked.output), f".brainray-doctor-{secrets.token_hex(8)}")
        try:
            storage.write_bytes(mark, b"")
        except StorageError:  # which the check of the output tells
            mark = None
    try:
        seen = tuple(seen for seen in files if not _is_far(seen.uri))
        yield SharedPaths(output=asked.output or "", mark=mark, seen=seen)
    finally:
        if mark is not None:
            with suppress(StorageError):
                storage.delete(mark)


def _files(asked: NodeQuestions) -> Iterator[NamedPath]:
    """A file that each option stands for. What cannot be found from here is left to the checks of the option."""
    for option, uri in asked.reads:
        with suppress(BrainrayError):
            if option == "--model":
                found: FileInfo | None = next(iter(storage.list_files(storage.join(uri, DESCRIPTION))))
            else:
                found, _ = first_image(uri)
            if found is not None:
                yield NamedPath(option, found.uri, found.version)


def _is_far(uri: str) -> bool:
    return uri.startswith("s3://")


if __name__ == "__main__":
    print_findings(look_at_ray)
