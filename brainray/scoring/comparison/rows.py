"""The rows of two runs side by side: the parts of each are copied into one local Parquet file and joined by URI.

Memory does not grow with the runs: parts are read a few at a time, and DuckDB joins with what spills to the scratch
folder. Classes are written as their index among those of the first run.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from brainray.errors import BadRequest, StorageError, as_bad_request
from brainray.scoring.labelling.judged_wrong import read_judged
from brainray.scoring.manifest import duckdb_connection, quoted
from brainray.scoring.parts import open_part, part_uri, present_shards, read_parts
from brainray.scoring.prediction_schema import prob_column
from brainray.scoring.pseudonyms.key import FIELD as PSEUDONYMS
from brainray.scoring.pseudonyms.key import OPTION
from brainray.scoring.run_folder import check_is_run, is_published, later_columns
from brainray.scoring.summary.group_levels import depth
from brainray.storage.scratch import scratch_folder

if TYPE_CHECKING:
    import duckdb

_AS_TEXT = ("uri", "status", "content_hash", "group", "shard_id")

# What became of an image that both runs have. An image whose bytes differ is another image, so it is not compared.
COMPARED = "compared"
CASES = ("changed", "excluded", "failed_in_both", "failed_in_a", "failed_in_b", COMPARED)
_CASE = """CASE WHEN a.content_hash <> b.content_hash THEN 'changed'
    WHEN 'excluded' IN (a.status, b.status) THEN 'excluded'
    WHEN a.status <> 'ok' AND b.status <> 'ok' THEN 'failed_in_both'
    WHEN a.status <> 'ok' THEN 'failed_in_a' WHEN b.status <> 'ok' THEN 'failed_in_b' ELSE 'compared' END"""
_SEEN = "(a.seen OR b.seen)"  # whether one of the models has learned from the image
# How the prediction of a flipped image changed, where its label is known.
OUTCOME = """CASE WHEN label IS NULL THEN 'no_label' WHEN predicted_a = label THEN 'became_wrong'
    WHEN predicted_b = label THEN 'became_right' ELSE 'wrong_in_both' END"""


@dataclass(frozen=True, kw_only=True)
class ComparedRun:
    """A run that is compared."""

    uri: str
    values: Mapping[str, Any]  # run.json
    classes: tuple[str, ...]
    fingerprint: str
    published: bool  # whether it is complete and verified
    judged_wrong: int  # predictions that people judged wrong without naming the class, so that they have no label

    @property
    def grouped(self) -> bool:
        return self.values.get("group_by") is not None

    @property
    def depth(self) -> int | None:
        """Levels of its groups that count: down to the patient, whose images depend on each other. None: all."""
        return depth(self.values.get("group_levels") or ())


def open_run(uri: str) -> ComparedRun:
    """Read what a run is. Raises `BadRequest` for a folder without one."""
    with as_bad_request("RUN"):
        values = check_is_run(uri)
        published, judged = is_published(uri), len(read_judged(uri))
    try:
        classes, fingerprint = tuple(values["classes"]), values["fingerprint"]
    except KeyError as exc:
        raise StorageError("read_failed", f"{uri}: its run.json holds no {exc}") from exc
    return ComparedRun(
        uri=uri, values=values, classes=classes, fingerprint=fingerprint, published=published, judged_wrong=judged
    )


def check_classes(a: ComparedRun, b: ComparedRun) -> None:
    """Raise `BadRequest` for runs of different classes. Their order does not matter."""
    if set(a.classes) != set(b.classes):
        named = (f"{run.uri} has {', '.join(run.classes)}" for run in (a, b))
        raise BadRequest(f"these runs have different classes: {' and '.join(named)}; compare runs of the same classes")


def check_names(a: ComparedRun, b: ComparedRun) -> None:
    """Raise `BadRequest` for runs that name images differently, which none can be compared of."""
    if a.values.get(PSEUDONYMS) != b.values.get(PSEUDONYMS):
        raise BadRequest(
            f"{a.uri} and {b.uri} name images differently: not both have pseudonyms of one key; compare runs that were "
            f"made with one folder of {OPTION}, or both without"
        )


@dataclass(frozen=True, kw_only=True)
class JoinedRows:
    """Two runs, side by side."""

    connection: "duckdb.DuckDBPyConnection"  # its view `joined` has the images that both runs have
    folder: str  # on this machine, removed in the end
    images: tuple[int, int]  # rows of each run
    path: str  # of the file behind `joined`


@contextmanager
def joined_rows(a: ComparedRun, b: ComparedRun) -> Iterator[JoinedRows]:
    """The rows of both runs. Raises `BadRequest` for a run without rows, and where an image has two."""
    with scratch_folder() as folder, duckdb_connection() as connection:
        images = []
        for name, run in (("a", a), ("b", b)):
            path = f"{folder}/{name}.parquet"
            images.append(_copy_parts(run, a.classes, path))
            connection.execute(f"CREATE TEMP VIEW {name} AS SELECT * FROM read_parquet({quoted(path)})")
            _check_unique(connection, name, run)
        path = f"{folder}/joined.parquet"
        query = _join_query(
            len(a.classes), group=_group_sql("a", a) if a.grouped or not b.grouped else _group_sql("b", b)
        )
        connection.execute(f"COPY ({query}) TO {quoted(path)} (FORMAT parquet)")
        connection.execute(f"CREATE TEMP VIEW joined AS SELECT * FROM read_parquet({quoted(path)})")
        yield JoinedRows(connection=connection, folder=folder, images=(images[0], images[1]), path=path)


def _group_sql(side: str, run: ComparedRun) -> str:
    """The group of an image in a run, cut after the level that counts."""
    whole = f'{side}."group"'
    return whole if run.depth is None else f"array_to_string(string_split({whole}, '/')[1:{run.depth}], '/')"


def _join_query(classes: int, *, group: str) -> str:
    """A row for each image of both runs.

    A label that one run alone knows counts; none on which they differ counts, nor that of an image which one of the
    models has learned from: the other would be judged unfairly, and both flattered.
    """
    both = ("predicted", "confidence", "review", *(f"p{k}" for k in range(classes)))
    sides = ", ".join(f"{side}.{name} AS {name}_{side}" for side in ("a", "b") for name in both)
    return f"""
        SELECT a.uri, {group} AS "group", a.shard_id, a.content_hash, {_CASE} AS "case",
            CASE WHEN {_SEEN} OR coalesce(a.label <> b.label, false) THEN NULL
                ELSE coalesce(a.label, b.label) END AS label,
            {_SEEN} AND coalesce(a.label, b.label) IS NOT NULL AS labelled_and_seen,
            NOT {_SEEN} AND coalesce(a.label <> b.label, false) AS labels_differ,
            NOT {_SEEN} AND (a.label IS NULL) <> (b.label IS NULL) AS label_of_one, {sides}
        FROM a JOIN b ON a.uri = b.uri
    """


def _check_unique(connection: "duckdb.DuckDBPyConnection", name: str, run: ComparedRun) -> None:
    query = f"SELECT uri FROM {name} GROUP BY uri HAVING count(*) > 1 ORDER BY uri LIMIT 1"
    if found := connection.execute(query).fetchall():
        raise BadRequest(f"{run.uri} has two rows for {found[0][0]}; finish it with its `brainray score` command first")


def _copy_parts(run: ComparedRun, classes: Sequence[str], path: str) -> int:
    """Copy the columns that are compared of every part into one local file; gives the number of rows."""
    uris = [part_uri(run.uri, shard_id) for shard_id in sorted(present_shards(run.uri))]
    if not uris:
        raise BadRequest(f"{run.uri}: nothing is scored yet; run `brainray score` with it as --output")
    rows = 0
    with pq.ParquetWriter(path, _schema(len(classes))) as file:
        for table in read_parts(lambda uri: _read_part(run, uri, classes), uris):
            file.write_table(table)
            rows += len(table)
    return rows


def _schema(classes: int) -> pa.Schema:
    fields: dict[str, pa.DataType] = dict.fromkeys(_AS_TEXT, pa.string())
    fields |= {"label": pa.int32(), "predicted": pa.int32(), "confidence": pa.float32()}
    fields |= {"review": pa.bool_(), "seen": pa.bool_()}
    return pa.schema(fields | {f"p{k}": pa.float32() for k in range(classes)})


def _read_part(run: ComparedRun, uri: str, classes: Sequence[str]) -> pa.Table:
    """The rows of a part with the columns of `_schema`. A label that is no class is none."""
    probs = [prob_column(name) for name in classes]
    named = pa.array(classes, pa.string())
    marked = tuple(name for name in later_columns(run.values) if name == "seen")
    wanted = [*_AS_TEXT, "label", "predicted", "confidence", "review", *marked, *probs]
    with open_part(uri, run.fingerprint) as (file, _):
        table = file.read(columns=wanted, use_threads=False)
        values = [table[name] for name in _AS_TEXT]
        values += [pc.index_in(table[name], value_set=named) for name in ("label", "predicted")]
        seen = pc.fill_null(table["seen"], False) if marked else pa.array(np.zeros(len(table), bool))
        values += [table["confidence"], table["review"], seen, *(table[name] for name in probs)]
        return pa.table(values, names=_schema(len(classes)).names).cast(_schema(len(classes)))
