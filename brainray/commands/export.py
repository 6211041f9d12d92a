"""What `brainray export` does: write the series of a run as other systems take them. Needs neither Ray nor torch."""

from dataclasses import dataclass
from os import fspath
from typing import Literal, get_args

from brainray import storage
from brainray.errors import BadRequest
from brainray.scoring.export.omop import check_output, write_tables
from brainray.scoring.export.reports import write_reports
from brainray.scoring.export.sources import open_run
from brainray.scoring.export.structured_report import check_installed
from brainray.scoring.pseudonyms.names import names_for

from .options import AnyPath

Form = Literal["sr", "omop"]


@dataclass(frozen=True, kw_only=True)
class ExportResult:
    """What was exported."""

    run: str  # URI
    output: str  # URI of the folder
    counts: dict[str, int]  # series by what became of them, or rows by table


def export(run: AnyPath, to: str, output: AnyPath, *, real_uris: AnyPath | None = None) -> ExportResult:
    """Write the series of a run into a folder: `sr` as DICOM structured reports, `omop` as tables of the MI-CDM.

    Repeating it changes nothing. Tables need a folder that is new or holds exports of this run alone. Reports hold
    patient and study of their images, so the folder lies outside the run. Of a run with pseudonyms they need the folder
    with its names, `real_uris`.
    """
    if to not in get_args(Form):
        raise BadRequest(f"--to is {to!r}; it must be one of {', '.join(get_args(Form))}")
    source, folder = storage.normalise(fspath(run)), storage.normalise(fspath(output))
    if f"{storage.without_links(folder)}/".startswith(f"{storage.without_links(source)}/"):
        raise BadRequest(f"--output {folder} lies in the run, which holds nothing about a person; give another folder")
    storage.check_is_folder("--output", folder, give="a folder that is new or holds an earlier export")
    if to == "sr":
        check_installed()
    opened = open_run(source)
    if to == "omop":
        check_output(opened, folder)
    needed_by = "--to sr" if to == "sr" else None
    names = names_for(source, opened.values, fspath(real_uris) if real_uris else None, needed_by=needed_by)
    storage.check_writable("--output", folder)
    counts = dict(write_reports(opened, folder, names=names)) if to == "sr" else write_tables(opened, folder)
    return ExportResult(run=source, output=folder, counts=counts)
