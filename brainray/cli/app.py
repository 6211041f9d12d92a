"""The program `brainray`: its commands, and the exit code of each error. `commands` holds what they do."""

import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Sequence
from typing import Annotated, NoReturn

import typer
from typer.exceptions import TyperException

from brainray import __version__
from brainray.errors import BadRequest, BrainrayError
from brainray.machine.interpreter import ensure_mode

from .audit import audit
from .compare import compare
from .doctor import doctor
from .estimate import estimate
from .export import export
from .json_object import OBJECT
from .log import LOG, take_warnings
from .pick import pick
from .report import report
from .sample import sample
from .score import score
from .shadowed import shadowing
from .streams import Streams
from .submit import SETTINGS as SUBMIT_SETTINGS
from .submit import submit
from .train import train
from .tune import tune

app = typer.Typer(
    name="brainray",
    help="Batch scoring of brain MRI archives with Ray. Not a medical device.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

app.command()(train)
app.command()(score)
app.command()(tune)
app.command()(report)
app.command()(compare)
app.command()(pick)
app.command()(estimate)
app.command()(export)
app.command()(sample)
app.command(context_settings=SUBMIT_SETTINGS)(submit)
app.command()(audit)
app.command()(doctor)

_INTERRUPTED = 130  # by Ctrl-C or a signal: 128 + SIGINT, as shells have it
_LONGEST_DEFECT = 300  # characters


def _show_version(value: bool) -> None:
    if value:
        typer.echo(f"brainray {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """The options of `brainray` itself."""


def run(arguments: Sequence[str]) -> int:
    """Run a command line; gives its exit code. Every error that a user can cause is one line on standard error.

    With --json it is also the object on standard output.
    """
    LOG.set_format("text")
    with OBJECT.of(arguments):
        return _run(arguments)


def _run(arguments: Sequence[str]) -> int:
    try:
        code = app(args=list(arguments), prog_name="brainray", standalone_mode=False)
        if code == _INTERRUPTED:  # typer turns KeyboardInterrupt into this code
            raise KeyboardInterrupt
        return code if isinstance(code, int) else 0
    except BrainrayError as exc:
        return _fail(str(exc), exc.exit_code)
    except TyperException as exc:
        return _fail(exc.format_message(), BadRequest.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        return _fail("stopped; what was finished is kept, run the same command to go on", _INTERRUPTED)
    except BrokenPipeError:
        return 0  # the reader has closed the pipe, as `| head` does
    except Exception as exc:  # noqa: BLE001  a defect, or a fault of the machine
        if found := shadowing(exc):
            return _fail(f"{found} ({type(exc).__name__}: {exc})", BadRequest.exit_code)
        return _fail(_describe_defect(exc), BrainrayError.exit_code)


def _interrupt(number: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt


def _fail(message: str, code: int) -> int:
    LOG.fail(message, exit_code=code)
    OBJECT.fail(message, code)
    return code


def _describe_defect(exc: Exception) -> str:
    """Describe an error that no code expected in one line, and keep its traceback in a file."""
    what = " ".join(f"{type(exc).__name__}: {exc}".split())[:_LONGEST_DEFECT]
    try:
        with tempfile.NamedTemporaryFile("w", prefix="brainray-error-", suffix=".txt", delete=False) as file:
            file.write("".join(traceback.format_exception(exc)))
    except OSError:
        return f"unexpected {what}"
    return f"unexpected {what}; {file.name} has the traceback, for a report of a defect"


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """The program `brainray`. It ends by `os._exit`: the exit handlers of the libraries would take 0.4 s more."""
    if arguments is None and os.path.isfile(sys.argv[0]):
        ensure_mode(sys.argv)
    streams = Streams()
    take_warnings()
    os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")  # what is left of a run that was stopped starts no Ray
    for number in (signal.SIGTERM, signal.SIGHUP):  # sent by a scheduler that stops the run, or a closed terminal
        if signal.getsignal(number) != signal.SIG_IGN:  # as under nohup
            signal.signal(number, _interrupt)
    code = run(sys.argv[1:] if arguments is None else arguments)
    streams.flush()
    if lost := streams.lost():
        code = code or BrainrayError.exit_code
        LOG.fail(
            f"standard output: {lost}; part of the text is lost, files that were written are whole", exit_code=code
        )
        streams.flush()
    os._exit(code)
