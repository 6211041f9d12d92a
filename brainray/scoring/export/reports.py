"""Writes a structured report for each series of a run about which something is said.

The headers of its scored slices are read again, for rows hold no UIDs: a slice that is gone or has changed leaves its
series without a report. Written again, a report has the same name, UIDs and bytes.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from brainray import storage
from brainray.config import ImageSpec
from brainray.errors import ImageError
from brainray.imaging.dicom.header import read_header
from brainray.imaging.dicom.magic import is_dicom
from brainray.inputs.ranges import plan_reads
from brainray.inputs.reader import Reader, reads_in_flight
from brainray.scoring.pseudonyms.names import KeyedNames

from .sources import ExportedRun, said_of_series, scored_slices
from .structured_report import NoReport, ReportedSeries, report_of

if TYPE_CHECKING:
    from pydicom import Dataset

WRITTEN, THERE, WITHDRAWN = "written", "there already", "withdrawn"
_NO_DICOM = "it is no DICOM"
_SUFFIX = ".dcm"
_MOST_INFLATED = 4 * ImageSpec.max_pixels  # as `imaging.dicom.image` allows


def write_reports(
    run: ExportedRun, output: str, writer: storage.Writer = storage.UNLEASED, *, names: KeyedNames | None = None
) -> Counter[str]:
    """Write the reports into a folder; counts series by what became of them.

    A report of a series that says something else now replaces the one that is there. Those of this run that no longer
    hold are deleted: of series that are gone, or of which nothing or something else is said without a new report.
    """
    counts: Counter[str] = Counter()
    folder = _Reports(output, run.prefix, writer)
    reader = Reader(roots=names.inputs(run.values) if names else run.values["inputs"])
    with scored_slices(run) as slices, ThreadPoolExecutor(thread_name_prefix="read") as pool:
        for said, rows in _together(said_of_series(run), slices):
            try:
                series = _reported(run, said, rows)
                is_new = not folder.holds(series)
                if is_new and rows is not None:
                    folder.write(series, report_of(series, _headers(names.rows(rows) if names else rows, reader, pool)))
                counts[WRITTEN if is_new else THERE] += 1
            except NoReport as exc:
                counts[str(exc)] += 1
    if withdrawn := folder.withdraw():
        counts[WITHDRAWN] = withdrawn
    return counts


class _Reports:
    """The reports of a run in a folder, whose names are `<run>-<series>-<digest>.dcm`; it may hold those of others."""

    def __init__(self, folder: str, run: str, writer: storage.Writer) -> None:
        self._folder, self._run, self._writer = folder, run, writer
        pattern = re.compile(rf"{re.escape(run)}-([^\W_]+)-[0-9a-f]{{12}}{re.escape(_SUFFIX)}")
        found = ((name, pattern.fullmatch(name)) for name in storage.list_names(folder))
        self._there: dict[str, set[str]] = {}  # names by series, of reports that are neither met nor replaced
        for name, match in found:
            if match:
                self._there.setdefault(match[1], set()).add(name)

    def holds(self, series: ReportedSeries) -> bool:
        """Whether a report is there, which then stays."""
        names = self._there.get(_stem(series), set())
        is_there = self._name(series) in names
        names.discard(self._name(series))
        return is_there

    def write(self, series: ReportedSeries, content: bytes) -> None:
        """Write a report, in place of those of the same series."""
        self._writer.write_bytes(storage.join(self._folder, self._name(series)), content)
        for name in self._there.pop(_stem(series), ()):
            self._writer.delete(storage.join(self._folder, name))

    def withdraw(self) -> int:
        """Delete the reports that were neither met nor replaced; gives their number."""
        names = [name for of_series in self._there.values() for name in of_series]
        for name in names:
            self._writer.delete(storage.join(self._folder, name))
        return len(names)

    def _name(self, series: ReportedSeries) -> str:
        return f"{self._run}-{_stem(series)}-{series.digest}{_SUFFIX}"


def _stem(series: ReportedSeries) -> str:
    """The name of a series if it is one of ours; others are texts of any kind."""
    name: str = series.said["series"]
    return name if name.isalnum() else hashlib.sha256(name.encode("utf-8", "replace")).hexdigest()[:20]


def _together(
    said: Iterator[dict[str, Any]], slices: Iterator[tuple[str, pa.Table]]
) -> Iterator[tuple[dict[str, Any], pa.Table | None]]:
    """Each series with its scored slices; None for one without. Both are in the order of names."""
    name, rows = next(slices, (None, None))
    for each in said:
        if each["series"] == name:
            yield each, rows
            name, rows = next(slices, (None, None))
        else:
            yield each, None


def _reported(run: ExportedRun, said: dict[str, Any], rows: pa.Table | None) -> ReportedSeries:
    if said["predicted"] is None:
        raise NoReport("nothing can be said of it")
    if rows is None:
        raise NoReport(_NO_DICOM if run.names_series else "an earlier version scored it; see --rescore of `score`")
    return ReportedSeries(
        generation=run.generation,
        fingerprint=run.values["fingerprint"],
        said=said,
        slices=frozenset(rows["content_hash"].to_pylist()),
        scored_at=pc.max(rows["scored_at"]).as_py(),
    )


def _headers(rows: pa.Table, reader: Reader, pool: ThreadPoolExecutor) -> list["Dataset"]:
    """The headers of slices, without their pixels. Raises `NoReport` where one is not what was scored."""
    headers = []
    ahead = reads_in_flight(rows["uri"].to_pylist())
    hashes: Sequence[str] = rows["content_hash"].to_pylist()
    images = (image for read in reader.read_ahead(list(plan_reads(rows)), pool, ahead=ahead) for image in read.images)
    for content, expected in zip(images, hashes, strict=True):
        if isinstance(content, ImageError):
            raise NoReport(f"a slice cannot be read ({content.reason})")
        if hashlib.sha256(content).hexdigest() != expected:
            raise NoReport("a slice has changed since it was scored")
        if not is_dicom(content):
            raise NoReport(_NO_DICOM)
        header = read_header(content, most_inflated=_MOST_INFLATED)
        if "PixelData" in header:
            del header.PixelData
        headers.append(header)
    return headers
