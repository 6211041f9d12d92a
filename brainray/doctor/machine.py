"""Checks of this machine: Python, packages, processors, memory, folders, open files; what a Ray on it would need."""

import os
import platform
import resource
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from importlib import metadata
from typing import TYPE_CHECKING

import brainray
from brainray import storage
from brainray.errors import StorageError
from brainray.hardware import Machine, read_disk
from brainray.resources import Node, largest_pool

from .checks import Finding, counted, ok, size_text, warning, wrong

if TYPE_CHECKING:
    from packaging.requirements import Requirement

_SHOWN = ("ray", "torch", "torchvision", "numpy", "pyarrow", "pillow", "obstore", "botocore")
# Driver and Ray's own processes on a local Ray: 0.3 GB and 0.7 GB.
_OTHERS_BYTES = 1 << 30
_OBJECTS_SHARE = 0.3  # of the memory that is free, which Ray takes for objects; workers get the rest
_SESSION = "session_2026-01-31_00-00-00_000000"
_LONGEST_SOCKET = 107  # bytes of its path
_FULL = 0.95  # of a disk: from there on Ray writes no objects to it
_FEW_FILES, _TOO_FEW_FILES = 4096, 256  # Ray warns below the former; 64 reads at a time need more than the latter
_RAISED_TO = 65536  # by Ray, where the hard limit allows
_FEW_BYTES, _TOO_FEW_BYTES = 5e9, 0.5e9
_FEW_INODES = 1000


def check_python() -> Iterator[Finding]:
    wanted, _ = _requirements()
    found = f"{platform.python_version()} ({sys.executable})"
    from packaging.specifiers import SpecifierSet

    if wanted and not SpecifierSet(wanted).contains(platform.python_version(), prereleases=True):
        yield wrong("python", found, f"brainray needs Python {wanted}: make the environment anew with one")
    else:
        yield ok("python", found)


def check_packages() -> Iterator[Finding]:
    """What brainray needs, and what the extras it asks for need: at versions in the ranges it names."""
    from packaging.requirements import Requirement

    _, needed = _requirements()
    if not needed:
        yield warning("packages", "brainray is not installed, so its requirements are not known", "pip install .")
        return
    direct = [one for one in map(Requirement, needed) if one.marker is None or one.marker.evaluate({"extra": ""})]
    required = [*direct, *(indirect for one in direct for indirect in _of_extras(one))]
    versions = {one.name: _version(one.name) for one in required}
    unfit: dict[str, str] = {}
    for one in required:
        version = versions[one.name]
        if version is None or not one.specifier.contains(version, prereleases=True):
            unfit[one.name] = str(one.specifier)
    for name, specifier in unfit.items():
        there = f"{name} {versions[name]} is installed, not {specifier}" if versions[name] else f"{name} is missing"
        yield wrong("packages", there, f"pip install '{name}{specifier}'")
    shown = ", ".join(f"{name} {versions[name]}" for name in _SHOWN if versions.get(name))
    if not unfit:
        yield ok("packages", f"{len(versions)} as required: {shown} ...")


def _requirements() -> tuple[str | None, list[str]]:
    """Python and packages: by pyproject.toml beside the package, where it runs from a folder, else as installed."""
    folder = os.path.dirname(os.path.dirname(os.path.abspath(brainray.__file__)))
    try:
        project = tomllib.loads(storage.read_bytes(f"{folder}/pyproject.toml").decode())["project"]
        if project["name"] == brainray.__name__:
            return project["requires-python"], project["dependencies"]
    except (StorageError, KeyError, ValueError):
        pass
    try:
        return metadata.metadata("brainray")["Requires-Python"], metadata.requires("brainray") or []
    except metadata.PackageNotFoundError:
        return None, []


def _of_extras(asked: "Requirement") -> "Iterator[Requirement]":
    from packaging.requirements import Requirement

    if _version(asked.name) is None:
        return
    for one in map(Requirement, metadata.requires(asked.name) or ()):
        marker = one.marker
        if marker is None or marker.evaluate({"extra": ""}):
            continue
        if any(marker.evaluate({"extra": extra}) for extra in asked.extras):
            yield one


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def check_processors(machine: Machine, architecture: str = platform.machine()) -> Iterator[Finding]:
    count = f"{machine.usable:g} usable of {machine.processors}"
    if machine.usable < 1:
        yield wrong("processors", f"{count}: a quota below 1, which Ray rounds down to none", "raise the quota to 1")
    elif machine.bf16:
        units = "AMX" if "amx_tile" in machine.features else "AVX512-BF16"
        yield ok("processors", f"{count}, with {units}: scores in bf16")
    elif architecture == "x86_64" and machine.features and "avx2" not in machine.features:
        yield warning("processors", f"{count}, without AVX2: scores slowly", "take a machine made after 2015, or a GPU")
    else:
        yield ok("processors", f"{count}, without AMX or AVX512-BF16: scores in fp32")


