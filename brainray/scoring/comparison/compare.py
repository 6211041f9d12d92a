"""Compares two runs on the images that both have: agreement, flips, which is more often right, and calibration.

Figures are computed from the rows of both runs, in counts: memory does not grow with the number of images.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from brainray import storage
from brainray.evaluation import metrics, paired
from brainray.evaluation.counts import ALL, SCORED, Counts, count_rows, total

from .rows import CASES, COMPARED, OUTCOME, ComparedRun, JoinedRows

SCHEMA_VERSION = 1
OUTCOMES = ("became_wrong", "became_right", "wrong_in_both", "no_label")
MOST_GROUPS = 50  # in the figures, those that lost most first
_MOST_ROWS = 200  # of flipped images of each outcome, for tiles
_BATCH_ROWS = 65_536
_COMPARED = f"FROM joined WHERE \"case\" = '{COMPARED}'"
_FLIPPED = f"{_COMPARED} AND predicted_a <> predicted_b"
# How a labelled image counts: right by both, by the first only, by the second only, by none.
_PAIRS = """count(*) FILTER (predicted_a = label AND predicted_b = label) AS both_right,
    count(*) FILTER (predicted_a = label AND predicted_b <> label) AS only_first,
    count(*) FILTER (predicted_a <> label AND predicted_b = label) AS only_second,
    count(*) FILTER (predicted_a <> label AND predicted_b <> label) AS both_wrong"""
FLIPS_SCHEMA = pa.schema(
    [
        pa.field("uri", pa.string(), nullable=False),
        pa.field("group", pa.string()),
        pa.field("label", pa.string()),
        pa.field("predicted_a", pa.string(), nullable=False),
        pa.field("predicted_b", pa.string(), nullable=False),
        pa.field("confidence_a", pa.float32(), nullable=False),
        pa.field("confidence_b", pa.float32(), nullable=False),
        pa.field("outcome", pa.string(), nullable=False),
        pa.field("content_hash", pa.string()),
    ]
)
Figures = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two runs compared: `figures` is compare.json, `tiles` are flipped images of each outcome, to be shown."""

    figures: Figures
    tiles: dict[str, pa.Table]  # by outcome: `FLIPS_SCHEMA` and shard_id, those first of which both models are sure


def compare_rows(a: ComparedRun, b: ComparedRun, rows: JoinedRows) -> Comparison:
    """Compare the joined rows of two runs. Differences are those of `b` less `a`."""
    classes, grouped = a.classes, a.grouped or b.grouped
    levels = len((a if a.grouped else b).values.get("group_levels") or ())
    cells = rows.connection.execute(
        f"SELECT predicted_a, predicted_b, label, count(*) {_COMPARED} GROUP BY ALL ORDER BY ALL"
    ).fetchnumpy()
    cube = _cube(cells, len(classes))
    counts_a, counts_b = _counts(rows.path, len(classes))
    agreed, compared = int(np.einsum("iil->", cube)), int(cube.sum())
    labels = _labels(rows)
    figures = {
        "schema_version": SCHEMA_VERSION,
        "a": _run_figures(a, rows.images[0]) | _side(counts_a),
        "b": _run_figures(b, rows.images[1]) | _side(counts_b),
        "classes": list(classes),
        "images": _images(rows),
        "labels": labels,
        "agreement": metrics.share_of(agreed, compared),
        "flipped": compared - agreed,
        "outcomes": _outcomes(rows),
        "predictions": cube.sum(axis=2).tolist(),
        "flips": _flips(cube, classes),
        "accuracy": _accuracy(rows, grouped=grouped) if labels["used"] else None,
        "groups": _groups(rows, levels, labelled=bool(labels["used"])) if grouped else None,
    }
    return Comparison(figures=figures, tiles={name: _tiles(rows, name, classes) for name in OUTCOMES})


def _cube(cells: Any, classes: int) -> Any:  # noqa: ANN401  arrays by name
    """[K, K, K + 1] compared images by prediction of both runs and label; the last label is none."""
    first, second, label, images = (np.ma.filled(values, classes) for values in cells.values())
    cube = np.zeros((classes, classes, classes + 1), np.int64)
    cube[first.astype(np.int64), second.astype(np.int64), label.astype(np.int64)] = images
    return cube


def _run_figures(run: ComparedRun, images: int) -> Figures:
    return {
        "run": run.uri,
        "fingerprint": run.fingerprint,
        "model": (run.values.get("card") or {}).get("name"),
        "published": run.published,
        "judged_wrong": run.judged_wrong,
        "images": images,
    }


