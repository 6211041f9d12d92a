"""`brainray score`."""

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from brainray.errors import BadRequest

from .json_object import OBJECT, Json
from .log import LOG, LogFormatOption
from .options import LabelsMayMiss, Precision, Report, Thumbnails

if TYPE_CHECKING:
    from brainray.commands.score import Outcome
    from brainray.config import ScoreOptions
    from brainray.scoring.estimate import RunEstimate
    from brainray.scoring.plan import Plan
    from brainray.scoring.run_folder import ScoreRequest

# Parameters that are no fields of `ScoreOptions`.
_NO_OPTIONS = (
    *("input", "output", "model", "labels", "groups", "more", "stall_timeout", "plan", "probe", "price"),
    *("as_json", "log_format", "no_sign_request"),
)

KeepColumns = Annotated[
    list[str] | None, typer.Option(help="Columns of an input list to copy into the predictions.", metavar="NAMES")
]
Input = Annotated[
    list[str],
    typer.Option(help="Folder, image, tar, zip, Parquet or list; repeatable.", metavar="URI"),
]
More = Annotated[
    list[str] | None,
    typer.Argument(help="More inputs, as a shell makes of --input scans/*.jpg.", metavar="URI", show_default=False),
]
AllowedFailures = Annotated[str, typer.Option(help="Allowed failed images, a share or a count; more: exit code 3.")]
Include = Annotated[
    list[str] | None,
    typer.Option(help="Score only paths that match; '*' matches '/' too; repeatable.", metavar="GLOB"),
]
GroupBy = Annotated[
    list[str] | None,
    typer.Option(
        help="Figures by group: folder, folder:1 (the one below) or a regular expression on the URI; repeatable, "
        "from above: site=folder,patient=folder:1.",
        metavar="LEVELS",
    ),
]
SeriesBy = Annotated[
    str | None,
    typer.Option(
        help="Roll images without a DICOM header up, too: by the folder that holds them, or a regular expression on "
        "the URI.",
        metavar="folder|REGEX",
    ),
]
MaxFileSize = Annotated[str, typer.Option(help="Larger files are not read: their rows say too_large.", metavar="SIZE")]
MaxUnread = Annotated[str, typer.Option(help="Share of failed reads above which the run ends; 100%: never.")]


