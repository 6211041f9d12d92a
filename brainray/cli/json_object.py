"""`--json`: one JSON object on standard output, also for an error, and nothing else; all other text goes to stderr."""

import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from typing import Annotated, Any, TextIO

import typer

Json = Annotated[
    bool,
    typer.Option("--json", help="Print the result, or the error, as one JSON object and nothing else."),
]
_OPTION = "--json"
_INSTEAD = ("--help", "--version")  # options that print a text of their own and run nothing
_RUNS_ANOTHER = {"submit": ("score", "train")}  # what follows the name of that command belongs to it


@dataclass
class JsonObject:
    """The object of the command that runs. Keys `error` and `exit_code` are there where the exit code is not 0."""

    wanted: bool = False
    _values: dict[str, Any] = field(default_factory=dict)

    def add(self, values: Mapping[str, Any]) -> None:
        """Add keys of a result; the values are what JSON can hold."""
        self._values.update(values)

    def fail(self, message: str, exit_code: int) -> None:
        """Add the error that ends the command; keys that it had before stay."""
        self._values |= {"error": message, "exit_code": exit_code}

    @contextmanager
    def of(self, arguments: Sequence[str]) -> Iterator[None]:
        """Print the object at the end of the command line `arguments`, if it asks for one."""
        self.wanted, self._values = _asks_for_json(arguments), {}
        if not self.wanted:
            yield
            return
        stdout = sys.stdout
        try:
            with redirect_stdout(sys.stderr):
                yield
        finally:
            self._print(stdout)

    def _print(self, stdout: TextIO) -> None:
        # In ASCII, which every terminal, locale and pipe takes.
        print(json.dumps(_plain(self._values), allow_nan=False), file=stdout, flush=True)


OBJECT = JsonObject()


def _asks_for_json(arguments: Sequence[str]) -> bool:
    """Whether the command line asks for an object; known before it is parsed, as what is wrong with it is one too."""
    own = list(arguments)
    inner = _RUNS_ANOTHER.get(own[0], ()) if own else ()
    own = own[: min((own.index(name) for name in inner if name in own), default=len(own))]
    return _OPTION in own and not any(option in own for option in _INSTEAD)


def _plain(value: Any) -> Any:  # noqa: ANN401  what a result holds
    """The value with null for numbers that JSON does not know."""
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