def _images(rows: JoinedRows) -> Figures:
    """What became of each image: those of one run only, and of those of both, by case."""
    found = dict(rows.connection.execute('SELECT "case", count(*) FROM joined GROUP BY ALL').fetchall())
    cases = {name: found.get(name, 0) for name in CASES}
    both = sum(cases.values())
    return {"only_in_a": rows.images[0] - both, "only_in_b": rows.images[1] - both, "in_both": both} | cases


def _labels(rows: JoinedRows) -> Figures:
    """Compared images by what is known of their labels."""
    query = f"""SELECT count(label) AS used, count(*) FILTER (label_of_one) AS of_one_run_only,
        count(*) FILTER (labels_differ) AS differ, count(*) FILTER (labelled_and_seen) AS seen {_COMPARED}"""
    found: Figures = rows.connection.sql(query).to_arrow_table().to_pylist()[0]
    return found


def _outcomes(rows: JoinedRows) -> dict[str, int]:
    found = dict(rows.connection.execute(f"SELECT {OUTCOME}, count(*) {_FLIPPED} GROUP BY ALL").fetchall())
    return {name: found.get(name, 0) for name in OUTCOMES}


def _flips(cube: Any, classes: Sequence[str]) -> list[Figures]:  # noqa: ANN401
    """Flipped images by pair of classes, most first."""
    pairs = []
    for i, j in np.argwhere(cube.sum(axis=2)).tolist():
        if i == j:
            continue
        images, labelled = int(cube[i, j].sum()), cube[i, j, :-1]
        wrong, right = int(labelled[i]), int(labelled[j])
        outcomes = {"became_wrong": wrong, "became_right": right, "wrong_in_both": int(labelled.sum()) - wrong - right}
        pairs.append({"a": classes[i], "b": classes[j], "images": images, **outcomes, "no_label": int(cube[i, j, -1])})
    return sorted(pairs, key=lambda pair: -pair["images"])  # stable: equals stay in the order of classes


def _counts(path: str, classes: int) -> tuple[Counts, Counts]:
    """The counts of the compared images of both runs, batch by batch."""
    parts: list[Counts] | None = None
    with pq.ParquetFile(path, pre_buffer=False) as file:  # pre-buffering would hold the whole file
        for batch in file.iter_batches(_BATCH_ROWS):
            both = [_count(batch, side, classes) for side in ("a", "b")]
            parts = both if parts is None else [total(pair) for pair in zip(parts, both, strict=True)]
    if parts is None:  # the runs have no image in common
        empty = pq.read_schema(path).empty_table()
        parts = [_count(empty, side, classes) for side in ("a", "b")]
    return parts[0], parts[1]


def _count(batch: pa.RecordBatch | pa.Table, side: str, classes: int) -> Counts:
    rows = pa.table(batch).filter(pc.equal(batch["case"], COMPARED))
    zeros = np.zeros(len(rows), np.int64)
    return count_rows(
        (ALL,),
        zeros,
        label_N=rows["label"].fill_null(classes).to_numpy().astype(np.int64),
        reason_N=zeros + SCORED,
        predicted_N=rows[f"predicted_{side}"].to_numpy().astype(np.int64),
        confidence_N=rows[f"confidence_{side}"].to_numpy().astype(np.float64),
        review_N=rows[f"review_{side}"].fill_null(False).to_numpy(),
        probs_NK=np.stack([rows[f"p{k}_{side}"].to_numpy() for k in range(classes)], axis=1).astype(np.float64),
    )


def _side(counts: Counts) -> Figures:
    """The figures of one run on the compared images; None where there are no labels."""
    accuracy = metrics.accuracy(counts)
    return {
        "accuracy": accuracy and accuracy._asdict(),
        "macro_f1": metrics.macro_f1(counts),
        "mean_confidence": metrics.mean_confidence(counts),
        "for_review": int(counts.review[:, 0].sum()),
        "ece": metrics.expected_calibration_error(counts),
        "brier": metrics.brier(counts),
        "bins": metrics.calibration_bins(counts) if counts.scored_and_labelled else None,
    }


def _accuracy(rows: JoinedRows, *, grouped: bool) -> Figures:
    """Which run is right where, and the difference of their accuracies."""
    found = rows.connection.execute(f"SELECT {_PAIRS} {_COMPARED} AND label IS NOT NULL").fetchall()
    pairs = paired.Pairs(*found[0])
    clusters = _clusters(rows) if grouped else None
    difference = paired.difference(pairs, clusters)
    return {
        "both_right": pairs.both_right,
        "only_a_right": pairs.only_first,
        "only_b_right": pairs.only_second,
        "both_wrong": pairs.both_wrong,
        "difference": difference and difference._asdict(),
        "groups": None if clusters is None else int(clusters[:, 2].sum()),
        "mcnemar_p": paired.mcnemar(pairs),
    }