def score(
    context: typer.Context,
    input: Input,
    output: Annotated[str, typer.Option(help="Folder for the results.", metavar="URI")],
    more: More = None,
    model: Annotated[
        str, typer.Option(help="Model that `train` wrote; in the package: shipped, shipped-fast.", metavar="URI")
    ] = "shipped",
    labels: Annotated[
        str | None, typer.Option(help="Table (text or Parquet) with an image and a label column.", metavar="URI")
    ] = None,
    labels_may_miss: LabelsMayMiss = False,
    workers: Annotated[
        int | None, typer.Option(help="Scoring processes. [default: as many as the cluster holds]")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images in one forward pass. [default: by device]")] = None,
    shard_size: Annotated[int | None, typer.Option(help="Images in one part file. [default: about 1,000]")] = None,
    max_failed: AllowedFailures = "1%",
    include: Include = None,
    exclude: Annotated[
        list[str] | None, typer.Option(help="Leave out paths that match; repeatable.", metavar="GLOB")
    ] = None,
    any_suffix: Annotated[
        bool, typer.Option("--any-suffix", help="Take images by their first bytes, whatever their suffix.")
    ] = False,
    keep_columns: KeepColumns = None,
    group_by: GroupBy = None,
    groups: Annotated[
        str | None,
        typer.Option(
            help="Table (text or Parquet) with an image and a group column, such as the patient.", metavar="URI"
        ),
    ] = None,
    series_by: SeriesBy = None,
    precision: Precision = "auto",
    stall_timeout: Annotated[
        float, typer.Option(help="Seconds without a finished shard after which the run ends.")
    ] = 600,
    max_unread: MaxUnread = "50%",
    max_file_size: MaxFileSize = "1GiB",
    no_sign_request: Annotated[
        bool, typer.Option("--no-sign-request", help="Read public buckets without credentials; for a local --output.")
    ] = False,
    all_series: Annotated[
        bool, typer.Option("--all-series", help="Score localisers, maps and other medical images that are left out.")
    ] = False,
    keep_uids: Annotated[
        bool, typer.Option("--keep-uids", help="Add the UIDs of study, series and instance to the rows (DICOM).")
    ] = False,
    uid_key: Annotated[
        str | None,
        typer.Option(help="File with a key of 32 bytes or more: add the UIDs as keyed hashes.", metavar="URI"),
    ] = None,
    pseudonymise_uris: Annotated[
        str | None,
        typer.Option(
            help="Keep paths, file names and groups out of the run; they lie in this folder, which only you may read.",
            metavar="FOLDER",
        ),
    ] = None,
    volumes: Annotated[
        str, typer.Option(help="Volumes of 4-D NIfTI files: first, all, or a number from 0.", metavar="first|all|N")
    ] = "first",
    retry_unread: Annotated[
        bool, typer.Option("--retry-unread", help="Read images again that could not be read before.")
    ] = False,
    forget_missing: Annotated[
        bool, typer.Option("--forget-missing", help="Drop the rows of images that are no longer in the input.")
    ] = False,
    rescore: Annotated[
        bool, typer.Option("--rescore", help="Score all images again; replaces the run once complete.")
    ] = False,
    explain: Annotated[
        str | None,
        typer.Option(
            help="Map where scores came from while scoring: of the page's first N images, review or all.",
            metavar="N|review|all",
        ),
    ] = None,
    report: Report = True,
    thumbnails: Thumbnails = True,
    plan: Annotated[bool, typer.Option("--plan", help="Show what would be scored, and score nothing.")] = False,
    probe: Annotated[
        bool, typer.Option("--probe", help="With --plan: score some images to estimate the time.")
    ] = False,
    price: Annotated[
        float | None, typer.Option(help="With --probe: price of a machine-hour, to estimate the cost.")
    ] = None,
    as_json: Json = False,
    log_format: LogFormatOption = "text",
) -> None:
    """Score every image under the inputs, one Parquet row each.

    The same command goes on with a run that was stopped, and scores images that are new.
    """
    from brainray.machine.hardware import share_freed_memory

    share_freed_memory()
    from brainray.commands.score import read_request

    options = options_of(context.params)
    if no_sign_request:
        _sign_nothing(output)
    inputs = [*input, *(more or ())]
    request = read_request(inputs, model=model, output=output, labels=labels, groups=groups, options=options)
    if plan or probe or price is not None:
        _plan(request, probe=probe or price is not None, price=price, as_json=as_json)
    else:
        _score(request, as_json=as_json)


def _sign_nothing(output: str) -> None:
    """Raise `BadRequest` for an output in a bucket, which takes nothing that is not signed."""
    from brainray import storage

    if not storage.is_local(storage.normalise(output)):
        raise BadRequest(
            f"--no-sign-request: nothing can be written to --output {output} unsigned; give a local --output"
        )
    storage.sign_nothing()


def options_of(params: Mapping[str, Any]) -> "ScoreOptions":
    """The options among the parameters of a command line. Raises `BadRequest` that names a wrong one; reads no file."""
    from brainray.commands.options import score_options

    given = {name: value for name, value in params.items() if name not in _NO_OPTIONS}
    return score_options(**given, stall_timeout_s=params["stall_timeout"])


def _plan(request: "ScoreRequest", *, probe: bool, price: float | None, as_json: bool) -> None:
    from brainray.commands.score import plan_only, plan_with_probe

    from .console import output_console, show_estimate, show_plan

    if price is not None and not 0 <= price < math.inf:
        raise BadRequest(f"--price is {price:g}; it must be 0 or more")
    plan, expected = plan_with_probe(request, say=LOG.say) if probe else (plan_only(request, say=LOG.say), None)
    if as_json:
        OBJECT.add(_plan_values(plan, expected, price))
        return
    console = output_console()
    show_plan(console, plan)
    if expected is not None:
        show_estimate(console, expected, price=price)


def _plan_values(plan: "Plan", expected: "RunEstimate | None", price: float | None) -> dict[str, Any]:
    """What --plan and --probe say, for --json."""
    cost = None if expected is None or price is None else price * expected.node_hours
    return {
        "run": plan.uri,
        "images": plan.images,
        "listed": plan.listing.images,
        "size_bytes": plan.listing.size_bytes,
        "labelled": plan.listing.labelled,
        "skipped": plan.listing.skipped,
        "changes": asdict(plan.changes) if plan.before.run else None,
        "shards": len(plan.shards),
        "to_score": plan.todo_images,
        "foreseen_errors": dict(plan.foreseen),
        "expected": expected and {"seconds": expected.seconds, "images_per_second": expected.images_per_s},
        "node_hours": expected and expected.node_hours,
        "cost": cost,
    }


def _score(request: "ScoreRequest", *, as_json: bool) -> None:
    from brainray.commands.score import check_max_failed
    from brainray.commands.score import score as score_images
    from brainray.scoring.summary.build import page_of

    from .console import output_console, show_outcome, show_page, watcher

    with watcher(LOG) as listener:
        outcome = score_images(request, listener=listener, say=LOG.say)
    page = page_of(outcome.plan.uri)
    if as_json:
        counts = {"run": outcome.plan.uri, "scored": outcome.scored, "seconds": round(outcome.elapsed_s, 3)}
        OBJECT.add(counts | {"page": page, "figures": outcome.summary.figures})
    else:
        console = output_console()
        show_outcome(console, outcome)
        show_page(console, page)
    LOG.event(
        "done", run=outcome.plan.uri, scored=outcome.scored, seconds=round(outcome.elapsed_s, 3), **_totals(outcome)
    )
    check_max_failed(outcome, request.options.max_failed)


def _totals(outcome: "Outcome") -> dict[str, Any]:
    """The figures of the `done` event, for monitoring that does not read the summary."""
    figures = outcome.summary.figures
    return {name: figures[name] for name in ("totals", "accuracy", "macro_f1", "seen", "failures", "gone")}
