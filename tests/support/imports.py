"""What the modules of the package import, name and open, read from their source once."""

import ast
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import brainray

PACKAGE = Path(brainray.__file__).parent
MODULES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}


OPENERS = {"open", "fdopen", "read_bytes", "read_text", "write_bytes", "write_text"}


class Read(NamedTuple):
    """What is kept of a module's source: its tree would burden each collection of garbage of the tests that follow."""

    imports: tuple[str, ...]
    texts: frozenset[str]
    opening: frozenset[str]
    absolute: frozenset[str]  # dotted names of what is imported in full, under `if TYPE_CHECKING` too
    classes: tuple[tuple[str, frozenset[str]], ...]  # each with the last parts of the names of its bases


@cache
def read(module: str) -> Read:
    nodes = list(ast.walk(ast.parse(MODULES[module].read_text())))
    texts = {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    return Read(
        imports=tuple(_imports(module, nodes)),
        texts=frozenset(texts),
        opening=frozenset(opening_calls(nodes)),
        absolute=frozenset(absolute_imports(nodes)),
        classes=tuple(
            (node.name, frozenset(ast.unparse(base).rpartition(".")[2] for base in node.bases))
            for node in nodes
            if isinstance(node, ast.ClassDef)
        ),
    )


def absolute_imports(nodes: Iterable[ast.AST]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and not node.level:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def opening_calls(nodes: Iterable[ast.AST]) -> Iterator[str]:
    """Calls that open a file by its path: `open`, `os.open`, `io.open`, `os.fdopen`, and the methods of `Path`.

    `storage` and its writers, PIL's `Image` and an opener of HTTP connections have methods of the same names.
    """
    for node in nodes:
        called = node.func if isinstance(node, ast.Call) else None
        if isinstance(called, ast.Name) and called.id in OPENERS:
            yield ast.unparse(called)
        elif isinstance(called, ast.Attribute) and called.attr in OPENERS:
            receiver = ast.unparse(called.value)
            if not receiver.endswith(("storage", "writer", "Image", "_opener")):
                yield ast.unparse(called)


def imports(module: str) -> tuple[str, ...]:
    """Dotted names of what a module imports, lazily too, except under `if TYPE_CHECKING`."""
    return read(module).imports


def _imports(module: str, nodes: Sequence[ast.AST]) -> Iterator[str]:
    path = MODULES[module]
    typing_only = {
        id(inner)
        for node in nodes
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    folder = module if path.stem == "__init__" else module.rpartition(".")[0]
    for node in nodes:
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
