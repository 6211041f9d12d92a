"""The house of the design: imports run one way, Ray is where `ls` shows it, what starts fast imports nothing heavy."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import brainray

PACKAGE = Path(brainray.__file__).parent
# A module imports only those above it.
ORDER = (
    "interpreter",
    "errors",
    "logs",
    "config",
    "versions",
    "labels",
    "backend",
    "local_names",
    "local_files",
    "s3_uris",
    "s3_errors",
    "flow",
    "s3_pages",
    "s3_client",
    "s3_requests",
    "s3_claims",
    "s3_listing",
    "s3_objects",
    "storage",
    "machine",
    "scratch",
    "lease",
    "sight",
    "members",
    "selection",
    "parquet_members",
    "tar_members",
    "zip_members",
    "containers",
    "entries",
    "pieces",
    "reading",
    "truth",
    "lists",
    "indexes",
    "lookups",
    "listing",
    "image_files",
    "manifest",
    "head",
    "tone",
    "sniffing",
    "decode",
    "signatures",
    "registration",
    "copies",
    "audit",
    "alterations",
    "apart",
    "lite",
    "model",
    "bundle",
    "inference",
    "predict",
    "tally",
    "metrics",
    "calibration",
    "augment",
    "outliers",
    "fit",
    "checkpoint",
    "results",
    "accounts",
    "attempts",
    "tasks",
    "scoring",
    "plots",
    "throughput",
    "run",
    "report",
    "plan",
    "generation",
    "audit_listing",
    "audit_groups",
    "audit_report",
    "training_report",
    "training_set",
    "rows",
    "learner",
    "training_request",
    "training_parts",
    "tuning",
    "phantom",
    "pools",
    "doctor",
    "doctor_machine",
    "doctor_torch",
    "doctor_locations",
    "doctor_output",
    "doctor_nodes",
    "estimate",
    "ray_internals",
    "ray_session",
    "ray_nodes",
    "ray_audit",
    "ray_doctor",
    "ray_metrics",
    "ray_shares",
    "ray_train_worker",
    "ray_decode",
    "ray_train",
    "ray_tune",
    "ray_score",
    "ray_engine",
    "train_job",
    "tune_job",
    "audit_job",
    "score_job",
    "console",
    "jobs_api",
    "submit",
    "cli_log",
    "cli_options",
    "cli_train",
    "cli_tune",
    "cli_score",
    "cli_audit",
    "cli_submit",
    "cli_doctor",
    "cli",
    "__main__",
)
RAY = {
    "ray_internals",
    "ray_session",
    "ray_nodes",
    "ray_audit",
    "ray_doctor",
    "ray_metrics",
    "ray_decode",
    "ray_shares",
    "ray_train",
    "ray_train_worker",
    "ray_tune",
    "ray_score",
}


def imports(path):
    """(own modules, foreign packages) named anywhere in a file, except under `if TYPE_CHECKING`."""
    own, foreign = set(), set()
    tree = ast.parse(path.read_text())
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.ImportFrom) and node.level:
            own |= {node.module} if node.module else {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            foreign.add(node.module.split(".")[0])
        elif isinstance(node, ast.Import):
            foreign |= {alias.name.split(".")[0] for alias in node.names}
    return own - {"__version__"}, foreign


MODULES = sorted(path.stem for path in PACKAGE.glob("*.py") if path.stem != "__init__")


def test_every_module_has_its_place():
    assert sorted(ORDER) == MODULES


@pytest.mark.parametrize("name", MODULES)
def test_imports_run_one_way(name):
    own, foreign = imports(PACKAGE / f"{name}.py")
    assert {other for other in own if ORDER.index(other) >= ORDER.index(name)} == set()
    assert ("ray" in foreign) == (name in RAY)


def loaded_by(code):
    script = f"import sys\n{code}\nprint(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "module",
    ["cli", "calibration", "report", "run", "score_job", "train_job", "tune_job", "audit_job", "console", "phantom"],
)
def test_what_must_start_fast_imports_nothing_heavy(module):
    assert loaded_by(f"import brainray.{module}") & {"ray", "torch", "sklearn", "matplotlib", "pandas"} == set()


@pytest.mark.parametrize("name", ["holder.json", "_SUCCESS", "run.json"])
def test_a_file_on_which_promises_rest_is_named_by_one_module(name):
    naming = [
        module
        for module in MODULES
        for node in ast.walk(ast.parse((PACKAGE / f"{module}.py").read_text()))
        if isinstance(node, ast.Constant) and node.value == name
    ]
    assert len(naming) == 1


# Where else than in the backend of storage files are opened, which names no URI, and why.
OPENED = {
    "doctor_nodes": {
        "path.read_bytes": "a node's own code, on a node that may have no brainray",
        "info.read_text": "the same: what the node's kernel tells",
    },
    "interpreter": {
        "Path(f'/proc/{pid}/cmdline').read_bytes": "how the Ray around this process starts Python, as the kernel tells",
        "Path(f'/proc/{pid}/stat').read_text": "the parent of a process, as the kernel tells",
    },
    "lease": {
        "Path(f'/proc/{pid}/stat').read_bytes": "what the kernel tells of a process",
        "Path('/proc/sys/kernel/random/boot_id').read_text": "what the kernel tells of this boot",
    },
    "machine": {"Path(path).read_text": "what the kernel tells of this machine"},
    "ray_session": {"open": "the null device"},
    "s3_client": {"Path(authorities).read_bytes": "a file that the AWS configuration names, for the client"},
    "scratch": {"os.open": "the lock of a scratch folder"},
    "submit": {"path.read_bytes": "the package's own files, which are uploaded"},
}
BACKENDS = {"local_files", "local_names", "s3_objects", "s3_requests", "storage"}
OPENERS = {"open", "fdopen", "read_bytes", "read_text", "write_bytes", "write_text"}


def opening_calls(tree):
    """Calls that open a file by its path: `open`, `os.open`, `io.open`, `os.fdopen`, and the methods of `Path`.

    `storage` and its writers, PIL's `Image` and an opener of HTTP connections have methods of the same names.
    """
    for node in ast.walk(tree):
        called = node.func if isinstance(node, ast.Call) else None
        if isinstance(called, ast.Name) and called.id in OPENERS:
            yield ast.unparse(called)
        elif isinstance(called, ast.Attribute) and called.attr in OPENERS:
            receiver = ast.unparse(called.value)
            if not receiver.endswith(("storage", "writer", "Image", "_opener")):
                yield ast.unparse(called)


@pytest.mark.parametrize(
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
    assert bool(list(opening_calls(ast.parse(code)))) == opens


@pytest.mark.parametrize("name", sorted(set(MODULES) - BACKENDS))
def test_only_the_backend_of_storage_opens_files(name):
    found = set(opening_calls(ast.parse((PACKAGE / f"{name}.py").read_text())))
    assert found == set(OPENED.get(name, {}))


@pytest.mark.parametrize("name", ["train_job", "tune_job", "audit_job"])
def test_who_scores_nothing_imports_no_run(name):
    assert imports(PACKAGE / f"{name}.py")[0] & {"run", "plan", "score_job", "scoring"} == set()
