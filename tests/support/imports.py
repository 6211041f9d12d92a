"""What the modules of the package import, read from their source."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import brainray

PACKAGE = Path(brainray.__file__).parent
MODULES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}


@cache
def imports(module: str) -> tuple[str, ...]:
    """Dotted names of what a module imports, lazily too, except under `if TYPE_CHECKING`."""
    return tuple(_imports(module))


def _imports(module: str) -> Iterator[str]:
    path = MODULES[module]
    tree = ast.parse(path.read_text())
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    folder = module if path.stem == "__init__" else module.rpartition(".")[0]
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = folder.split(".")[: len(folder.split(".")) + 1 - node.level] if node.level else []
            source = ".".join([*above, *filter(None, [node.module])])
            names = [f"{source}.{alias.name}" for alias in node.names]
            yield from (name if name in MODULES else source for name in names)
        elif isinstance(node, ast.Call) and "import_module" in map(ast.unparse, (node.func, *node.args)):
            yield from (argument.value for argument in node.args if isinstance(argument, ast.Constant))


def own_imports(module: str) -> set[str]:
    """Modules of the package. The version, which stands in `brainray/__init__.py`, is read anywhere."""
    return {name for name in imports(module) if name in MODULES} - {module, "brainray"}
