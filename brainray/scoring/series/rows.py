"""The rows of a run by series: parts are copied into one local file, which DuckDB sorts with what spills to disk.

So memory does not grow with the run: what comes out are tables of whole series, some 65,000 rows at a time. Of one too
large to be a series only counts come out.

An image whose header cannot be read tells no series, and may be a slice of those beside it: in a folder with slices of
one series it is one of its own, in a folder with several each of them may have lost it.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from brainray import storage
from brainray.config import pattern_of
from brainray.errors import EXCLUSION_REASONS
from brainray.inputs.listed_image import CHUNK_ROWS
from brainray.scoring.manifest import duckdb_connection, quoted
from brainray.scoring.parts import part_uri, read_parts
from brainray.scoring.prediction_schema import SCAN_COLUMNS, prob_column
from brainray.scoring.pseudonyms.names import KeyedNames
from brainray.storage.scratch import scratch_folder

FOLDER = "folder"  # of --series-by: the folder, or the archive's folder, that holds the image
OK, FAILED, EXCLUDED = 0, 1, 2
TOLD = tuple(field.name for field in SCAN_COLUMNS)
_COPIED = ("uri", "group", "status", "error", "label", "predicted", "review", "width", "height", *TOLD)
_LATER = ("seen", "series", "study", "slice_position", "slice_number")
MOST_ROWS = 100_000  # of a series; a folder of more is an archive
# The last number of a name, without its suffixes: 12 of `IM_0012.jp2`, 3 of `file.dcm#3`.
_SUFFIXES = r"(\.[A-Za-z][A-Za-z0-9]{0,4})+$"
_PLANES = ("axial", "coronal", "sagittal", "oblique")
_LAST_NUMBER = r"(?P<number>[0-9]{1,9})[^0-9]*$"


# Folders where images failed that no header gives a series, with their slices of other images, decide what becomes of
# them.
_QUERY = """
    WITH every AS (SELECT *, NOT by_header AND status = {failed} AS strays FROM read_parquet({rows})),
    hurt AS (SELECT folder, count(*) AS lost FROM every WHERE strays GROUP BY folder),
    near AS (
        SELECT every.folder, any_value(lost) AS lost, count(*) AS others, min(series) AS lowest, max(series) AS highest
        FROM every JOIN hurt ON every.folder = hurt.folder
        WHERE by_header AND status <> {excluded} GROUP BY every.folder
    ),
    placed AS (
        SELECT every.* REPLACE (
            CASE WHEN strays AND lowest = highest THEN lowest ELSE series END AS series,
            CASE WHEN by_header AND lowest <> highest THEN every.folder END AS folder,
            CASE WHEN by_header AND lowest <> highest THEN near.lost END AS stray,
            CASE WHEN by_header AND lowest <> highest THEN near.others END AS beside
        )
        FROM every LEFT JOIN near ON every.folder = near.folder
    )
    SELECT {columns} FROM placed WHERE series IS NOT NULL ORDER BY series, uri
"""


# Where there is no such image, which takes a third of the time.
_PLAIN_QUERY = """
    SELECT {columns} FROM (SELECT * REPLACE (NULL AS folder) FROM read_parquet({rows}))
    WHERE series IS NOT NULL ORDER BY series, uri
