"""Checks this machine: Python, packages, processors, memory, and the room in the folders of a run.

Imports neither Ray nor torch, and changes nothing.
"""

import os
import platform
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from importlib import metadata
from typing import TYPE_CHECKING

import brainray
from brainray import storage
from brainray.errors import StorageError
from brainray.machine.hardware import Machine, read_disk
from brainray.machine.resources import Node, largest_pool, missing_memory

from .checks import Finding, counted, ok, size_text, warning, wrong

if TYPE_CHECKING:
    from packaging.requirements import Requirement

_SHOWN = ("ray", "torch", "torchvision", "numpy", "pyarrow", "pillow", "obstore", "botocore")
# Memory of the driver (0.3 GB) and of Ray's own processes (0.7 GB) on a local Ray.
_OTHERS_BYTES = 1 << 30
_OBJECTS_SHARE = 0.3  # share of the free memory that Ray takes for objects; workers get the rest
_FULL = 0.95  # share of a disk in use above which Ray writes no objects to it
_FEW_BYTES, _TOO_FEW_BYTES = 5e9, 0.5e9
_FEW_INODES = 1000


def check_python() -> Iterator[Finding]:
    """Check the version of Python against the one that brainray requires."""
    wanted, _ = _requirements()
    found = f"{platform.python_version()} ({sys.executable})"
    from packaging.specifiers import SpecifierSet

    if wanted and not SpecifierSet(wanted).contains(platform.python_version(), prereleases=True):
        yield wrong("python", found, f"brainray needs Python {wanted}: make the environment anew with one")
    else:
        yield ok("python", found)


def check_packages() -> Iterator[Finding]:
    """Check that the packages brainray requires, and those of their extras, are installed in matching versions."""
    from packaging.requirements import Requirement

    _, needed = _requirements()
    if not needed:
        yield warning("packages", "brainray is not installed, so its requirements are not known", "pip install .")
        return
    direct = [
        requirement
        for requirement in map(Requirement, needed)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""})
    ]
    required = [*direct, *(indirect for requirement in direct for indirect in _requirements_of_extras(requirement))]
    versions = {requirement.name: _version(requirement.name) for requirement in required}
    unfit: dict[str, str] = {}
    for requirement in required:
        version = versions[requirement.name]
        if version is None or not requirement.specifier.contains(version, prereleases=True):
            unfit[requirement.name] = str(requirement.specifier)
    for name, specifier in unfit.items():
        found = f"{name} {versions[name]} is installed, not {specifier}" if versions[name] else f"{name} is missing"
        yield wrong("packages", found, f"pip install '{name}{specifier}'")
    shown = ", ".join(f"{name} {versions[name]}" for name in _SHOWN if versions.get(name))
    if not unfit:
        yield ok("packages", f"{len(versions)} as required: {shown} ...")


def _requirements() -> tuple[str | None, list[str]]:
    """Read the required Python and packages from pyproject.toml beside the package, else from installed metadata."""
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


def _requirements_of_extras(extra_of: "Requirement") -> "Iterator[Requirement]":
    from packaging.requirements import Requirement

    if _version(extra_of.name) is None:
        return
    for requirement in map(Requirement, metadata.requires(extra_of.name) or ()):
        marker = requirement.marker
        if marker is None or marker.evaluate({"extra": ""}):
            continue
        if any(marker.evaluate({"extra": extra}) for extra in extra_of.extras):
            yield requirement


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def check_processors(machine: Machine, architecture: str = platform.machine()) -> Iterator[Finding]:
    count = f"{machine.usable:g} usable of {machine.processors}"
    if machine.usable < 1:
        yield warning("processors", f"{count}: a quota below 1, used as one slow processor", "raise the quota to 1")
    elif machine.bf16:
        units = "AMX" if "amx_tile" in machine.features else "AVX512-BF16"
        yield ok("processors", f"{count}, with {units}: scores in bf16")
    elif architecture == "x86_64" and machine.features and "avx2" not in machine.features:
        yield warning("processors", f"{count}, without AVX2: scores slowly", "take a machine made after 2015, or a GPU")
    else:
        yield ok("processors", f"{count}, without AMX or AVX512-BF16: scores in fp32")


