"""Answers "wrong, class unknown" of the page, which `report --labels` counts as wrong."""

import csv
import io
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from support.imaging.images import image_bytes
from support.models.bundles import CLASSES
from support.page.html_pages import read_page
from support.scoring.laid_out import laid_out
from support.scoring.runs import brightness, contents, engine_of, request_for, score_here
from support.storage.faults import Killed, failing, mark_lease_dead

from brainray.cli.app import run as command
from brainray.commands.compare import compare
from brainray.commands.report import report
from brainray.config import MaxFailed, PageOptions
from brainray.inputs.labels.answer_file import read_label_file
from brainray.scoring.run_folder import verify_run

pytestmark = pytest.mark.usefixtures("no_plot")
NO_PAGE = PageOptions(report=False)


@pytest.fixture
def run(home, bundle):
    """A run of twenty images without labels."""

    def begin(now):
        (now / "in").mkdir()
        for seed in range(20):
            (now / "in" / f"{seed:02}.jpg").write_bytes(image_bytes(seed))
        score(now, bundle, shard_size=10)

    return laid_out(home, begin) / "run"


def score(folder, bundle, **options):
    request = request_for(folder / "in", folder / "run", bundle, **options)
    return score_here(request, engine_of(bundle, predict=brightness))


def answers(run, wrong="wrong", right=10, first=0) -> str:
    """What the page exports: some images right and the others `wrong` without a class."""
    found = sorted(contents(run).items())[first:]
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["uri", "label", "answer", "who", "when"])
    for place, (uri, row) in enumerate(found):
        writer.writerow([uri, row["predicted"], "right", "A", ""] if place < right else [uri, "", wrong, "A", ""])
    path = run.parent / "answers.csv"
    path.write_text(text.getvalue())
    return str(path)


def given(run, path, **options):
    told: list[str] = []
    return report(str(run), say=told.append, labels=path, **{"page": NO_PAGE} | options), told


@pytest.mark.parametrize("wrong", ["wrong", "no_image", " Wrong "])
def test_ten_right_and_ten_wrong_are_half_right(run, wrong):
    summary, told = given(run, answers(run, wrong))
    figures = summary.figures
    assert figures["accuracy"]["value"] == 0.5, "wrong answers without a class flatter the accuracy"
    assert (figures["measured"], figures["judged_wrong"], figures["totals"]["labelled"]) == (20, 10, 10)
    assert figures["macro_f1"] is figures["balanced_accuracy"] is figures["calibration"]["brier"] is None
    assert sum(each["images"] for each in figures["calibration"]["bins"]) == 20
    rows = summary.per_class_of_all.to_pylist()
    assert sum(row["predicted"] for row in rows) == 20
    for row in rows:
        if row["support"]:
            assert row["precision"] == pytest.approx(row["support"] / row["predicted"])
            assert row["recall"] == 1
    assert any("10 image(s) are judged wrong without a class" in line for line in told)


