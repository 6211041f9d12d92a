"""`brainray score`."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .log import LOG, LogFormatOption
from .options import Precision

if TYPE_CHECKING:
    from brainray.commands.score import Outcome
    from brainray.config import ScoreOptions
    from brainray.scoring.run_folder import ScoreRequest

# Parameters that are no fields of `ScoreOptions`.
_NO_OPTIONS = ("input", "output", "model", "labels", "stall_timeout", "plan", "probe", "price", "log_format")

KeepColumns = Annotated[
    list[str] | None, typer.Option(help="Columns of an --input that is a list, for the predictions.", metavar="NAMES")
]


def score(
    context: typer.Context,
    input: Annotated[
        list[str],
        typer.Option(help="Folder, image, tar, zip, Parquet or list; may be given several times.", metavar="URI"),
    ],
    output: Annotated[str, typer.Option(help="Folder for the results.", metavar="URI")],
    model: Annotated[
        str, typer.Option(help="Model that `train` wrote, or the one of this package.", metavar="URI")
    ] = "shipped",
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
    keep_columns: KeepColumns = None,
    group_by: Annotated[
        str | None, typer.Option(help="'folder', or a regular expression over the URI: summaries for each group.")
    ] = None,
    precision: Precision = "auto",
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
    probe: Annotated[
        bool, typer.Option("--probe", help="With --plan: score some images, to say how long it would take.")
    ] = False,
    price: Annotated[
        float | None, typer.Option(help="With --probe: of a machine for an hour, to say what it would cost.")
    ] = None,
    log_format: LogFormatOption = "text",
) -> None:
    """Score every image under the inputs; one Parquet row an image."""
    from brainray.commands.score import read_request

    options = options_of(context.params)
    request = read_request(input, model=model, output=output, labels=labels, options=options)
    if plan or probe or price is not None:
        _plan(request, probe=probe or price is not None, price=price)
    else:
        _score(request)


def options_of(params: Mapping[str, Any]) -> "ScoreOptions":
    """The options among the parameters of a command line. Raises `BadRequest` that names a wrong one; reads no file."""
    from brainray.commands.options import score_options

    given = {name: value for name, value in params.items() if name not in _NO_OPTIONS}
    return score_options(**given, stall_timeout_s=params["stall_timeout"])


def _plan(request: "ScoreRequest", *, probe: bool, price: float | None) -> None:
    from brainray.commands.score import plan_only, plan_with_probe

    from .console import output_console, show_estimate, show_plan

    console = output_console()
    if not probe:
        show_plan(console, plan_only(request))
        return
    plan, expected = plan_with_probe(request, say=LOG.say)
    show_plan(console, plan)
    if expected is not None:
        show_estimate(console, expected, price=price)


def _score(request: "ScoreRequest") -> None:
    from brainray.commands.score import check_max_failed
    from brainray.commands.score import score as score_images

    from .console import output_console, show_outcome, watcher

    with watcher(LOG) as listener:
        outcome = score_images(request, listener=listener, say=LOG.say)
    show_outcome(output_console(), outcome)
    LOG.event(
        "done", run=outcome.plan.uri, scored=outcome.scored, seconds=round(outcome.elapsed_s, 3), **_totals(outcome)
    )
    check_max_failed(outcome, request.options.max_failed)


def _totals(outcome: "Outcome") -> dict[str, Any]:
    """What a monitor wants to know of a run without reading its summary."""
    figures = outcome.summary.figures
    return {name: figures[name] for name in ("totals", "accuracy", "macro_f1", "failures", "gone")}
