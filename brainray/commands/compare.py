"""What `brainray compare` does: compare two runs on their common images. Needs neither Ray nor torch."""

from typing import Any

from brainray import storage
from brainray.callbacks import Say
from brainray.errors import BadRequest, as_bad_request
from brainray.scoring.compare import compare_rows, write_flips
from brainray.scoring.compare_rows import check_classes, joined_rows, open_run

FIGURES, PAGE, FLIPS = "compare.json", "compare.html", "flips.parquet"


def compare(a: str, b: str, *, output: str | None, thumbnails: bool, say: Say) -> dict[str, Any]:
    """The content of compare.json. With `output` that folder gets it, the page and the flips; else nothing does."""
    runs = open_run(storage.normalise(a)), open_run(storage.normalise(b))
    check_classes(*runs)
    folder = None if output is None else _checked_output(storage.normalise(output))
    for run in runs:
        if not run.published:
            say(f"{run.uri} is not complete: it has no _SUCCESS, so figures are those of the rows it has now")
    with joined_rows(*runs) as rows:
        found = compare_rows(*runs, rows)
        if folder is not None:
            from brainray.scoring.compare_page import comparison_page  # its template engine takes 0.1 s to import

            write_flips(rows, storage.join(folder, FLIPS), runs[0].classes)
            page = comparison_page(*runs, found, thumbnails=thumbnails)
            storage.write_bytes(storage.join(folder, PAGE), page)
            storage.write_json(storage.join(folder, FIGURES), found.figures)
    return found.figures


def _checked_output(uri: str) -> str:
    """The folder, which must be new, empty or that of an earlier comparison."""
    with as_bad_request("--output"):
        exists = storage.exists(uri)
        if exists and not storage.is_folder(uri):
            raise BadRequest(f"--output {uri} is a file; give a folder")
        if exists and set(storage.list_names(uri)) - {FIGURES, PAGE, FLIPS}:
            raise BadRequest(f"--output {uri} holds other files; give a new folder, or one of an earlier comparison")
    storage.check_writable("--output", uri)
    return uri
