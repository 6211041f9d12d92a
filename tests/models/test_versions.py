"""Provenance and the comparison of nodes know every library that can change a prediction."""

import sys
from functools import cache
from importlib import metadata

from support.each import each
from support.imports import imports, own_imports

from brainray.models import versions
from brainray.models.versions import DISTRIBUTIONS, LIBRARIES, installed_version, package_versions

# What a worker of a run, a training or an audit runs: all that decodes, crops, normalises, predicts or learns is below.
WORKERS = ("cluster.score_workers", "cluster.train_worker", "cluster.train_data", "cluster.audit")
ELSEWHERE = {
    "ray": "compared and noted by itself",
    "boto3": "lists and writes objects; obstore reads them",
    "duckdb": "sorts the list of images",
    "matplotlib": "draws what has been predicted",
    "jinja2": "writes pages for people",
}


def libraries_below(*modules: str) -> dict[str, set[str]]:
    """Foreign libraries that these modules and those below them import, and which modules do."""
    waiting = [f"brainray.{name}" for name in modules]
    seen: set[str] = set()
    found: dict[str, set[str]] = {}
    while waiting:
        module = waiting.pop()
        if module in seen:
            continue
        seen.add(module)
        waiting += own_imports(module)
        for library in {name.partition(".")[0] for name in imports(module)} - {"brainray", *sys.stdlib_module_names}:
            found.setdefault(library, set()).add(module.rpartition(".")[2])
    return found


def test_every_library_that_a_worker_uses_is_listed_or_named_as_harmless():
    used = libraries_below(*WORKERS)
    assert "normalise" in used["cv2"] and used["PIL"] and used["torch"], "the walk has lost its way"
    assert {library: who for library, who in used.items() if library not in {**LIBRARIES, **ELSEWHERE}} == {}


@cache
def packages_distributions():
    """Read once: it takes 0.3 s, for it opens a file of every distribution."""
    return metadata.packages_distributions()


@each("library", sorted(LIBRARIES))
def test_its_distribution_is_the_one_that_is_installed(library):
    assert set(LIBRARIES[library]) & set(packages_distributions()[library])


def test_provenance_holds_them_all():
    noted = package_versions()
    assert set(noted) == {"brainray", "brainray decoding", "ray"} | {names[0] for names in DISTRIBUTIONS}
    assert noted["opencv-python-headless"] == installed_version(LIBRARIES["cv2"]) and "unknown" not in noted.values()


def test_opencv_is_found_under_its_other_names(tmp_path, monkeypatch):
    """What a node has is read by both ways: by `facts`, which knows nothing of this package, and here."""
    from brainray.doctor.nodes import facts

    there = tmp_path / "opencv_python-4.99.dist-info"
    there.mkdir()
    (there / "METADATA").write_text("Metadata-Version: 2.1\nName: opencv-python\nVersion: 4.99\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert installed_version(LIBRARIES["cv2"]) == "4.99"
    assert facts(DISTRIBUTIONS)["packages"]["opencv-python-headless"] == "4.99"
    assert dict(versions._library_versions.__wrapped__())["scipy"] == "unknown"  # without what the process remembers
