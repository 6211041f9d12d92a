"""Provenance and the comparison of nodes know every library that can change a prediction."""

import ast
import sys
from importlib import metadata
from pathlib import Path

import pytest

import brainray
from brainray import versions
from brainray.versions import DISTRIBUTIONS, LIBRARIES, installed_version, package_versions

PACKAGE = Path(brainray.__file__).parent
# What a worker of a run, a training or an audit runs: all that decodes, crops, normalises, predicts or learns is below.
WORKERS = ("ray_score", "ray_train_worker", "ray_decode", "ray_audit")
ELSEWHERE = {
    "ray": "compared and noted by itself",
    "tenacity": "repeats requests, and changes nothing of what they bring",
    "duckdb": "sorts the list of images",
    "matplotlib": "draws what has been predicted",
    "_typeshed": "is for the type checker",
}


def module_file(names: tuple[str, ...]) -> Path | None:
    """The file of a module of the package, by the parts of its name below the package."""
    place = PACKAGE.joinpath(*names)
    return next((path for path in (place.with_suffix(".py"), place / "__init__.py") if path.is_file()), None)


def imported(path: Path) -> tuple[set[Path], set[str]]:
    """Files of the package and foreign libraries that a file imports, anywhere in it."""
    own, foreign = set(), set()
    folder = path.relative_to(PACKAGE).parts[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            foreign |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            foreign.add(node.module.partition(".")[0])
        elif isinstance(node, ast.ImportFrom):
            base = folder[: len(folder) - node.level + 1] + tuple((node.module or "").split("."))
            base = tuple(filter(None, base))
            own |= {module_file(base), *(module_file((*base, alias.name)) for alias in node.names)}
    return {path for path in own if path}, foreign - set(sys.stdlib_module_names) - {"brainray"}


def libraries_below(*modules: str) -> dict[str, set[str]]:
    """Foreign libraries that these modules and those below them import, and which modules do."""
    waiting = [module_file(tuple(name.split("."))) for name in modules]
    seen: set[Path] = set()
    found: dict[str, set[str]] = {}
    while waiting:
        path = waiting.pop()
        if path in seen:
            continue
        seen.add(path)
        own, foreign = imported(path)
        waiting += own
        for library in foreign:
            found.setdefault(library, set()).add(path.stem)
    return found


def test_every_library_that_a_worker_uses_is_listed_or_named_as_harmless():
    used = libraries_below(*WORKERS)
    assert {"head", "decode"} & used["cv2"] and used["PIL"] and used["torch"], "the walk has lost its way"
    assert {library: who for library, who in used.items() if library not in {**LIBRARIES, **ELSEWHERE}} == {}


@pytest.mark.parametrize("library", sorted(LIBRARIES))
def test_its_distribution_is_the_one_that_is_installed(library):
    assert set(LIBRARIES[library]) & set(metadata.packages_distributions()[library])


def test_provenance_holds_them_all():
    noted = package_versions()
    assert set(noted) == {"brainray", "ray"} | {names[0] for names in DISTRIBUTIONS}
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
    assert versions.package_versions()["scipy"] == "unknown"
