"""Assesses a cluster and its nodes from the facts that each node reports about itself.

Imports no Ray: `brainray.cluster.doctor` collects the facts, in a process of its own.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

from brainray.machine.resources import Node, has_processors, largest_pool

from .checks import Finding, Skew, counted, findings_of, ok, size_text, warning, wrong

TIMEOUT_S = 90
_FEW_BYTES = 5e9
_INSTALL = "install it there, with the versions of constraints.txt"
_SAME = "install the same there as here: pip install --constraint constraints.txt"


@dataclass(frozen=True, kw_only=True)
class NodeQuestions:
    """What to check on a cluster. Locations are normalised."""

    cluster: bool | None  # True: there must be one; False: do not connect to any; None: use one if it runs
    reads: tuple[tuple[str, str], ...] = ()  # option and location of everything that nodes read
    output: str | None = None  # location that nodes write to

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        values = json.loads(text)
        return cls(**values | {"reads": tuple((option, uri) for option, uri in values["reads"])})


def check_ray(questions: NodeQuestions) -> Iterator[Finding]:
    """Check the cluster, or a local Ray, in a process of its own."""
    remedy = "see whether what RAY_ADDRESS names, or `ray start` left behind, is a Ray head of this version that runs"
    return findings_of("brainray.cluster.doctor", "ray", questions.to_json(), timeout_s=TIMEOUT_S, remedy=remedy)


@dataclass(frozen=True, kw_only=True)
class ClusterNode:
    """A machine of a cluster as Ray describes it."""

    node_id: str
    name: str
    cpus: float
    gpus: float
    memory_bytes: int  # for workers
    objects_bytes: int  # for the object store

    @property
    def can_work(self) -> bool:
        """Whether the node can run workers; the head may have no processors for them."""
        return self.cpus > 0


def facts(packages: Sequence[Sequence[str]]) -> dict[str, Any]:
    """Collect a node's versions, code digest, processor features, free space and clock. Runs on the node.

    `packages` is `versions.DISTRIBUTIONS`. The function is pickled by value, because the node may have no brainray or
    another one, so it must not use anything of this module.
    """
    import hashlib
    import importlib.util
    import platform
    import shutil
    import tempfile
    import time
    from importlib import metadata
    from pathlib import Path

    def version(*names: str) -> str | None:
        return next((found.version for name in names for found in metadata.distributions(name=name)), None)

    def digest_of(folder: Path) -> str:
        code = hashlib.sha256()
        for path in sorted(folder.rglob("*.py")):
            code.update(f"{path.relative_to(folder)}\0".encode() + path.read_bytes())
        return code.hexdigest()

    spec = importlib.util.find_spec("brainray")
    info = Path("/proc/cpuinfo")
    features = info.read_text().split("\n\n", 1)[0].split() if info.exists() else []
    return {
        "python": platform.python_version(),
        "ray": version("ray"),
        "brainray": digest_of(Path(spec.origin).parent) if spec and spec.origin else None,
        "packages": {names[0]: version(*names) for names in packages},
        "bf16": "amx_tile" in features or "avx512_bf16" in features,
        "temporary_free_bytes": shutil.disk_usage(tempfile.gettempdir()).free,
        "temporary_folder": tempfile.gettempdir(),
        "time_s": time.time(),
    }


@dataclass(frozen=True, kw_only=True)
class NodeAnswer:
    """A node's facts, and the times on this machine's clock before and after it collected them."""

    facts: dict[str, Any]
    sent_s: float
    received_s: float


def assess_cluster(nodes: Sequence[ClusterNode], address: str) -> Iterator[Finding]:
    """Assess the cluster as a whole: how many processes would score."""
    cpus, gpus = sum(node.cpus for node in nodes), sum(node.gpus for node in nodes)
    memory, objects = sum(node.memory_bytes for node in nodes), sum(node.objects_bytes for node in nodes)
    found = (
        f"{counted(len(nodes), 'node')} at {address}: {counted(cpus, 'processor')}, {counted(gpus, 'GPU')}, "
        f"{size_text(memory)} for workers, "
        f"{size_text(objects)} for objects"
    )
    resources = [Node(cpus=node.cpus, gpus=node.gpus, memory_bytes=node.memory_bytes) for node in nodes]
    if not has_processors(resources):
        start = "start a worker node; `score` asks an autoscaler for one and waits up to ten minutes"
        yield warning("ray cluster", f"{found}; no node has processors for work yet", start)
        return
    pool = largest_pool(resources)
    found = f"{found}; {counted(pool.actors, 'process')} would score"
    idle = [node.name for node in nodes if node.gpus and not node.cpus]
    if idle:
        found = f"{found}; no GPU is used of nodes without processors for work: {', '.join(idle)}"
        yield warning("ray cluster", found, "start Ray there with processors: ray start --num-cpus=1 or more")
    else:
        yield ok("ray cluster", found)


def assess_node(node: ClusterNode, answer: NodeAnswer, here: dict[str, Any]) -> Iterator[Finding]:
    """Assess one node against the facts of this machine, `here`."""
    theirs = answer.facts
    name = f"node {node.name}"
    # The node read its clock between sent_s and received_s.
    skew = Skew(least_s=answer.sent_s - theirs["time_s"], most_s=answer.received_s - theirs["time_s"])
    yield ok(
        name,
        f"{counted(node.cpus, 'processor')}, {counted(node.gpus, 'GPU')}, {size_text(node.memory_bytes)} for workers, "
        f"Python {theirs['python']}, Ray {theirs['ray']}, clock within {skew.most_apart_s:.0f} s",
    )
    if not skew.harmless:
        clock = f"{skew.apart_s:,.0f} s {'behind' if skew.ahead else 'ahead of'} this machine's"
        yield skew.finding(f"{name} clock", clock, "set it there, and keep it set: timedatectl set-ntp true")
    yield from _assess_versions(name, theirs, here)
    if theirs["temporary_free_bytes"] < _FEW_BYTES:
        free = f"{theirs['temporary_folder']} has {size_text(theirs['temporary_free_bytes'])} free"
        yield warning(f"{name} temporary folder", free, "free some: Ray writes logs there, and objects that do not fit")
    if node.cpus > 0 and not node.gpus:
        yield from _assess_memory(name, node)


def _assess_versions(name: str, theirs: dict[str, Any], here: dict[str, Any]) -> Iterator[Finding]:
    """Compare Python, Ray, brainray's code and packages of a node with those here."""
    for program, remedy in (("python", "install the same Python there"), ("ray", _SAME)):
        if theirs[program] != here[program]:
            yield wrong(f"{name} {program}", f"{theirs[program]} there, {here[program]} here", remedy)
    if theirs["brainray"] is None:
        remedy = f"{_INSTALL}, or send it along: ray job submit --working-dir . -- python jobs/score.py ..."
        yield wrong(f"{name} brainray", "is missing", remedy)
    elif theirs["brainray"] != here["brainray"]:
        yield wrong(f"{name} brainray", "is another version than here", "install the same there as here")
    pairs = {package: (version, here["packages"][package]) for package, version in theirs["packages"].items()}
    missing = [package for package, (version, _) in pairs.items() if version is None]
    if missing:
        yield wrong(f"{name} packages", f"{', '.join(missing)} missing", _INSTALL)
    other = [f"{package} {theirs} there, {ours} here" for package, (theirs, ours) in pairs.items() if theirs != ours]
    if other and not missing:
        yield warning(f"{name} packages", "; ".join(other), _SAME)