def check_memory(machine: Machine) -> Iterator[Finding]:
    """Against what `pools` makes of it: a process for each processor, as far as there is memory."""
    if not machine.memory_bytes:
        yield warning("memory", "not known: /proc/meminfo cannot be read", "see that there is 1 GB for each processor")
        return
    left = max(1, int((1 - _OBJECTS_SHARE) * (machine.available_bytes - _OTHERS_BYTES)))
    free = f"{size_text(machine.available_bytes)} free of {size_text(machine.memory_bytes)}"
    cpus = max(1, int(machine.usable))
    wanted, fit = (largest_pool([node]) for node in (Node(cpus=cpus), Node(cpus=cpus, memory_bytes=left)))
    each = f"of {size_text(wanted.memory_bytes)}"
    remedy = "end what else uses memory, or take a larger machine or a higher limit of the container"
    if fit.memory_bytes < wanted.memory_bytes:
        yield wrong("memory", f"{free}, too little for one scoring process {each} beside Ray", remedy)
    elif fit.actors < wanted.actors:
        yield warning("memory", f"{free}, room for {fit.actors} of {wanted.actors} scoring processes {each}", remedy)
    else:
        yield ok("memory", f"{free}, room for {counted(wanted.actors, 'scoring process')} {each}")


def check_temporary_folder() -> Iterator[Finding]:
    """Where listings and copies of manifests lie while a run lasts."""
    try:
        folder = tempfile.gettempdir()
    except FileNotFoundError:
        yield wrong("temporary folder", "none can be written to", "set TMPDIR to a folder on a disk with room")
        return
    yield check_room("temporary folder", folder, "TMPDIR")


def check_room(check: str, folder: str, variable: str) -> Finding:
    """Whether a file can be made in a folder of this machine, and how much more fits."""
    elsewhere = f"free some, or set {variable} to a folder on another disk"
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(4096))
    except OSError as exc:
        return wrong(check, f"{folder} cannot be written to ({exc.strerror})", elsewhere)
    disk = read_disk(folder)
    found = f"{folder} has {size_text(disk.free_bytes)} free of {size_text(disk.total_bytes)}"
    if disk.free_bytes < _TOO_FEW_BYTES:
        return wrong(check, found, elsewhere)
    if disk.free_files is not None and disk.free_files < _FEW_INODES:
        return wrong(check, f"{folder} has room for {disk.free_files:,} more files only (inodes)", elsewhere)
    if disk.free_bytes < _FEW_BYTES:
        return warning(check, found, elsewhere)
    return ok(check, found)


def check_session_folder(folder: str) -> Iterator[Finding]:
    """Where a Ray that is started here keeps logs, sockets, and objects that memory does not hold."""
    check, longest = "ray session folder", f"{folder}/ray/{_SESSION}_{os.getpid()}/sockets/plasma_store"
    if len(os.fsencode(longest)) > _LONGEST_SOCKET:
        found = f"{folder} is too long for the sockets in it ({len(longest)} bytes, {_LONGEST_SOCKET} allowed)"
        yield wrong(check, found, "set RAY_TMPDIR to a shorter folder, such as /tmp")
        return
    finding = check_room(check, folder, "RAY_TMPDIR")
    disk = read_disk(folder)
    if finding.status == "ok" and disk.free_bytes < (1 - _FULL) * disk.total_bytes:
        advice = "free some, or set RAY_TMPDIR to a folder on another disk"
        finding = warning(check, f"{finding.found}: above 95 % Ray moves no objects to the disk", advice)
    yield finding


def check_objects(machine: Machine, shared_bytes: int, folder: str) -> Iterator[Finding]:
    """The object store of a Ray that is started here. `shared_bytes`: free in /dev/shm."""
    wanted = _OBJECTS_SHARE * machine.available_bytes
    found = f"/dev/shm has {size_text(shared_bytes)} free"
    if shared_bytes >= wanted:
        yield ok("ray objects", f"{found}, of which Ray takes up to {size_text(wanted)}")
        return
    advice = f"enlarge it: docker run --shm-size={wanted / 1e9 * 1.1:.0f}g, or mount -o remount,size=... /dev/shm"
    yield warning("ray objects", f"{found}, not the {size_text(wanted)} Ray wants, which go to {folder}", advice)


def check_open_files() -> Iterator[Finding]:
    """Ray raises the soft limit as far as the hard one allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = sys.maxsize if soft == resource.RLIM_INFINITY else soft
    limit = max(limit, _RAISED_TO if hard == resource.RLIM_INFINITY else min(hard, _RAISED_TO))
    remedy = f"ulimit -n {_RAISED_TO} before the run, or LimitNOFILE={_RAISED_TO} in its service"
    if limit < _TOO_FEW_FILES:
        yield wrong("open files", f"at most {limit:,}, too few for 64 reads at a time", remedy)
    elif limit < _FEW_FILES:
        yield warning("open files", f"at most {limit:,}; connections may fail", remedy)
    else:
        yield ok("open files", f"at most {limit:,}")