def check_memory(machine: Machine) -> Iterator[Finding]:
    """Check the free memory against the pool that `machine.resources` would build: one process for each processor."""
    if not machine.memory_bytes:
        yield warning("memory", "not known: /proc/meminfo cannot be read", "see that there is 1 GB for each processor")
        return
    left = max(1, int((1 - _OBJECTS_SHARE) * (machine.available_bytes - _OTHERS_BYTES)))
    free = f"{size_text(machine.available_bytes)} free of {size_text(machine.memory_bytes)}"
    cpus = max(1, int(machine.usable))
    wanted, fit = (largest_pool([node]) for node in (Node(cpus=cpus), Node(cpus=cpus, memory_bytes=left)))
    each = f"of {size_text(wanted.memory_bytes)}"
    remedy = "end what else uses memory, or take a larger machine or a higher limit of the container"
    if missing_bytes := missing_memory(machine.available_bytes):
        yield wrong("memory", f"{free}, {size_text(missing_bytes)} too little for Ray and one worker", remedy)
    elif fit.memory_bytes < wanted.memory_bytes:
        yield warning("memory", f"{free}, little for one scoring process {each} beside Ray", remedy)
    elif fit.actors < wanted.actors:
        yield warning("memory", f"{free}, room for {fit.actors} of {wanted.actors} scoring processes {each}", remedy)
    else:
        yield ok("memory", f"{free}, room for {counted(wanted.actors, 'scoring process')} {each}")


def check_temporary_folder() -> Iterator[Finding]:
    """Check the folder for listings and copies of manifests, which exist while a run lasts."""
    try:
        folder = tempfile.gettempdir()
    except FileNotFoundError:
        yield wrong("temporary folder", "none can be written to", "set TMPDIR to a folder on a disk with room")
        return
    yield check_room("temporary folder", folder, "TMPDIR")


def check_room(check: str, folder: str, variable: str) -> Finding:
    """Check that a file can be made in a local folder, and how much space it has. `variable` sets the folder."""
    remedy = f"free some, or set {variable} to a folder on another disk"
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(4096))
    except OSError as exc:
        return wrong(check, f"{folder} cannot be written to ({exc.strerror})", remedy)
    disk = read_disk(folder)
    found = f"{folder} has {size_text(disk.free_bytes)} free of {size_text(disk.total_bytes)}"
    if disk.free_bytes < _TOO_FEW_BYTES:
        return wrong(check, found, remedy)
    if disk.free_files is not None and disk.free_files < _FEW_INODES:
        return wrong(check, f"{folder} has room for {disk.free_files:,} more files only (inodes)", remedy)
    if disk.free_bytes < _FEW_BYTES:
        return warning(check, found, remedy)
    return ok(check, found)


def check_session_folder(folder: str) -> Iterator[Finding]:
    """Check the room in the folder where a local Ray keeps logs, sockets, and objects spilled from memory."""
    while not os.path.exists(folder):
        folder = os.path.dirname(folder)
    finding = check_room("ray session folder", folder, "RAY_TMPDIR")
    disk = read_disk(folder)
    if finding.status == "ok" and disk.free_bytes < (1 - _FULL) * disk.total_bytes:
        advice = "free some, or set RAY_TMPDIR to a folder on another disk"
        finding = warning(finding.check, f"{finding.found}: above 95 % Ray moves no objects to the disk", advice)
    yield finding


def check_objects(machine: Machine, shared_bytes: int, folder: str) -> Iterator[Finding]:
    """Check the object store of a local Ray. `shared_bytes`: free in /dev/shm; `folder`: used for what exceeds it."""
    wanted = _OBJECTS_SHARE * machine.available_bytes
    found = f"/dev/shm has {size_text(shared_bytes)} free"
    if shared_bytes >= wanted:
        yield ok("ray objects", f"{found}, of which Ray takes up to {size_text(wanted)}")
        return
    advice = f"enlarge it: docker run --shm-size={wanted / 1e9 * 1.1:.0f}g, or mount -o remount,size=... /dev/shm"
    yield warning("ray objects", f"{found}, not the {size_text(wanted)} Ray wants, which go to {folder}", advice)