def _assess_memory(name: str, node: ClusterNode) -> Iterator[Finding]:
    """Assess whether a node's memory suffices for one process for each processor."""
    wanted, fit = (
        largest_pool([one])
        for one in (Node(cpus=node.cpus), Node(cpus=node.cpus, memory_bytes=max(1, node.memory_bytes)))
    )
    if fit.actors < wanted.actors:
        room = f"room for {fit.actors} of {wanted.actors} scoring processes of {size_text(wanted.memory_bytes)}"
        yield warning(f"{name} memory", room, "take a machine with more memory for each processor")


def assess_precision(nodes: Sequence[tuple[ClusterNode, bool]]) -> Iterator[Finding]:
    """Assess whether `--precision auto` gives one precision on all nodes; each comes with whether it has bf16."""
    scoring = [(node, bf16) for node, bf16 in nodes if node.cpus > 0]
    if any(node.gpus for node, _ in scoring) or len({bf16 for _, bf16 in scoring}) < 2:
        return
    without = ", ".join(node.name for node, bf16 in scoring if not bf16)
    found = f"nodes without AMX or AVX512-BF16 score in fp32, others in bf16: {without}"
    yield warning(
        "precision", f"{found}; a probability depends on the node in its third digit", "give --precision fp32"
    )


def unanswered_node(node: ClusterNode, waited_s: float) -> Finding:
    """Make the finding for a node that did not run a task in time."""
    advice = "see whether it runs, is reachable and can start a process: `ray status`, and its raylet.out"
    return wrong(f"node {node.name}", f"did not start a task within {waited_s:g} s", advice)
