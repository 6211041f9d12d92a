"""The house: imports run one way, foreign libraries are where `ls` shows it, what starts fast imports nothing heavy."""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from support.each import each
from support.imports import MODULES, imports, opening_calls, own_imports, read

# A package imports only those above it. The modules at the top of `brainray/` have their places in it, too.
ORDER = (
    "callbacks",
    "errors",
    "config",
    "machine",
    "storage",
    "evaluation",
    "inputs",
    "imaging",
    "models",
    "duplicates",
    "page",
    "scoring",
    "training",
    "doctor",
    "cluster",
    "commands",
    "cli",
    "api",
    "",
    "__main__",
)
# Foreign libraries besides numpy and pyarrow, by the folder or the file that may import them, lazily or not.
FOREIGN = {
    "storage/s3": {"boto3", "botocore", "obstore"},
    "evaluation": {"matplotlib", "scipy", "threadpoolctl"},
    "inputs/frames": {"nibabel", "pydicom"},
    "imaging": {"PIL", "cv2"},
    "imaging/dicom": {"PIL", "gdcm", "pydicom"},
    "imaging/heif": {"pi_heif"},
    "imaging/nifti": {"PIL"},
    "models": {"torch", "torchvision", "safetensors"},
    "duplicates": {"PIL", "cv2", "faiss", "jinja2", "scipy"},
    "page": {"PIL", "jinja2", "markupsafe"},
    "scoring": {"duckdb"},
    "scoring/export": {"highdicom", "pydicom"},
    "training": {"cv2", "jinja2", "sklearn", "torch"},
    "doctor": {"packaging"},
    "doctor/gpu": {"torch", "torchvision"},
    "cluster": {"ray", "torch"},
    "cli": {"rich", "typer"},
}
ANYWHERE = {"numpy", "pyarrow"}


def room(module: str) -> str:
    """`storage/s3/listing` of brainray.storage.s3.listing."""
    return "/".join(module.split(".")[1:])


def place(module: str) -> int:
    return ORDER.index(room(module).split("/")[0])


def test_every_package_has_its_place():
    assert {room(module).split("/")[0] for module in MODULES} == set(ORDER)


def test_imports_run_one_way():
    for module in MODULES:
        upwards = {other for other in own_imports(module) if place(other) > place(module)}
        assert not upwards, f"{module} must not import {sorted(upwards)}"


def test_no_file_imports_itself_in_a_circle():
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, f"a circle: {' -> '.join((*trail[trail.index(module) :], module))}"
        if module not in done:
            for other in sorted(own_imports(module)):
                visit(other, (*trail, module))
            done.add(module)

    for module in MODULES:
        visit(module, ())


def below(module: str, where: str) -> bool:
    return f"{room(module)}/".startswith(f"{where}/")


def test_foreign_libraries_are_where_the_table_says():
    everywhere = ANYWHERE | {"brainray"} | set(sys.stdlib_module_names)
    for module in MODULES:
        allowed = everywhere.union(*(libraries for where, libraries in FOREIGN.items() if below(module, where)))
        foreign = {name.split(".")[0] for name in imports(module)} - allowed
        assert not foreign, f"{module} must not import {sorted(foreign)}"


@each("where", sorted(FOREIGN))
def test_the_table_names_nothing_that_is_not_used(where):
    used = {name.split(".")[0] for module in MODULES if below(module, where) for name in imports(module)}
    assert FOREIGN[where] <= used


@each("module", ["commands.train", "commands.tune", "commands.audit"])
def test_who_scores_nothing_imports_no_run(module):
    named = next(name for name in MODULES if room(name) == module.replace(".", "/"))
    assert not {other for other in own_imports(named) if below(other, "scoring") or below(other, "commands/score")}


def loaded_by(code: str) -> set[str]:
    script = f"import sys\n{code}\nprint(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=250, check=True)
    return set(done.stdout.split())


HEAVY = {"ray", "torch", "sklearn", "matplotlib", "pandas"}
FAST = (
    "cli/app",
    "cli/console",
    "commands/audit",
    "commands/score",
    "commands/train",
    "commands/tune",
    "evaluation/calibration",
    "evaluation/metrics",
    "imaging/phantom",
    "scoring/run_folder",
    "scoring/summary/build",
)


@cache
def heavy_after_each() -> dict[str, str]:
    """The modules of FAST, imported one after another in one process: what heavy is loaded after each."""
    modules = [name for name in MODULES if room(name) in FAST]
    script = "import sys\n" + "\n".join(
        f"import {name}; print({name!r}, *{HEAVY} & {{*sys.modules}})" for name in modules
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=250, check=True)
    return {name: " ".join(heavy) for name, *heavy in map(str.split, done.stdout.splitlines())}