def test_the_console_and_the_page_say_so(run, capsys):
    assert command(["report", str(run), "--labels", answers(run, right=0)]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "accuracy 0.0000 (0.0000 to" in out
    assert "20 images were judged wrong without a class: wrong in accuracy" in out
    page = Path(run, "summary/report.html").read_text()
    assert "20 images of these were judged wrong without a class" in page
    assert "no Brier score" in page


def test_they_are_shown_and_listed_as_mistakes_and_as_nothing_else(run):
    summary, _ = given(run, answers(run), page=PageOptions(thumbnails=False))
    wrong = {row["uri"] for row in pq.read_table(run / "judged_wrong.parquet").to_pylist()}
    page = read_page(Path(run, "summary/report.html").read_text())
    shown = {kind: {tile.attributes["data-uri"] for tile in tiles_of(page, kind)} for kind in ("mistakes", "examples")}
    assert shown["mistakes"] == wrong
    assert not shown["examples"] & wrong, "an example of a class is one that a person has called wrong"
    assert all("judged wrong, class unknown" in tile.text for tile in tiles_of(page, "mistakes"))
    assert summary.figures["review_list"]["judged_wrong_without_class"] == {"images": 10, "listed": 10}
    assert wrong == {
        row["uri"] for row in pq.read_table(run / "summary/review.parquet").to_pylist() if not row["label"]
    }


def tiles_of(page, kind):
    return [tile for part in page.classed(kind) for tile in part.classed("tile")]


def test_a_class_that_is_named_later_takes_the_place_of_the_judgement(run):
    given(run, answers(run))
    uri, row = max(contents(run).items())
    other = next(name for name in CLASSES if name != row["predicted"])
    (run.parent / "more.csv").write_text(f"uri,label\n{uri},{other}\n")
    summary, _ = given(run, str(run.parent / "more.csv"))
    assert (summary.figures["judged_wrong"], summary.figures["totals"]["labelled"]) == (9, 11)
    assert summary.figures["accuracy"]["value"] == 0.5
    given(run, answers(run, right=20))
    assert not (run / "judged_wrong.parquet").exists()


def test_a_later_score_keeps_it_for_the_same_picture_and_prediction_alone(run, bundle):
    given(run, answers(run))
    (run.parent / "in" / "new.jpg").write_bytes(image_bytes(99))
    assert score(run.parent, bundle).summary.figures["judged_wrong"] == 10
    (run.parent / "in" / "19.jpg").write_bytes(image_bytes(98))
    assert score(run.parent, bundle).summary.figures["judged_wrong"] == 9, "another picture is judged by its name"


def test_a_listed_label_that_a_person_has_ruled_out_counts_as_wrong(run, bundle):
    rows = contents(run)
    text = "uri,label\n" + "".join(f"{uri},{row['predicted']}\n" for uri, row in rows.items())
    (run.parent / "all.csv").write_text(text)
    score(run.parent, bundle, label_file=read_label_file(str(run.parent / "all.csv"), bundle.classes))
    summary, _ = given(run, answers(run))
    assert summary.figures["accuracy"]["value"] == 0.5


def test_labels_of_score_end_it_and_say_what_they_cannot_count(run, bundle):
    given(run, answers(run))
    labels = read_label_file(answers(run), bundle.classes)
    assert (labels.judged_wrong, labels.without_label) == (10, 0)
    score(run.parent, bundle, label_file=labels)
    assert not (run / "judged_wrong.parquet").exists()


def test_a_comparison_says_that_it_is_without_them(run, bundle):
    given(run, answers(run))
    told: list[str] = []
    compare(str(run), str(run), output=None, thumbnails=False, say=told.append)
    assert f"{run}: 10 image(s) were judged wrong without a class" in told[0]


def test_groups_count_it_too(run, bundle):
    score(run.parent, bundle, group_by=r"/(\d)\d\.jpg")
    summary, _ = given(run, answers(run, right=15), page=PageOptions(thumbnails=False))
    page = read_page(Path(run, "summary/report.html").read_text())
    assert ["judged wrong" in tile.text for tile in tiles_of(page, "strip")] == [True, False]
    of = {name: group["accuracy"]["value"] for name, group in summary.figures["groups"].items()}
    assert of == {"0": 1.0, "1": 0.5}
    table = {row["group"]: row for row in pq.read_table(run / "summary/groups.parquet").to_pylist()}
    assert {name: row["accuracy"] for name, row in table.items()} == of
    assert {name: row["judged_wrong"] for name, row in table.items()} == {"0": 0, "1": 5}
    assert table["1"]["macro_f1"] is None
    assert table["0"]["macro_f1"] == 1


def test_killed_at_any_change_the_same_command_completes_it_and_again_changes_nothing(run, monkeypatch):
    path = answers(run)
    for step in range(1, 100):
        try:
            with failing(monkeypatch, step, syncs=False):
                given(run, path)
        except Killed:
            mark_lease_dead(run)
            assert len(contents(run)) == 20, "no reader ever misses a row"
            continue
        break
    assert json.loads((run / "summary/summary.json").read_text())["accuracy"]["value"] == 0.5
    assert json.loads((run / "_SUCCESS").read_text())["rows"] == 20
    rows = [row for _, row in sorted(contents(run).items())]
    assert [row["label"] for row in rows] == [row["predicted"] for row in rows[:10]] + [None] * 10
    verify_run(str(run))
    before = {each: each.read_bytes() for each in run.rglob("*") if each.is_file() and ".lease" not in each.parts}
    given(run, path)
    assert {each: each.read_bytes() for each in before} == before


def test_a_wrong_prediction_of_another_model_says_nothing_of_this_one(run):
    """As after `--rescore`: the page's answers are of the model before."""
    found = sorted(contents(run).items())
    path = run.parent / "answers.csv"
    rows = [f"{uri},,wrong,{row['predicted'] if place < 4 else CLASSES[-1]}" for place, (uri, row) in enumerate(found)]
    path.write_text("\n".join(["uri,label,answer,predicted", *rows[:10], f"{found[10][0]},,no_image,{CLASSES[-1]}"]))
    assert found[5][1]["predicted"] != CLASSES[-1]
    summary, told = given(run, str(path))
    assert summary.figures["judged_wrong"] == 5, "a prediction counts as wrong that nobody has looked at"
    assert any("6 answer(s) are left out" in line for line in told)


def test_an_image_that_could_not_be_scored_is_not_said_to_count_as_wrong(run, bundle):
    (run.parent / "in" / "broken.jpg").write_bytes(b"no image")
    score(run.parent, bundle, max_failed=MaxFailed(share=1.0))
    (run.parent / "answers.csv").write_text(f"uri,label,answer\n{run.parent}/in/broken.jpg,,no_image\n")
    summary, told = given(run, str(run.parent / "answers.csv"))
    assert summary.figures["judged_wrong"] == 0
    assert not any("count as wrong" in line for line in told), told
