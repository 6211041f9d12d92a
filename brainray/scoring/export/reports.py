"""Writes a structured report for each series of a run about which something is said.

The headers of its scored slices are read again, for rows hold no UIDs: a slice that is gone or has changed leaves its
series without a report. Written again, a report has the same name, UIDs and bytes.
"""

import hashlib
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

from .sources import ExportedRun, said_of_series, scored_slices
from .structured_report import NoReport, ReportedSeries, report_of

if TYPE_CHECKING:
    from pydicom import Dataset

WRITTEN, THERE = "written", "there already"
_SUFFIX = ".dcm"
_MOST_INFLATED = 4 * ImageSpec.max_pixels  # as `imaging.dicom.image` allows


def write_reports(run: ExportedRun, output: str, writer: storage.Writer = storage.UNLEASED) -> Counter[str]:
    """Write the reports into a folder; counts series by what became of them.

    A report of a series that says something else now replaces the one that is there.
    """
    counts: Counter[str] = Counter()
    folder = _Reports(output, writer)
    reader = Reader(roots=run.values["inputs"])
    with scored_slices(run) as slices, ThreadPoolExecutor(thread_name_prefix="read") as pool:
        for said, rows in _together(said_of_series(run), slices):
            try:
                series = _reported(run, said, rows)
                is_new = not folder.holds(series)
                if is_new and rows is not None:
                    folder.write(series, report_of(series, _headers(rows, reader, pool)))
                counts[WRITTEN if is_new else THERE] += 1
            except NoReport as exc:
                counts[str(exc)] += 1
    return counts


class _Reports:
    """The reports in a folder, by the series that their names begin with."""

    def __init__(self, folder: str, writer: storage.Writer) -> None:
        self._folder, self._writer = folder, writer
        self._names: dict[str, list[str]] = {}
        for name in storage.list_names(folder):
            if name.endswith(_SUFFIX):
                self._names.setdefault(name.rpartition("-")[0], []).append(name)

    def holds(self, series: ReportedSeries) -> bool:
        return _file_name(series) in self._names.get(_stem(series), ())

    def write(self, series: ReportedSeries, content: bytes) -> None:
        """Write a report, in place of those of the same series."""
        self._writer.write_bytes(storage.join(self._folder, _file_name(series)), content)
        for name in self._names.get(_stem(series), ()):
            self._writer.delete(storage.join(self._folder, name))


def _stem(series: ReportedSeries) -> str:
    """The name of a series if it is one of ours; others are texts of any kind."""
    name: str = series.said["series"]
    return name if name.isalnum() else hashlib.sha256(name.encode("utf-8", "replace")).hexdigest()[:20]


def _file_name(series: ReportedSeries) -> str:
    return f"{_stem(series)}-{series.digest}{_SUFFIX}"


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
    if said["predicted"] is None or rows is None:
        raise NoReport("nothing can be said of it")
    return ReportedSeries(
        generation=run.generation,
        fingerprint=run.values["fingerprint"],
        said=said,
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
            raise NoReport("it is no DICOM")
        header = read_header(content, most_inflated=_MOST_INFLATED)
        if "PixelData" in header:
            del header.PixelData
        headers.append(header)
    return headers