"""


@dataclass(frozen=True, kw_only=True)
class SeriesSource:
    """The rows of which series are made."""

    run_uri: str
    shards: Sequence[str]  # ids of those whose parts are read: a row of theirs belongs to a series, or may do so
    rows: int = 0  # of the run
    classes: tuple[str, ...]
    later: tuple[str, ...]  # columns of `LATER` that the rows have
    series_by: str | None = None  # of images without a header: FOLDER, or a regular expression on the URI
    names: KeyedNames | None = None  # those that `series_by` is about, where rows have pseudonyms


def schema_of(classes: Sequence[str]) -> pa.Schema:
    """The columns of the tables: labels and predictions as places in `classes`, -1 for none."""
    text = pa.string()
    return pa.schema(
        [
            pa.field("series", text),
            pa.field("study", text),
            pa.field("uri", text),
            pa.field("group", text),
            pa.field("status", pa.int8()),
            pa.field("label", pa.int16()),
            pa.field("review", pa.bool_()),
            pa.field("seen", pa.bool_()),
            pa.field("position", pa.float32()),
            pa.field("number", pa.int32()),
            pa.field("size", pa.int64()),  # of the picture: width and height in one number
            pa.field("times", pa.int32()),  # the number of rows that this one stands for; null: 1
            # Of a slice beside images that failed and may be its series': their folder, how many they are, and how
            # many images of the folder belong to a series by their headers.
            pa.field("folder", text),
            pa.field("stray", pa.int32()),
            pa.field("beside", pa.int32()),
            *(pa.field(name, text) for name in TOLD if name != "scan_field_t"),
            pa.field("scan_field_t", pa.float32()),
            *(pa.field(prob_column(name), pa.float32()) for name in classes),
        ]
    )


@contextmanager
def sorted_series(source: SeriesSource) -> Iterator[Iterator[pa.Table]]:
    """Tables of whole series, by name of the series and URI."""
    with scratch_folder() as folder, duckdb_connection() as connection:
        path = f"{folder}/rows.parquet"
        query = _QUERY if _copy(source, path) else _PLAIN_QUERY
        schema = schema_of(source.classes)
        columns = ", ".join(f'"{name}"' for name in schema.names)
        ordered = connection.sql(query.format(rows=quoted(path), failed=FAILED, excluded=EXCLUDED, columns=columns))
        batches = (pa.Table.from_batches([batch]).cast(schema) for batch in ordered.to_arrow_reader(CHUNK_ROWS))
        yield whole_series(batches)


def counted(rows: pa.Table) -> pa.Table:
    """A few rows that stand for those of one series: counts stay, where slices lie and what they show is lost."""
    by = ["series", "status", "label", "review", "seen"]
    rest = [name for name in rows.column_names if name not in (*by, "uri", "times")]
    rows = rows.set_column(rows.column_names.index("times"), "times", pc.fill_null(rows["times"], 1))
    wanted = [("uri", "min"), ("times", "sum"), *((name, "first") for name in rest)]
    found = rows.group_by(by, use_threads=False).aggregate(wanted)
    found = found.rename_columns([*by, "uri", "times", *rest])
    return found.select(rows.column_names).cast(rows.schema).sort_by("uri")


def whole_series(tables: Iterator[pa.Table], shorten: Callable[[pa.Table], pa.Table] = counted) -> Iterator[pa.Table]:
    """The same rows, no series in two tables. `shorten` makes less of the rows of a series of more than `MOST_ROWS`."""
    held: pa.Table | None = None
    for table in tables:
        held = table if held is None else pa.concat_tables([held, table])
        last = pc.equal(held["series"], held["series"][-1])
        end = int(pc.index(last, pa.scalar(True)).as_py())
        if end:
            yield held.slice(0, end).combine_chunks()
            held = held.slice(end)
        if len(held) > MOST_ROWS:
            held = shorten(held)
    if held is not None and len(held):
        yield held.combine_chunks()


def _copy(source: SeriesSource, path: str) -> bool:
    """Copy the rows that belong to a series, or may do so, into a local file, with what `_QUERY` needs.

    Returns whether images failed that no header gives a series.
    """
    strays = False
    named, folder_of = _namer(source.series_by), _namer(FOLDER)
    schema = schema_of(source.classes).append(pa.field("by_header", pa.bool_()))
    with pq.ParquetWriter(path, schema) as file:
        for table in read_parts(lambda shard_id: _read(source, shard_id, named), source.shards):
            rows = table.filter(pc.or_(table["series"].is_valid(), pc.equal(table["status"], FAILED)))
            strayed = pc.and_(pc.invert(rows["by_header"]), pc.equal(rows["status"], FAILED))
            strays = strays or bool(pc.any(strayed).as_py())
            folders = pa.array(map(folder_of, rows["uri"].to_pylist()), pa.string())
            file.write_table(rows.set_column(rows.column_names.index("folder"), "folder", folders))
    return strays


def _namer(series_by: str | None) -> Callable[[str], str | None]:
    """What names the series of an image without a header, by its URI."""
    if series_by is None:
        return lambda _: None
    if series_by == FOLDER:
        return lambda uri: re.split(r"[/#][^/#]*$", uri, maxsplit=1)[0]
    pattern = pattern_of("--series-by", series_by)
    place = 1 if pattern.groups else 0

    def name(uri: str) -> str | None:
        found = pattern.search(uri)
        return found[place] if found else None

    return name


def _names_of(source: SeriesSource, uris: pa.ChunkedArray, named: Callable[[str], str | None]) -> pa.Array:
    """The series of images by their real URIs; of names that are kept apart, what stands for them."""
    found = [named(uri) for uri in uris.to_pylist()]
    if source.names is not None:
        found = [None if name is None else source.names.of_series(name) for name in found]
    return pa.array(found, pa.string())


def _read(source: SeriesSource, shard_id: str, named: Callable[[str], str | None]) -> pa.Table:
    """The rows of a part with the columns of `schema_of`."""
    uri = part_uri(source.run_uri, shard_id)
    probs = [prob_column(name) for name in source.classes]
    there = [name for name in (*_COPIED, *_LATER) if name not in TOLD + _LATER or name in source.later]
    with storage.open_parquet(uri) as file:
        table = file.read(columns=[*there, *probs], use_threads=False)
    known: dict[str, Any] = {name: table[name] for name in table.column_names}
    known |= {name: pa.nulls(len(table)) for name in (*TOLD, *_LATER) if name not in known}
    series = known["series"]
    by_header = series.is_valid()
    uris = source.names.uris(shard_id, table["uri"]) if source.names else table["uri"]
    if source.series_by is not None:
        series = pc.coalesce(series.cast(pa.string()), _names_of(source, uris, named))
    classes = pa.array(source.classes, pa.string())
    excluded = pc.is_in(table["error"], pa.array(EXCLUSION_REASONS))
    values = known | {
        "series": series,
        "status": pc.if_else(pc.equal(table["status"], "ok"), OK, pc.if_else(excluded, EXCLUDED, FAILED)),
        "label": pc.fill_null(pc.index_in(table["label"], classes), -1),
        "review": pc.fill_null(table["review"], False),
        "seen": pc.fill_null(known["seen"].cast(pa.bool_()), False),
        "position": known["slice_position"],
        "number": _numbers(uris, known["slice_number"]),
        "size": pc.add(pc.multiply(table["width"].cast(pa.int64()), 1 << 31), table["height"].cast(pa.int64())),
        "by_header": by_header,
        **{name: pa.nulls(len(table)) for name in ("times", "folder", "stray", "beside")},
    }
    schema = schema_of(source.classes).append(pa.field("by_header", pa.bool_()))
    return pa.table([values[name] for name in schema.names], names=schema.names).cast(schema)


def _numbers(uris: pa.ChunkedArray, numbers: Any) -> pa.Array:  # noqa: ANN401  of nulls, or of numbers
    """The number of each slice in its series: that of the frame, of the header, or at the end of the name."""
    names = pc.replace_substring_regex(uris, _SUFFIXES, "")
    of_name = pc.struct_field(pc.extract_regex(names, _LAST_NUMBER), "number").cast(pa.int32())
    is_frame = pc.match_substring_regex(uris, r"#[^/]*[0-9]$")
    return pc.if_else(is_frame, of_name, pc.coalesce(numbers.cast(pa.int32()), of_name))


def planes_of(table: pa.Table) -> "np.typing.NDArray[np.int64]":
    """A number for the plane of each slice. Positions along one plane's normal say nothing of those along another's."""
    found = pc.fill_null(pc.index_in(table["scan_plane"], pa.array(_PLANES)), len(_PLANES))
    return np.asarray(found.to_numpy(zero_copy_only=False), np.int64)


def order_of(table: pa.Table, series_N: "np.typing.NDArray[np.int64]") -> tuple[Any, Any]:
    """The order of the rows by series and place in it, and whether each series is ordered by positions.

    Positions count where all slices of a series have one, but for failed ones, plane by plane; else their numbers,
    then their URIs.
    """
    position = table["position"].to_numpy(zero_copy_only=False).astype(np.float64)
    number = pc.fill_null(table["number"], 2**31 - 1).to_numpy(zero_copy_only=False)
    known = np.isfinite(position)
    series = int(series_N[-1]) + 1 if len(series_N) else 0
    lacks = ~known & (table["status"].to_numpy() != FAILED)
    placed_S = np.bincount(series_N, weights=lacks, minlength=series) == 0
    placed_N = placed_S[series_N]
    keys = (number, np.where(placed_N, position, 0.0), np.where(placed_N, planes_of(table), 0), series_N)
    return np.lexsort(keys), placed_S
