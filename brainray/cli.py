"""Commands, their options and exit codes. What a command does lives in the module it calls."""

import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from typer.exceptions import TyperException

from . import __version__
from .errors import BadRequest, BrainrayError, TooManyFailed

if TYPE_CHECKING:
    from .run import Request

app = typer.Typer(
    name="brainray",
    help="Batch scoring of brain MRI archives with Ray. Not a medical device.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

_INTERRUPTED = 130  # by Ctrl-C or a signal: 128 + SIGINT, as shells have it
_QUICK, _THOROUGH = "quick", "thorough"
# What a preset changes in `TrainOptions`; an option that is given wins.
PRESETS: dict[str, dict[str, int]] = {
    _QUICK: {"epochs": 24, "image_px": 160},
    _THOROUGH: {"epochs": 60, "image_px": 224, "patience": 15},
}

Output = Annotated[str, typer.Option(help="Folder for the results.", metavar="URI")]


@app.command()
def train(
    data: Annotated[str, typer.Option(help="Folder with one folder of images a class.", metavar="URI")],
    output: Output,
    preset: Annotated[str, typer.Option(help="quick: minutes on a laptop; thorough: an hour or more.")] = _QUICK,
    workers: Annotated[int | None, typer.Option(help="Ray Train workers. [default: what the cluster has]")] = None,
    epochs: Annotated[int | None, typer.Option(help="At most so many passes. [default: of the preset]")] = None,
    model: Annotated[str, typer.Option(help="compact, or a torchvision classification network.")] = "compact",
    image_px: Annotated[
        int | None, typer.Option(help="Side of the image the model sees. [default: of the preset]")
    ] = None,
    channels: Annotated[int, typer.Option(help="1: luminance, 3: RGB.")] = 1,
    batch_size: Annotated[int, typer.Option(help="Images a step, over all workers.")] = 32,
    lr: Annotated[float, typer.Option(help="Highest learning rate.")] = 3e-3,
    seed: Annotated[int, typer.Option(help="Same seed, same split and, with one worker, same weights.")] = 0,
    val_fraction: Annotated[float, typer.Option(help="Share of the distinct pictures to measure on.")] = 0.15,
    patience: Annotated[int | None, typer.Option(help="Stop after so many epochs that are no better.")] = None,
    precision: Annotated[str, typer.Option(help="auto, bf16 or fp32.")] = "auto",
    exclude: Annotated[
        str | None, typer.Option(help="Folder of images that must not be trained on, by content.", metavar="URI")
    ] = None,
) -> None:
    """Fit a model to class folders with Ray Train; writes a bundle."""
    from .config import TrainOptions
    from .train_job import train as fit_model

    if preset not in PRESETS:
        raise BadRequest(f"--preset is {preset!r}; it must be one of {', '.join(PRESETS)}")
    given = {"epochs": epochs, "image_px": image_px, "patience": patience}
    options = TrainOptions(
        **PRESETS[preset] | {name: value for name, value in given.items() if value is not None},
        model=model,
        channels=channels,
        batch_size=batch_size,
        lr=lr,
        seed=seed,
        val_fraction=val_fraction,
        workers=workers,
        precision=precision,  # type: ignore[arg-type]  # checked there
    )
    bundle = fit_model(data, output=output, exclude=exclude, options=options, say=_say)
    accuracy = bundle.metrics["accuracy"]
    typer.echo(
        f"accuracy {accuracy['value']:.4f} ({accuracy['low']:.4f} to {accuracy['high']:.4f}) on "
        f"{bundle.metrics['images']:,} validation images, epoch {bundle.metrics['best_epoch']}\n"
        f"model {bundle.fingerprint} is in {bundle.uri}"
    )


@app.command()
def score(
    input: Annotated[
        list[str],
        typer.Option(help="Folder, image, tar, zip, Parquet or list; may be given several times.", metavar="URI"),
    ],
    model: Annotated[str, typer.Option(help="Bundle that `train` wrote.", metavar="URI")],
    output: Output,
    labels: Annotated[
        str | None, typer.Option(help="CSV or Parquet with an image and a label column.", metavar="URI")
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Processes that score. [default: what the cluster has]")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images in one forward pass. [default: by device]")] = None,
    shard_size: Annotated[int | None, typer.Option(help="Images a part file. [default: about 1,000]")] = None,
    max_failed: Annotated[
        str, typer.Option(help="More failed images than this end with code 3: a share or a count.")
    ] = "1%",
    include: Annotated[
        list[str] | None,
        typer.Option(help="Only paths below the input that match; '*' matches '/' too.", metavar="GLOB"),
    ] = None,
    exclude: Annotated[list[str] | None, typer.Option(help="No paths that match.", metavar="GLOB")] = None,
    keep_columns: Annotated[
        list[str] | None,
        typer.Option(help="Columns of an --input that is a list, for the predictions.", metavar="NAMES"),
    ] = None,
    group_by: Annotated[
        str | None, typer.Option(help="'folder', or a regular expression over the URI: summaries for each group.")
    ] = None,
    precision: Annotated[str, typer.Option(help="auto, bf16 or fp32.")] = "auto",
    stall_timeout: Annotated[float, typer.Option(help="Seconds without a finished shard that end the run.")] = 600,
    max_unread: Annotated[
        str, typer.Option(help="A greater share of reads in a row that fail ends the run; 100%: never.")
    ] = "50%",
    retry_unread: Annotated[
        bool, typer.Option("--retry-unread", help="Read images again that could not be read before.")
    ] = False,
    forget_missing: Annotated[
        bool, typer.Option("--forget-missing", help="Drop the rows of images that are gone.")
    ] = False,
    rescore: Annotated[
        bool, typer.Option("--rescore", help="Score all anew, also by another model; replaces the run when complete.")
    ] = False,
    plan: Annotated[bool, typer.Option("--plan", help="Say what would be done, and do nothing.")] = False,
) -> None:
    """Score every image under the inputs; one Parquet row an image."""
    from .config import MaxFailed, ScoreOptions, parse_share

    options = ScoreOptions(
        workers=workers,
        batch_size=batch_size,
        shard_size=shard_size,
        max_failed=MaxFailed.parse(max_failed),
        include=tuple(include or ()),
        exclude=tuple(exclude or ()),
        keep_columns=tuple(name.strip() for names in keep_columns or () for name in names.split(",")),
        group_by=group_by,
        precision=precision,  # type: ignore[arg-type]  # checked there
        stall_timeout_s=stall_timeout,
        max_unread=parse_share("--max-unread", max_unread),
        retry_unread=retry_unread,
        forget_missing=forget_missing,
        rescore=rescore,
    )
    from .score_job import read_request

    _score(read_request(input, model=model, output=output, labels=labels, options=options), plan=plan)


