"""`brainray report`: its options, and how its results are shown."""

from typing import Annotated

import typer

from .log import LOG
from .options import Thumbnails


def report(
    run: Annotated[str, typer.Argument(help="Folder that `score` wrote.", metavar="RUN")],
    verify: Annotated[
        bool, typer.Option("--verify", help="Read every part, compare it with the manifest, and write nothing.")
    ] = False,
    thumbnails: Thumbnails = True,
    explain: Annotated[
        str | None,
        typer.Option(help="Map where scores came from: of the first N images, review or all.", metavar="N|review|all"),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="With --explain: the model of the run, if it was moved.", metavar="URI")
    ] = None,
) -> None:
    """Rebuild the summary of a run from its Parquet.

    Needs no Ray, and torch for --explain only.
    """
    from brainray import storage
    from brainray.commands.report import report as rebuild
    from brainray.commands.report import verify as verify_parts
    from brainray.config import Explain, PageOptions
    from brainray.scoring.summary import page_of

    from .console import output_console, show_page, show_summary

    console = output_console()
    if verify:
        account = verify_parts(run)
        console.print(f"{account.rows:,} rows, {account.failed:,} failed: each image once, every part is whole")
        return
    asked = None if explain is None else Explain.parse(explain)
    page = PageOptions(thumbnails=thumbnails)
    show_summary(console, rebuild(run, say=LOG.say, page=page, explain=asked, model=model))
    uri = storage.normalise(run)
    console.print(f"summary is in {storage.join(uri, 'summary')}")
    show_page(console, page_of(uri))
