"""Measurements are run by hand and seldom: what they take of the package, and of each other, must still be there."""

import ast
import importlib.util
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from support.each import each
from support.imports import MODULES

BENCH = Path(__file__).parent
SCRIPTS = sorted(
    path.relative_to(BENCH).as_posix() for path in BENCH.rglob("*.py") if not path.name.startswith("test_")
)
# What is installed beside the project for one of them, as its README says.
ELSEWHERE = {"atheris", "daft"}


def taken(tree: ast.AST) -> Iterator[tuple[str, str | None]]:
    """Each import, lazy ones too: a module, and a name in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.module or "", alias.name) for alias in node.names)


@cache
def names_of(module: str) -> frozenset[str]:
    """What a module defines or imports, at any depth, and its submodules."""
    tree = ast.parse(MODULES[module].read_text())
    stored = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    defined = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    imported = {name or module for module, name in taken(tree)}
    below = {name.removeprefix(f"{module}.") for name in MODULES if name.startswith(f"{module}.")}
    return frozenset(stored | defined | imported | below)


@each("script", SCRIPTS)
def test_a_measurement_finds_what_it_imports(script):
    path = BENCH / script
    source = path.read_text()
    folders = [path.parent, BENCH] if "parents[1]" in source else [path.parent]
    for module, name in taken(ast.parse(source)):
        if module.split(".")[0] == "brainray":
            assert module in MODULES, f"{script} imports {module}, which is gone"
            assert name is None or name in names_of(module), f"{script} imports {name} of {module}, which has none"
        elif module.split(".")[0] not in ELSEWHERE | set(sys.stdlib_module_names):
            beside = any((folder / f"{module}.py").exists() for folder in folders)
            assert beside or importlib.util.find_spec(module.split(".")[0]), f"{script} does not find {module}"


def test_an_image_that_is_not_scored_has_all_columns_of_a_row(monkeypatch):
    """`many_images.py` makes them by hand."""
    monkeypatch.syspath_prepend(str(BENCH / "speed"))
    from many_images import nothing_decoded

    from brainray.scoring import shard

    made = nothing_decoded(3, shard.DecodedShard).details
    decoded = shard._details_table([shard._ImageDetails()] * 3, made, None, None)
    assert made.schema == decoded.schema