def _score(request: "Request", *, plan: bool) -> None:
    from .console import output_console, show_outcome, show_plan, watcher
    from .score_job import plan_only
    from .score_job import score as score_images

    if plan:
        show_plan(output_console(), plan_only(request))
        return
    with watcher() as listener:
        outcome = score_images(request, listener=listener, say=_say)
    show_outcome(output_console(), outcome)
    totals, limit = outcome.summary.figures["totals"], request.options.max_failed
    if limit.exceeded(failed=totals["failed"], total=totals["images"]):
        raise TooManyFailed(
            f"{totals['failed']:,} of {totals['images']:,} images failed, more than --max-failed {limit} allows; "
            "every row is written, see the error column"
        )


@app.command()
def report(
    run: Annotated[str, typer.Argument(help="Folder that `score` wrote.", metavar="RUN")],
    verify: Annotated[
        bool, typer.Option("--verify", help="Read every part, compare it with the manifest, and write nothing.")
    ] = False,
) -> None:
    """Rebuild summary/ from the Parquet of a run; needs neither Ray nor torch."""
    from . import storage
    from .console import output_console, show_summary
    from .lease import hold
    from .report import build_summary
    from .run import check_is_run, verify_run

    uri = storage.normalise(run)
    console = output_console()
    if verify:
        account = verify_run(uri)
        console.print(f"{account.rows:,} rows, {account.failed:,} failed: each image once, every part is whole")
        return
    check_is_run(uri)
    with hold(uri, purpose="report", say=_say) as lease:
        show_summary(console, build_summary(uri, lease.writer))
    console.print(f"summary is in {storage.join(uri, 'summary')}")


@app.command()
def sample(
    output: Annotated[str, typer.Option(help="Folder to draw into; new or empty.", metavar="DIR")],
    images: Annotated[int, typer.Option(help="How many, over all classes.")] = 400,
    seed: Annotated[int, typer.Option(help="Another seed draws other images.")] = 0,
) -> None:
    """Draw a synthetic MRI-like archive, to try everything with no data."""
    from . import storage
    from .phantom import write_archive

    uri = storage.normalise(output)
    drawn = write_archive(uri, images=images, seed=seed)
    typer.echo(f"{drawn:,} drawn images in class folders are in {uri}")


def _say(line: str) -> None:
    typer.echo(line, err=True)


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
    print("brainray: " + " ".join(message.split("\n")), file=sys.stderr)
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
