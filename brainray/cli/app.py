"""Commands, their options and exit codes. What a command does lives in the module it calls."""

import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Annotated, NoReturn

import typer
from typer.exceptions import TyperException

from brainray import __version__
from brainray.errors import BadRequest, BrainrayError

from .audit import audit
from .doctor import doctor
from .log import LOG
from .score import score
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

_INTERRUPTED = 130  # by Ctrl-C or a signal: 128 + SIGINT, as shells have it


@app.command()
def report(
    run: Annotated[str, typer.Argument(help="Folder that `score` wrote.", metavar="RUN")],
    verify: Annotated[
        bool, typer.Option("--verify", help="Read every part, compare it with the manifest, and write nothing.")
    ] = False,
) -> None:
    """Rebuild summary/ from the Parquet of a run; needs neither Ray nor torch."""
    from brainray import storage
    from brainray.scoring.run_folder import check_is_run, verify_run
    from brainray.scoring.summary import build_summary
    from brainray.storage.lease import hold

    from .console import output_console, show_summary

    uri = storage.normalise(run)
    console = output_console()
    if verify:
        account = verify_run(uri)
        console.print(f"{account.rows:,} rows, {account.failed:,} failed: each image once, every part is whole")
        return
    check_is_run(uri)
    with hold(uri, purpose="report", say=LOG.say) as lease:
        show_summary(console, build_summary(uri, lease.writer))
    console.print(f"summary is in {storage.join(uri, 'summary')}")


@app.command()
def sample(
    output: Annotated[str, typer.Option(help="Folder to draw into; new or empty.", metavar="DIR")],
    images: Annotated[int, typer.Option(help="How many, over all classes.")] = 400,
    seed: Annotated[int, typer.Option(help="Another seed draws other images.")] = 0,
) -> None:
    """Draw a synthetic MRI-like archive, to try everything with no data."""
    from brainray import storage
    from brainray.imaging.phantom import write_archive

    uri = storage.normalise(output)
    drawn = write_archive(uri, images=images, seed=seed)
    typer.echo(f"{drawn:,} drawn images in class folders are in {uri}")


app.command(context_settings=SUBMIT_SETTINGS)(submit)
app.command()(audit)
app.command()(doctor)


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
    """Options before the command."""


def run(arguments: Sequence[str]) -> int:
    """The exit code of a command line. What a user can cause is one line; a traceback is a defect."""
    LOG.set_format("text")
    try:
        code = app(args=list(arguments), prog_name="brainray", standalone_mode=False)
        if code == _INTERRUPTED:  # what typer makes of KeyboardInterrupt
            raise KeyboardInterrupt
        return code if isinstance(code, int) else 0
    except BrainrayError as exc:
        return _fail(str(exc), exc.exit_code)
    except TyperException as exc:
        return _fail(exc.format_message(), BadRequest.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        return _fail("stopped; what was finished is kept, run the same command to go on", _INTERRUPTED)
    except BrokenPipeError:
        return 0  # `| head` has seen enough


def _interrupt(number: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt


def _fail(message: str, code: int) -> int:
    LOG.fail(message, exit_code=code)
    return code


def main() -> NoReturn:
    """The program `brainray`. Leaves at once: taking down what the libraries set up would take 0.4 s more."""
    for number in (signal.SIGTERM, signal.SIGHUP):  # a scheduler that stops the run, a terminal that is closed
        signal.signal(number, _interrupt)
    code = run(sys.argv[1:])
    for stream in (sys.stdout, sys.stderr):
        with suppress(BrokenPipeError):
            stream.flush()
    os._exit(code)
