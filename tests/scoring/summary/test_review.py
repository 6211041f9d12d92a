"""The list of what to look at first, beside the page."""

import csv
import io
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from support.scoring.run_rows import CLASSES, failed, scored, write_run
from support.storage.faults import Killed, failing

from brainray import storage
from brainray.commands.report import report
from brainray.config import PageOptions
from brainray.inputs.labels.answer_file import read_label_file
from brainray.scoring.summary.build import build_summary

pytestmark = pytest.mark.usefixtures("no_plot")
ROWS = [
    scored("/right.jpg", "glioma", 0.6, label="glioma", review=True),
    scored("/sure.jpg", "glioma", 0.9),
    scored("/unsure.jpg", "glioma", 0.7, review=True),
    scored("/least, sure.jpg", "notumor", 0.6, review=True),
    scored("/wrong.jpg", "glioma", 0.7, label="notumor", review=True),
    scored("/very wrong.jpg", "glioma", 0.95, label="notumor"),
    failed("/cut.jpg", error_detail='says "no"'),
]


def review_of(run):
    return pq.read_table(f"{run}/summary/review.parquet")


def test_mistakes_come_before_unsure_images_and_those_before_failures(tmp_path):
    run = write_run(tmp_path, ROWS, parts=2)
    figures = build_summary(run).figures
    found = [(row["place"], row["uri"], row["reason"]) for row in review_of(run).to_pylist()]
    assert found == [
        (1, "/very wrong.jpg", "label_and_prediction_differ"),
        (2, "/wrong.jpg", "label_and_prediction_differ"),
        (3, "/least, sure.jpg", "unsure_without_label"),
        (4, "/unsure.jpg", "unsure_without_label"),
        (5, "/cut.jpg", "failed"),
    ]
    assert figures["review_list"] == {
        "label_and_prediction_differ": {"images": 2, "listed": 2},
        "judged_wrong_without_class": {"images": 0, "listed": 0},
        "unsure_without_label": {"images": 2, "listed": 2},
        "failed": {"images": 1, "listed": 1},
    }


def test_what_does_not_fit_is_counted(tmp_path):
    rows = [scored(f"/{i}.jpg", "glioma", 0.6, label="notumor") for i in range(2_100)]
    run = write_run(tmp_path, rows)
    figures = build_summary(run).figures
    assert figures["review_list"]["label_and_prediction_differ"] == {"images": 2_100, "listed": 2_000}
    assert len(review_of(run)) == 2_000
    assert "2,100 label and prediction differ (100 of them left out)" in Path(run, "summary/report.html").read_text()


def test_both_files_hold_the_same_and_an_empty_list_keeps_its_types(tmp_path):
    full, empty = write_run(tmp_path / "a", ROWS), write_run(tmp_path / "b", ROWS[:2])
    build_summary(full)
    build_summary(empty)
    assert review_of(full).schema == review_of(empty).schema
    assert len(review_of(empty)) == 0
    read = list(csv.DictReader(io.StringIO(Path(full, "summary/review.csv").read_text("utf-8-sig"))))
    for row, other in zip(read, review_of(full).to_pylist(), strict=True):
        assert {name: value for name, value in row.items() if name != "confidence"} == {
            name: "" if value is None else str(value) for name, value in other.items() if name != "confidence"
        }


def filled_in(run) -> bytes:
    """The list with a class in each empty label, as a person saves it."""
    read = list(csv.DictReader(io.StringIO(Path(run, "summary/review.csv").read_text("utf-8-sig"))))
    for row in read:
        row["label"] = row["label"] or "glioma"
    filled = io.StringIO()
    writer = csv.DictWriter(filled, read[0].keys())
    writer.writeheader()
    writer.writerows(read)
    return filled.getvalue().encode()


def test_the_list_with_its_labels_filled_in_is_a_label_file(tmp_path):
    run = write_run(tmp_path, ROWS)
    build_summary(run)
    storage.write_bytes(f"{tmp_path}/filled.csv", filled_in(run))
    labels = read_label_file(f"{tmp_path}/filled.csv", CLASSES)
    assert labels.without_label == 0


def test_a_list_that_a_person_has_filled_in_is_never_lost(tmp_path):
    run = write_run(tmp_path, ROWS)
    build_summary(run)
    folder = Path(run, "summary")
    labelled = filled_in(run)
    (folder / "review.csv").write_bytes(labelled)
    assert build_summary(run).kept_list is None
    assert (folder / "review.csv").read_bytes() == labelled, "the labels are lost, though the list is the same"
    write_run(tmp_path, [*ROWS, scored("/new.jpg", "glioma", 0.55, review=True)])
    told: list[str] = []
    report(run, say=told.append)
    assert (folder / "review.1.csv").read_bytes() == labelled, "the labels of a person are lost"
    assert b"/new.jpg" in (folder / "review.csv").read_bytes()
    assert told == [
        f"{folder}/review.csv was filled in or changed, and the run has another list now; what was there is kept as "
        "review.1.csv, and `report --labels` takes it"
    ]
    write_run(tmp_path, ROWS)
    assert build_summary(run).kept_list is None, "a list that nobody has filled in is replaced"
    assert sorted(path.name for path in folder.glob("*.csv")) == ["review.1.csv", "review.csv"]


def test_a_filled_in_list_outlives_a_summary_that_is_killed_at_any_change(tmp_path, monkeypatch):
    run = write_run(tmp_path, ROWS)
    build_summary(run)
    folder = Path(run, "summary")
    labelled = filled_in(run)
    (folder / "review.csv").write_bytes(labelled)
    write_run(tmp_path, [*ROWS, scored("/new.jpg", "glioma", 0.55, review=True)])
    for step in range(1, 200):
        try:
            with failing(monkeypatch, step, syncs=False):
                build_summary(run, page=PageOptions(report=False))
        except Killed:
            held = [path.read_bytes() for path in folder.glob("review*.csv")]
            assert labelled in held, f"killed at change {step}, the labels of a person are lost"
            continue
        break
    assert step > 5
    assert sorted(path.name for path in folder.glob("*.csv")) == ["review.1.csv", "review.csv"]
