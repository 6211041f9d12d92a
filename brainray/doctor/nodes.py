"""What is judged of a cluster and its nodes, by what each said of itself. Imports no Ray: `ray_doctor` asks them."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

from brainray.resources import Node, has_processors, largest_pool

from .checks import Finding, Skew, counted, findings_of, ok, size_text, warning, wrong

TIMEOUT_S = 90
_FEW_BYTES = 5e9
_INSTALL = "install it there, with the versions of constraints.txt"
_SAME = "install the same there as here: pip install --constraint constraints.txt"


@dataclass(frozen=True, kw_only=True)
class NodeQuestions:
    """What is to be asked about a cluster. Locations are normalised."""

    cluster: bool | None  # True: there must be one; False: none is looked for
    reads: tuple[tuple[str, str], ...] = ()  # option and location
    output: str | None = None

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        values = json.loads(text)
        return cls(**values | {"reads": tuple((option, uri) for option, uri in values["reads"])})


def check_ray(asked: NodeQuestions) -> Iterator[Finding]:
    remedy = "see whether what RAY_ADDRESS names, or `ray start` left behind, is a Ray head of this version that runs"
    return findings_of("brainray.cluster.doctor", "ray", asked.to_json(), timeout_s=TIMEOUT_S, remedy=remedy)


@dataclass(frozen=True, kw_only=True)
class ClusterNode:
    """A machine of a cluster, as Ray knows it."""

    node_id: str
    name: str
    cpus: float
    gpus: float
    memory_bytes: int  # for workers
    objects_bytes: int  # for the object store

    @property
    def works(self) -> bool:
        return self.cpus > 0 or self.gpus > 0


def facts(packages: Sequence[Sequence[str]]) -> dict[str, Any]:
    """What a node says of itself. `packages`: `versions.DISTRIBUTIONS`.

    Sent to it by value, for it may have no brainray, or another one: knows nothing of this module.
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
    """The facts of a node, and the times here between which it gave them."""

    facts: dict[str, Any]
    asked_s: float
    answered_s: float


def judge_cluster(nodes: Sequence[ClusterNode], address: str) -> Iterator[Finding]:
    """What it would score with."""
    cpus, gpus = sum(node.cpus for node in nodes), sum(node.gpus for node in nodes)
    memory, objects = sum(node.memory_bytes for node in nodes), sum(node.objects_bytes for node in nodes)
    found = (
        f"{counted(len(nodes), 'node')} at {address}: {counted(cpus, 'processor')}, {counted(gpus, 'GPU')}, "
        f"{size_text(memory)} for workers, "
        f"{size_text(objects)} for objects"
    )
    able = [Node(cpus=node.cpus, gpus=node.gpus, memory_bytes=node.memory_bytes) for node in nodes]
    if not has_processors(able):
        start = "start a worker node; `score` asks an autoscaler for one and waits up to ten minutes"
        yield warning("ray cluster", f"{found}; no node has processors for work yet", start)
        return
    pool = largest_pool(able)
    yield ok("ray cluster", f"{found}; {counted(pool.actors, 'process')} would score")


def judge_node(node: ClusterNode, answer: NodeAnswer, here: dict[str, Any]) -> Iterator[Finding]:
    """One node beside this machine, whose own facts are `here`."""
    theirs = answer.facts
    name = f"node {node.name}"
    # Its clock was read between the two times: so far ahead of it may ours be, at least and at most.
    skew = Skew(least_s=answer.asked_s - theirs["time_s"], most_s=answer.answered_s - theirs["time_s"])
    yield ok(
        name,
        f"{counted(node.cpus, 'processor')}, {counted(node.gpus, 'GPU')}, {size_text(node.memory_bytes)} for workers, "
        f"Python {theirs['python']}, Ray {theirs['ray']}, clock within {skew.within_s:.0f} s",
    )
    if not skew.harmless:
        clock = f"{skew.apart_s:,.0f} s {'behind' if skew.ahead else 'ahead of'} this machine's"
        yield skew.judge(f"{name} clock", clock, "set it there, and keep it set: timedatectl set-ntp true")
    yield from _judge_versions(name, theirs, here)
    if theirs["temporary_free_bytes"] < _FEW_BYTES:
        free = f"{theirs['temporary_folder']} has {size_text(theirs['temporary_free_bytes'])} free"
        yield warning(f"{name} temporary folder", free, "free some: Ray writes logs there, and objects that do not fit")
    if node.cpus > 0 and not node.gpus:
        yield from _judge_memory(name, node)


def _judge_versions(name: str, theirs: dict[str, Any], here: dict[str, Any]) -> Iterator[Finding]:
    for what, remedy in (("python", "install the same Python there"), ("ray", _SAME)):
        if theirs[what] != here[what]:
            yield wrong(f"{name} {what}", f"{theirs[what]} there, {here[what]} here", remedy)
    if theirs["brainray"] is None:
        sent = f"{_INSTALL}, or send it along: ray job submit --working-dir . -- python jobs/score.py ..."
        yield wrong(f"{name} brainray", "is missing", sent)
    elif theirs["brainray"] != here["brainray"]:
        yield wrong(f"{name} brainray", "is another version than here", "install the same there as here")
    pairs = {package: (version, here["packages"][package]) for package, version in theirs["packages"].items()}
    missing = [package for package, (version, _) in pairs.items() if version is None]
    if missing:
        yield wrong(f"{name} packages", f"{', '.join(missing)} missing", _INSTALL)
    other = [f"{package} {theirs} there, {ours} here" for package, (theirs, ours) in pairs.items() if theirs != ours]
    if other and not missing:
        yield warning(f"{name} packages", "; ".join(other), _SAME)


def _judge_memory(name: str, node: ClusterNode) -> Iterator[Finding]:
    wanted, fit = (
        largest_pool([one])
        for one in (Node(cpus=node.cpus), Node(cpus=node.cpus, memory_bytes=max(1, node.memory_bytes)))
    )
    if fit.actors < wanted.actors:
        room = f"room for {fit.actors} of {wanted.actors} scoring processes of {size_text(wanted.memory_bytes)}"
        yield warning(f"{name} memory", room, "take a machine with more memory for each processor")


def judge_precision(nodes: Sequence[tuple[ClusterNode, bool]]) -> Iterator[Finding]:
    """Whether `--precision auto` means the same on all; a flag for each node says whether its processors have bf16."""
    scoring = [(node, bf16) for node, bf16 in nodes if node.cpus > 0]
    if any(node.gpus for node, _ in nodes) or len({bf16 for _, bf16 in scoring}) < 2:
        return
    without = ", ".join(node.name for node, bf16 in scoring if not bf16)
    found = f"nodes without AMX or AVX512-BF16 score in fp32, others in bf16: {without}"
    yield warning(
        "precision", f"{found}; a probability depends on the node in its third digit", "give --precision fp32"
    )


def judge_late(node: ClusterNode, waited_s: float) -> Finding:
    advice = "see whether it runs, is reachable and can start a process: `ray status`, and its raylet.out"
    return wrong(f"node {node.name}", f"did not start a task within {waited_s:g} s", advice)