@pytest.mark.parametrize("where", FAST)
def test_what_must_start_fast_imports_nothing_heavy(where):
    module = next(name for name in MODULES if room(name) == where)
    assert heavy_after_each()[module] == "", "loaded by this module or one before it"


def test_who_imports_a_package_gets_nothing_heavy_with_it():
    packages = [module for module, path in MODULES.items() if path.stem == "__init__"]
    assert loaded_by(f"import {', '.join(packages)}") & (HEAVY | {"scipy", "cv2", "duckdb", "boto3"}) == set()


def test_importing_brainray_is_light():
    assert loaded_by("import brainray") & (HEAVY | {"numpy", "pyarrow", "typer"}) == set()


def test_help_and_refusals_wait_for_no_library_of_arrays():
    """With NumPy and Arrow, `brainray --help` takes three times as long."""
    assert loaded_by("import brainray.cli.app") & (HEAVY | {"numpy", "pyarrow", "rich"}) == set()


@each("name", ["holder.json", "_SUCCESS", "run.json"])
def test_a_file_on_which_promises_rest_is_named_by_one_module(name):
    assert len([module for module in MODULES if name in read(module).texts]) == 1


# Where else than in the backends of storage files are opened, which names no URI, and why.
OPENED = {
    "doctor/nodes": {
        "path.read_bytes": "a node's own code, on a node that may have no brainray",
        "info.read_text": "the same: what the node's kernel tells",
    },
    "machine/interpreter": {
        "Path(f'/proc/{pid}/cmdline').read_bytes": "how the Ray around this process starts Python, as the kernel tells",
        "Path(f'/proc/{pid}/stat').read_text": "the parent of a process, as the kernel tells",
    },
    "storage/lease": {
        "Path(f'/proc/{pid}/stat').read_bytes": "what the kernel tells of a process",
        "Path('/proc/sys/kernel/random/boot_id').read_text": "what the kernel tells of this boot",
    },
    "machine/hardware": {"Path(path).read_text": "what the kernel tells of this machine"},
    "inputs/repeats": {"Path(folder, str(number)).open": "hashes in a scratch folder of this process"},
    "cluster/session": {"open": "the null device"},
    "cluster/agent_stand_in": {"open": "the ports that a raylet waits for, in a process that may import nothing"},
    "cluster/guard": {"open": "the environment of a process, as the kernel tells"},
    "cli/streams": {"os.open": "the null device"},
    "storage/s3/clients": {"Path(authorities).read_bytes": "a file that the AWS configuration names, for the client"},
    "storage/scratch": {"os.open": "the lock of a scratch folder"},
    "commands/submit": {"path.read_bytes": "the package's own files, which are uploaded"},
}
BACKENDS = {"storage", "storage/local", "storage/s3/backend", "storage/s3/requests"}


@each(
    ("code", "opens"),
    [
        ("open(path)", True),
        ("os.open(path, os.O_RDONLY)", True),
        ("os.fdopen(3)", True),
        ("io.open(path)", True),
        ("Path(path).open()", True),
        ("path.read_bytes()", True),
        ("(folder / 'x').read_text()", True),
        ("path.write_bytes(b'')", True),
        ("path.write_text('')", True),
        ("storage.read_bytes(uri)", False),
        ("held.writer.write_bytes(uri, b'')", False),
        ("self._writer.write_bytes(uri, b'')", False),
        ("Image.open(io.BytesIO(data))", False),
    ],
)
def test_every_way_to_open_a_file_is_seen(code, opens):
    assert bool(list(opening_calls(ast.walk(ast.parse(code))))) == opens


def test_only_the_backends_of_storage_open_files():
    opening = {room(name): read(name).opening for name in MODULES if room(name) not in BACKENDS}
    assert {where: calls for where, calls in opening.items() if calls} == {w: {*calls} for w, calls in OPENED.items()}


def test_folders_and_files_stay_small_enough_to_find_things():
    tests = {path.parent for path in Path(__file__).parent.rglob("*.py")}
    for folder in {path.parent for path in MODULES.values()} | tests:
        names = {path.name for path in folder.iterdir()} - {"__init__.py", "conftest.py", "__pycache__"}
        assert len(names) <= 25, f"{folder} has {len(names)} names"
    for module, path in MODULES.items():
        lines = len(path.read_text().splitlines())
        assert lines <= 450, f"{module} has {lines} lines: cut it where it is two things"
