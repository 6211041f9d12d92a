"""`brainray export`: its options, and how its results are shown."""

from typing import Annotated

import typer

from .json_object import OBJECT, Json
from .options import RealUris


def export(
    run: Annotated[str, typer.Argument(help="Folder that `score` wrote.", metavar="RUN")],
    to: Annotated[
        str, typer.Option(help="sr: a DICOM structured report for each series; omop: tables.", metavar="sr|omop")
    ],
    output: Annotated[str, typer.Option(help="Folder for the export, outside the run.", metavar="URI")],
    real_uris: RealUris = None,
    as_json: Json = False,
) -> None:
    """Write the series of a run as DICOM structured reports or OMOP tables.

    Reports hold the patient and the study of their images. Needs neither Ray nor torch.
    """
    from brainray.commands.export import export as write

    result = write(run, to=to, output=output, real_uris=real_uris)
    if as_json:
        OBJECT.add({"run": result.run, "output": result.output, "counts": result.counts})
        return
    from .console import output_console

    console = output_console()
    for what, number in result.counts.items():
        console.print(f"{number:,} {'rows of ' if to == 'omop' else 'series: '}{what}", markup=False)
    console.print(f"the export is in {result.output}", markup=False)
