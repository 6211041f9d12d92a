"""Summaries of runs that hold images the model has learned from: figures are of the others, and this is said."""

import io
from pathlib import Path

import pytest
from rich.console import Console
from support.scoring.run_rows import failed, scored, write_run

from brainray import storage
from brainray.cli.console import show_summary
from brainray.config import PageOptions
from brainray.scoring.summary.build import build_summary, read_summary

pytestmark = pytest.mark.usefixtures("no_plot")
PAGE = PageOptions(thumbnails=False)


def learned(number, **values):
    return scored(f"/seen-{number}.png", "glioma", label="glioma", seen=True, **values)


def new(number, label, predicted, **values):
    return scored(f"/new-{number}.png", predicted, label=label, seen=False, **values)


ROWS = [
    *(learned(number, group="x") for number in range(6)),
    scored("/seen-unlabelled.png", "glioma", seen=True, group="x"),
    new(1, "glioma", "glioma", group="x"),
    new(2, "glioma", "notumor", group="y"),
    scored("/new-unlabelled.png", "notumor", seen=False, group="y"),
    failed("/failed.png", label="glioma", group="y"),
]


def summary_of(folder, rows, **values):
    run = write_run(folder, rows, marks_seen=True, parts=2, **values)
    return build_summary(run, page=PAGE), run


def printed(summary):
    console = Console(file=io.StringIO(), width=200)
    show_summary(console, summary)
    return " ".join(console.file.getvalue().split())


def text_of(run):
    return " ".join(Path(run, "summary", "report.html").read_text().split())


def test_accuracy_is_of_images_that_were_not_learned_from(tmp_path):
    summary, _ = summary_of(tmp_path, ROWS, group_by="folder")
    figures = summary.figures
    assert (figures["accuracy"]["value"], figures["measured"]) == (0.5, 2)
    assert sum(summary.confusion["images"].to_pylist()) == 2
    assert sum(each["images"] for each in figures["calibration"]["bins"]) == 2
    of_all = {row["class"]: row["support"] for row in summary.per_class.to_pylist() if row["group"] == "all"}
    assert of_all == {"glioma": 2, "notumor": 0}
    groups = figures["groups"]
    assert {name: (group["measured"], group["seen"]["images"]) for name, group in groups.items()} == {
        "x": (1, 7),
        "y": (1, 0),
    }


def test_what_the_archive_holds_is_counted_over_all(tmp_path):
    figures = summary_of(tmp_path, ROWS)[0].figures
    assert figures["totals"]["scored_and_labelled"] == 8 and figures["totals"]["ok"] == 10
    assert figures["predicted"] == {"glioma": 8, "notumor": 2}
    seen = figures["seen"]
    assert (seen["images"], seen["labelled"], seen["over_all"]["accuracy"]["value"]) == (7, 6, 7 / 8)
    assert seen["over_all"].keys() >= {"macro_f1", "balanced_accuracy", "accepted_accuracy", "ece", "brier"}


def test_terminal_and_page_say_how_many_were_left_out(tmp_path):
    summary, run = summary_of(tmp_path, ROWS, group_by="folder")
    assert "on 2 labelled images" in printed(summary)
    assert "the model has learned from 7 images of these; 6 with a label are left out of accuracy" in printed(summary)
    assert "(with them accuracy would be 0.8750)" in printed(summary)
    page = text_of(run)
    assert "<b>50.0 %</b> of 2 labelled images are right" in page
    assert "The model has learned from 7 images of these; 6 with a label are left out of accuracy" in page
    assert "flatter" not in page


def test_a_run_over_the_training_images_has_no_accuracy_and_says_why(tmp_path):
    summary, run = summary_of(tmp_path, [learned(number) for number in range(4)])
    assert summary.figures["accuracy"] is None and summary.figures["measured"] == 0
    assert "the model has learned from every labelled image, so there is no accuracy" in printed(summary)
    assert "(with them accuracy would be 1.0000)" in printed(summary)
    assert "No scored image that the model has not learned from has a label" in text_of(run)
    assert "None: every labelled image that was scored is right." in text_of(run)
    assert "no mistake can be known" not in text_of(run)


def test_rows_without_marks_count_as_ever_and_the_page_says_so(tmp_path):
    rows = [row | {"seen": None} for row in ROWS]
    summary, run = summary_of(tmp_path, rows)
    assert summary.figures["seen"] is None and summary.figures["measured"] == 8
    assert "learned from" not in printed(summary)
    assert "for its bundle does not list them" in text_of(run)


def test_runs_and_summaries_of_earlier_versions_are_read(tmp_path):
    run = write_run(tmp_path, [row | {"seen": None} for row in ROWS])
    figures = build_summary(run, page=PAGE).figures
    assert figures["seen"] is None and figures["accuracy"]["value"] == 7 / 8
    earlier = {name: value for name, value in figures.items() if name not in ("seen", "measured")}
    storage.write_json(f"{run}/summary/summary.json", earlier)
    assert "on 8 labelled images" in printed(read_summary(run))
