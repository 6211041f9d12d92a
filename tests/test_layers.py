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
    "errors",
    "logs",
    "config",
    "labels",
    "backend",
    "local_names",
    "local_files",
    "s3_uris",
    "s3_errors",
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
    "flow",
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


def test_only_the_backend_of_storage_opens_files():
    """Elsewhere `open`, `os.listdir` and their like are for local scratch files, which only the listing has."""
    for name in set(MODULES) - {"local_files", "local_names", "ray_session"}:
        for node in ast.walk(ast.parse((PACKAGE / f"{name}.py").read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id != "open", f"{name} opens a file itself"
