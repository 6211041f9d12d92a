"""`brainray audit`."""

from typing import Annotated, Any

import typer

from .json_object import OBJECT, Json
from .log import LOG, LogFormatOption
from .options import AllSeries


def audit(
    data: Annotated[list[str], typer.Option(help="Folder of images; repeatable.", metavar="URI")],
    output: Annotated[str, typer.Option(help="Folder for the groups, the summary and the page.", metavar="URI")],
    against: Annotated[
        list[str] | None,
        typer.Option(
            help="Folder that should share no picture with --data, such as a test set; repeatable.", metavar="URI"
        ),
    ] = None,
    groups: Annotated[
        str | None,
        typer.Option(help="CSV or Parquet with an image and a group column, such as the patient.", metavar="URI"),
    ] = None,
    group_regex: Annotated[
        str | None, typer.Option(help="Regular expression that finds the subject in a URI.", metavar="RE")
    ] = None,
    all_series: AllSeries = False,
    as_json: Json = False,
    log_format: LogFormatOption = "text",
) -> None:
    """Find images that show the same picture, and conflicting labels; propose which are of one patient.

    Finds a picture also where it was resized, recompressed, mirrored, turned, cropped, brightened or equalised.
    Pictures that look like neighbouring slices of one head are proposed as groups for train --groups.
    """
    from brainray.commands.audit import AuditRequest
    from brainray.commands.audit import audit as find_copies

    request = AuditRequest.of(
        data,
        against=against or (),
        output=output,
        group_regex=group_regex,
        groups=groups,
        all_series=all_series,
    )
    figures = find_copies(request, say=LOG.say)
    LOG.event("done", output=request.output, **{name: figures[name] for name in ("images", "pictures", "surplus")})
    if as_json:
        OBJECT.add({"output": request.output, "figures": figures})
    else:
        _show(figures, request.output)


def _show(figures: dict[str, Any], output: str) -> None:
    from rich.markup import escape
    from rich.table import Table

    from brainray.duplicates.report import figure_rows

    from .console import output_console

    console = output_console()
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column()
    table.add_column(justify="right")
    for name, value in figure_rows(figures):
        table.add_row(escape(name), value)
    console.print(table)
    for line in _advice(figures, output):
        console.print(line, markup=False)
    console.print(f"look at audit.html and groups.parquet in {output}", markup=False)


def _advice(figures: dict[str, Any], output: str) -> list[str]:
    """A line of advice for each problem."""
    from brainray.duplicates.proposals import FILE
    from brainray.storage import join

    advice = []
    if figures["proposed"]["groups"]:
        advice.append(
            "proposed groups are a guess at who is one patient: look at them in audit.html, and where you know no "
            f"better, train with --groups {join(output, FILE)}"
        )
    if figures["conflicts"]["pictures"]:
        advice.append("pictures with two labels: correct the labels, or remove the images, before you train")
    if figures["against"] and figures["leaks"]["against"]["pictures"]:
        advice.append(
            f"--data and --against share pictures: train with --exclude {figures['against'][0]}, "
            "or no figure measured on it counts"
        )
    if figures["against"] and figures["leaks"]["subjects_against"]["pictures"]:
        advice.append(
            "--data and --against share groups, such as patients: a figure measured on --against is not one for new "
            "patients, unless the images of these groups are taken out of --data"
        )
    if figures["subjects"]["pictures_in_several"]:
        advice.append(
            "pictures lie in two groups or more: train keeps such groups together; see whether the groups are right"
        )
    if any(shared["pictures"] for shared in figures["leaks"]["subjects"].values()):
        advice.append(
            "folders share groups: a figure measured on one after training on the other is not one for new ones"
        )
    if any(shared["pictures"] for shared in figures["leaks"]["folders"].values()):
        advice.append("folders share pictures: do not train on one and measure on the other; train with --exclude")
    return advice
