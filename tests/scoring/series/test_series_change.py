"""What becomes of series as a run, its model or its key changes."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.imaging.images import image_bytes
from support.models.bundles import untrained
from support.scoring.run_rows import CLASSES, scored, write_run
from support.scoring.runs import engine_of, request_for, score_here, success

from brainray.config import PageOptions
from brainray.errors import BadRequest
from brainray.scoring.series import rows as series_rows
from brainray.scoring.series.rollup import MOST_ROWS, Rollup
from brainray.scoring.series.rows import schema_of, whole_series
from brainray.scoring.summary.build import build_summary

pytestmark = pytest.mark.usefixtures("no_plot")
LATER = ["seen", "series", "study", "slice_position", "slice_number", *series_rows.TOLD]


@pytest.fixture
def plain(tmp_path):
    root = tmp_path / "in"
    (root / "p1").mkdir(parents=True)
    for number in range(2):
        (root / "p1" / f"{number}.png").write_bytes(image_bytes(size=(40, 40 + number)))
    return root


def score(root, run, bundle, **options):
    return score_here(request_for(root, run, bundle, **options), engine_of(bundle))


def give(run, label):
    table = pa.table(
        {"series": ["s"], "label": [label]}, schema=pa.schema([("series", pa.string()), ("label", pa.string())])
    )
    pq.write_table(table, f"{run}/series_labels.parquet")


def figures(run):
    return json.loads((run / "summary/summary.json").read_text())["series"]


def test_labels_of_series_that_are_no_class_do_not_stop_a_run_for_ever(tmp_path):
    rows = [scored(f"/a/{number}.dcm", "notumor", series="s") for number in range(12)]
    write_run(tmp_path / "run", rows, later_columns=LATER)
    give(tmp_path / "run", "meningioma")
    build_summary(str(tmp_path / "run"), page=PageOptions(report=False))
    said = figures(tmp_path / "run")
    assert (said["labels_unknown"], said["labels_given"], said["labelled"]) == (1, 0, 0)


def test_labels_of_series_that_a_new_model_lacks_are_said_before_it_scores(plain, tmp_path, bundle):
    run = tmp_path / "run"
    score(plain, run, bundle)
    give(run, "meningioma")
    other = untrained(tmp_path / "other", classes=("glioma", "notumor", "pituitary"))
    with pytest.raises(BadRequest, match=r"series_labels\.parquet: 'meningioma' is no class of the model"):
        score(plain, run, other, rescore=True)
    assert success(run)
    give(run, "glioma")
    score(plain, run, other, rescore=True)
    assert success(run)


def test_a_new_generation_remembers_what_names_series(plain, tmp_path, bundle):
    run = tmp_path / "run"
    score(plain, run, bundle, series_by="folder")
    score(plain, run, bundle, rescore=True)
    assert figures(run)["series"] == 1


def test_a_lost_key_that_named_nothing_stops_no_run(plain, tmp_path, bundle):
    run = tmp_path / "run"
    score(plain, run, bundle)
    (run / ".series_key").unlink()
    (plain / "p1" / "9.png").write_bytes(image_bytes(size=(60, 40)))
    assert score(plain, run, bundle).scored == 1
    assert (run / ".series_key").exists()
    score(plain, run, bundle)


def test_a_run_whose_series_are_gone_tells_of_no_studies(tmp_path):
    rows = [scored(f"/a/{number}.dcm", "notumor", series="s", study="t") for number in range(3)]
    run = tmp_path / "run"
    build_summary(write_run(run, rows, later_columns=LATER), page=PageOptions(report=False))
    assert (run / "studies.parquet").exists()
    for values in ({}, {"series_by": "nothing (matches)"}):
        (run / "studies.parquet").write_bytes(b"of before")
        plain = [row | {"series": None, "study": None} for row in rows]
        build_summary(write_run(run, plain, later_columns=LATER, **values), page=PageOptions(report=False))
        assert not (run / "studies.parquet").exists()


def folder_of(rows: int, name="/archive", start=0) -> pa.Table:
    """Rows of one folder, a quarter of which failed."""
    known = {
        "series": np.full(rows, name),
        "uri": [f"{name}/{start + number:09}.png" for number in range(rows)],
        "status": np.arange(rows) % 4 // 3,
        "label": np.full(rows, -1),
        "review": np.zeros(rows, bool),
        "seen": np.zeros(rows, bool),
        "number": np.arange(rows),
        **{f"prob_{each}": np.full(rows, 0.5) for each in CLASSES},
    }
    schema = schema_of(CLASSES)
    return pa.table(
        [pa.array(known[f.name]) if f.name in known else pa.nulls(rows) for f in schema], names=schema.names
    ).cast(schema)


def test_an_archive_in_one_folder_is_no_series_and_is_not_held_whole():
    batch, most = 40_000, []

    def batches():
        yield folder_of(40, "/a")
        for number in range(4):
            yield folder_of(batch, start=number * batch)
        yield folder_of(40, "/b")

    found = []
    for table in whole_series(batches()):
        most.append(len(table))
        found += Rollup(classes=CLASSES).rows(table).to_pylist()
    assert max(most) < MOST_ROWS
    assert [row["series"] for row in found] == ["/a", "/archive", "/b"]
    large = found[1]
    assert (large["slices"], large["scored"], large["failed"]) == (4 * batch, 3 * batch, batch)
    assert (large["predicted"], large["reason"], large["review"]) == (None, "too_large", False)
    assert large["uri"] == "/archive/000000000.png"
