"""What `brainray compare` does: compare two runs on their common images. Needs neither Ray nor torch."""

from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from brainray import storage
from brainray.callbacks import Say
from brainray.errors import BadRequest, as_bad_request
from brainray.evaluation.metrics import IntervalEstimate
from brainray.evaluation.paired import Difference
from brainray.evaluation.rounding import rounded
from brainray.scoring.comparison.compare import compare_rows, write_flips
from brainray.scoring.comparison.rows import check_classes, check_names, joined_rows, open_run
from brainray.scoring.pseudonyms.names import names_for, say_of_missing

FIGURES, PAGE, FLIPS = "compare.json", "compare.html", "flips.parquet"


@dataclass(frozen=True, kw_only=True, eq=False)
class CompareResult:
    """Two runs compared on the images that both scored with the same content. Differences are those of B less A."""

    a: str  # URI
    b: str  # URI
    output: str | None  # URI of the folder with compare.json, compare.html and flips.parquet
    figures: dict[str, Any] = field(repr=False)  # compare.json

    @property
    def compared(self) -> int:
        return int(self.figures["images"]["compared"])

    @property
    def flipped(self) -> int:
        """Compared images that the runs predict differently."""
        return int(self.figures["flipped"])

    @property
    def agreement(self) -> IntervalEstimate | None:
        """The share of equal predictions; None where no image is compared."""
        agreement = self.figures["agreement"]
        return IntervalEstimate(**agreement) if agreement else None

    @property
    def difference(self) -> Difference | None:
        """The difference of the accuracies, `low` to `high` as its 95 % interval; None without labels."""
        accuracy = self.figures["accuracy"]
        return Difference(**accuracy["difference"]) if accuracy else None

    @property
    def flips(self) -> pa.Table | None:
        """flips.parquet, a row for each flipped image; read at each call. None without an output."""
        return storage.read_parquet(storage.join(self.output, FLIPS)) if self.output else None

    def __str__(self) -> str:
        agreement = self.agreement
        share = f"agreement {rounded(agreement.value, 4)}" if agreement else "no agreement"
        return f"{self.compared:,} images compared, {share}, {self.flipped:,} flipped; {self.a} and {self.b}"


def compare(
    a: str, b: str, *, output: str | None, thumbnails: bool, say: Say, real_uris: str | None = None
) -> CompareResult:
    """Compare two runs. With `output` that folder gets it, the page and the flips; else nothing does.

    `real_uris` is the folder with the names of runs with pseudonyms, without which the page has no thumbnails.
    """
    runs = open_run(storage.normalise(a)), open_run(storage.normalise(b))
    check_classes(*runs)
    check_names(*runs)
    names = names_for(runs[0].uri, runs[0].values, real_uris, needed_by=None)
    folder = None if output is None else _checked_output(storage.normalise(output))
    for run in runs:
        if not run.published:
            say(f"{run.uri} is not complete: it has no _SUCCESS, so figures are those of the rows it has now")
        if run.judged_wrong:
            say(
                f"{run.uri}: {run.judged_wrong:,} image(s) were judged wrong without a class; accuracies here are of "
                "images with a label alone, so they may flatter"
            )
    if folder is not None and thumbnails:
        say_of_missing(runs[0].uri, runs[0].values, names, say)
    with joined_rows(*runs) as rows:
        found = compare_rows(*runs, rows)
        if folder is not None:
            from brainray.scoring.comparison.page import comparison_page  # its template engine takes 0.1 s to import

            write_flips(rows, storage.join(folder, FLIPS), runs[0].classes)
            page = comparison_page(*runs, found, thumbnails=thumbnails, names=names)
            storage.write_bytes(storage.join(folder, PAGE), page)
            storage.write_json(storage.join(folder, FIGURES), found.figures)
    return CompareResult(a=runs[0].uri, b=runs[1].uri, output=folder, figures=found.figures)


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