def _clusters(rows: JoinedRows) -> Any:  # noqa: ANN401
    """[C, 3] the groups of labelled images by images and gain, see `paired.difference`. Ungrouped images stand alone.

    A group is a name, so the group of an image without one is its URI behind a character that no name has.
    """
    query = f"""SELECT images, gained, count(*) AS groups FROM (
        SELECT count(*) AS images, CAST(count(*) FILTER (predicted_b = label) AS BIGINT)
            - CAST(count(*) FILTER (predicted_a = label) AS BIGINT) AS gained
        {_COMPARED} AND label IS NOT NULL GROUP BY "group" IS NULL, coalesce("group", uri)
    ) GROUP BY ALL ORDER BY ALL"""
    table = rows.connection.sql(query).to_arrow_table()
    return np.stack([column.to_numpy() for column in table.columns], axis=1).astype(np.int64)


def _groups(rows: JoinedRows, levels: int, *, labelled: bool) -> Figures:
    """The groups that lost most, or without labels flipped most."""
    order = "only_second - only_first, " if labelled else ""
    query = f"""SELECT "group", count(*) AS images, count(*) FILTER (predicted_a <> predicted_b) AS flipped,
        {_PAIRS} {_COMPARED} GROUP BY "group" """
    worst = f'SELECT * FROM ({query}) ORDER BY {order}flipped DESC, images DESC, "group" LIMIT {MOST_GROUPS}'
    number = rows.connection.execute(f"SELECT count(*) FROM ({query})").fetchall()[0][0]
    found = rows.connection.sql(worst).to_arrow_table().to_pylist()
    return {"groups": number, "levels": levels, "listed": [_group(row) for row in found]}


def _group(row: Figures) -> Figures:
    pairs = paired.Pairs(*(row[name] for name in paired.Pairs._fields))
    difference = paired.difference(pairs)
    return {
        "group": row["group"],
        "images": row["images"],
        "flipped": row["flipped"],
        "labelled": sum(pairs),
        "only_a_right": pairs.only_first,
        "only_b_right": pairs.only_second,
        "difference": difference and difference._asdict(),
    }


def write_flips(rows: JoinedRows, uri: str, classes: Sequence[str]) -> None:
    """Write flips.parquet: a row for each image that the runs predict differently, by URI."""
    names = [name for name in FLIPS_SCHEMA.names if name != "outcome"]
    columns = ", ".join(f'"{name}"' for name in names)
    path = f"{rows.folder}/flips.parquet"
    reader = rows.connection.sql(f"SELECT {columns}, {OUTCOME} AS outcome {_FLIPPED} ORDER BY uri").to_arrow_reader(
        _BATCH_ROWS
    )
    with pq.ParquetWriter(path, FLIPS_SCHEMA, compression="zstd") as file:
        for batch in reader:
            file.write_table(_with_names(pa.Table.from_batches([batch]), classes).select(FLIPS_SCHEMA.names))
    storage.write_bytes(uri, storage.read_bytes(path))


def _with_names(table: pa.Table, classes: Sequence[str]) -> pa.Table:
    """The table with the names of classes for their indices, cast to `FLIPS_SCHEMA` where a column is in it."""
    named = pa.array(classes, pa.string())
    for name in ("label", "predicted_a", "predicted_b"):
        column = named.take(table[name].combine_chunks())
        table = table.set_column(table.schema.get_field_index(name), name, column)
    return table.cast(
        pa.schema([FLIPS_SCHEMA.field(n) if n in FLIPS_SCHEMA.names else table.field(n) for n in table.column_names])
    )


def _tiles(rows: JoinedRows, outcome: str, classes: Sequence[str]) -> pa.Table:
    """The flipped images of an outcome to be shown; of copies of a file, one."""
    names = ", ".join(f'"{name}"' for name in FLIPS_SCHEMA.names if name != "outcome")
    query = f"""SELECT {names}, '{outcome}' AS outcome, shard_id {_FLIPPED} AND {OUTCOME} = '{outcome}'
        QUALIFY row_number() OVER (PARTITION BY coalesce(content_hash, uri) ORDER BY uri) = 1
        ORDER BY least(confidence_a, confidence_b) DESC, uri LIMIT {_MOST_ROWS}"""
    table = rows.connection.sql(query).to_arrow_table()
    return _with_names(table, classes)
