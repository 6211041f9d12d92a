"""`brainray report`: its options, and how its results are shown."""

from typing import Annotated

import typer

from .json_object import OBJECT, Json
from .log import LOG
from .options import LabelsMayMiss, RealUris, Thumbnails


def report(
    run: Annotated[str, typer.Argument(help="Folder that `score` wrote.", metavar="RUN")],
    verify: Annotated[
        bool, typer.Option("--verify", help="Read every part, compare it with the manifest, and write nothing.")
    ] = False,
    labels: Annotated[
        str | None,
        typer.Option(
            help="Label the run first: answers exported from its page, or a table as of `score`; others keep theirs.",
            metavar="URI",
        ),
    ] = None,
    labels_may_miss: LabelsMayMiss = False,
    thumbnails: Thumbnails = True,
    explain: Annotated[
        str | None,
        typer.Option(help="Map where scores came from: of the first N images, review or all.", metavar="N|review|all"),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="With --explain: the model of the run, if it was moved.", metavar="URI")
    ] = None,
    real_uris: RealUris = None,
    as_json: Json = False,
) -> None:
    """Rebuild the summary of a run from its Parquet.

    Needs no Ray, and torch for --explain only.
    """
    from brainray.machine.hardware import share_freed_memory

    share_freed_memory()
    from brainray import storage
    from brainray.commands.report import report as rebuild
    from brainray.commands.report import verify as verify_parts
    from brainray.config import Explain, PageOptions
    from brainray.scoring.summary.build import page_of

    from .console import output_console, show_page, show_summary

    if verify:
        account = verify_parts(run, labels=labels, explain=explain, model=model, real_uris=real_uris)
        if as_json:
            OBJECT.add({"run": storage.normalise(run), "rows": account.rows, "failed": account.failed})
            return
        output_console().print(
            f"{account.rows:,} rows, {account.failed:,} failed: each image once, every part is whole"
        )
        return
    page = PageOptions(thumbnails=thumbnails)
    summary = rebuild(
        run,
        say=LOG.say,
        page=page,
        labels=labels,
        labels_may_miss=labels_may_miss,
        explain=None if explain is None else Explain.parse(explain),
        model=model,
        real_uris=real_uris,
    )
    uri = storage.normalise(run)
    if as_json:
        OBJECT.add({"run": uri, "page": page_of(uri), "figures": summary.figures})
        return
    console = output_console()
    show_summary(console, summary)
    console.print(f"summary is in {storage.join(uri, 'summary')}", markup=False)
    show_page(console, page_of(uri))
