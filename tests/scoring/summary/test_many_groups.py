"""A run of more groups than a person or a program wants in one JSON: a bounded number there, all in Parquet."""

import io
import json
import math

import numpy as np
import pyarrow.parquet as pq
import pytest
from rich.console import Console
from support.page.html_pages import read_page
from support.scoring.run_rows import CLASSES, failed, scored, write_run

from brainray.cli.console import show_summary
from brainray.page.sections import MOST_GROUPS, MOST_UNSCORED_GROUPS, group_tables
from brainray.scoring.summary.build import build_summary, read_summary
from brainray.scoring.summary.group_strip import strip_rows
from brainray.scoring.summary.groups import MOST_LISTED

pytestmark = pytest.mark.usefixtures("no_plot")
G, N = CLASSES
PATIENTS = 1_500
LEVELS = {"group_by": ["x"], "group_levels": ["site", "patient"]}


def patient(number):
    return f"site {number % 3}/patient {number:04d}"


def many_rows():
    """Patients of one to three images: some wrong, some failed, some without a label, some learned from."""
    rng = np.random.default_rng(1)
    for number in range(PATIENTS):
        for image in range(1 + number % 3):
            uri, group = f"/{number}/{image}", patient(number)
            if rng.random() < 0.1:
                yield failed(uri, group=group, label=G)
                continue
            values = {"label": rng.choice([G, N, None]), "seen": bool(rng.random() < 0.1)}
            yield scored(uri, rng.choice([G, N]), round(0.5 + rng.random() / 2, 3), group=group, **values)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("many")
    run = write_run(folder / "run", list(many_rows()), parts=4, marks_seen=True, **LEVELS)
    return run, build_summary(run)


def test_summary_lists_the_worst_and_the_largest_groups_and_the_parquet_has_every_one(made):
    run, summary = made
    figures = summary.figures
    assert figures["group_counts"] == {"site": 3, "patient": PATIENTS}
    assert len(figures["groups_above"]["site"]) == 3 and len(figures["groups"]) == MOST_LISTED
    assert list(figures["groups"]) == sorted(figures["groups"])
    rows = pq.read_table(f"{run}/summary/groups.parquet").to_pylist()
    assert [row["level"] for row in rows] == ["site"] * 3 + ["patient"] * PATIENTS
    assert [row["place"] for row in rows] == [*range(1, 4), *range(1, PATIENTS + 1)]
    patients = rows[3:]
    unscored = [row for row in patients if not row["ok"]]
    assert len(unscored) == figures["groups_unscored"]["patient"] < MOST_LISTED // 10, "all of them are listed"
    worst = {row["group"] for row in patients[: MOST_LISTED // 2]}
    left = sorted(patients[MOST_LISTED // 2 :], key=lambda row: (-row["images"], row["group"]))
    assert set(figures["groups"]) == worst | {row["group"] for row in left[: MOST_LISTED // 2]}
    assert sum(row["images"] for row in patients) == figures["totals"]["images"]


def test_parquet_and_json_agree_to_the_last_digit(made):
    run, summary = made
    listed = summary.figures["groups"] | summary.figures["groups_above"]["site"]
    shares = ("accuracy", "accepted_accuracy")
    compared = 0
    for row in pq.read_table(f"{run}/summary/groups.parquet").to_pylist():
        if row["group"] not in listed:
            continue
        compared += 1
        group = listed[row["group"]]
        known = group["totals"] | {name: group[name] for name in ("measured", "for_review", "mean_confidence")}
        known |= {name: group[name] for name in ("macro_f1", "balanced_accuracy")}
        for name in shares:
            share = group[name] or dict.fromkeys(("value", "low", "high"))
            known |= {name: share["value"], f"{name}_low": share["low"], f"{name}_high": share["high"]}
        known |= {"learned_from": group["seen"]["images"]} | {
            f"predicted_{k}": n for k, n in group["predicted"].items()
        }
        known.pop("scored_and_labelled")
        assert {name: row[name] for name in known} == known
    assert compared == MOST_LISTED + 3


def test_page_names_the_worst_groups_and_those_without_a_scored_image_apart(made):
    run, summary = made
    patients = pq.read_table(f"{run}/summary/groups.parquet").slice(3).to_pylist()
    worst = [row["group"] for row in patients if row["ok"]][:MOST_GROUPS]
    unscored = [row["group"] for row in patients if not row["ok"]]
    assert [row["key"] for row in group_tables(summary.figures)[1]["rows"]] == worst
    with open(f"{run}/summary/report.html", encoding="utf-8") as file:
        chapter = read_page(file.read()).by_id("groups")
    text = " ".join(chapter.text.split())
    left = PATIENTS - len(unscored) - MOST_GROUPS
    assert f"{left:,} more left out (better, all of them in groups.parquet)" in text
    assert f"{len(unscored) - MOST_UNSCORED_GROUPS} more left out (all of them in groups.parquet)" in text
    _, scored_rows, unscored_rows = (table.rows() for table in chapter.all("table"))
    assert [row[0] for row in scored_rows] == [name.replace("/", " / ") for name in worst]
    assert [row[0] for row in unscored_rows] == [name.replace("/", " / ") for name in unscored[:MOST_UNSCORED_GROUPS]]


def test_hundreds_of_groups_without_a_scored_image_do_not_hide_the_worst_of_the_others(tmp_path):
    rows = [failed(f"/f{i}", group=f"a{i:04d}", label=G) for i in range(600)]
    rows += [scored(f"/w{i}", N, 0.9, label=G, group=f"b{i:04d}") for i in range(60)]
    rows += [scored(f"/r{i}/{k}", G, 0.9, label=G, group=f"c{i:04d}") for i in range(900) for k in range(2)]
    run = write_run(tmp_path, rows, group_by="folder")
    summary = build_summary(run)
    listed = [sum(name[0] == kind for name in summary.figures["groups"]) for kind in "abc"]
    assert listed == [100, 60, MOST_LISTED - 160]
    assert summary.figures["groups_unscored"] == {"group": 600}
    assert {row["group"][0] for row in strip_rows(run, summary.figures)} == {"b"}
    text = " ".join(read_page((tmp_path / "summary/report.html").read_text()).by_id("groups").text.split())
    assert "920 more left out (further down). 600 groups without a scored image have no tile." in text
    assert "910 more left out (better, all of them in groups.parquet)" in text
    assert "580 more left out (all of them in groups.parquet)" in text
    console = Console(file=io.StringIO(), width=200)
    show_summary(console, summary)
    printed = " ".join(console.file.getvalue().split())
    assert "Worst first by group; 950 more in" in printed and "│ b0000" in printed
    assert "600 groups without a scored image: a0000 (1 failed)," in printed and "; 590 more in" in printed


def test_a_grouped_run_without_a_row_can_be_read_again(tmp_path):
    run = write_run(tmp_path, [], group_by="folder")
    build_summary(run)
    assert read_summary(run).confusion_of_all.num_rows == 0


def test_files_that_are_read_whole_do_not_grow_with_the_groups(made):
    """2 kB a listed group: with 200,000 of them summary.json had 252 MB."""
    run, summary = made
    assert len(json.dumps(summary.figures, indent=2)) < 2_000 * (MOST_LISTED + 3) + 50_000
    again = read_summary(run)
    assert again.confusion_of_all.num_rows == len(CLASSES) ** 2 and again.per_class_of_all.num_rows == len(CLASSES)
    cells = again.confusion_of_all.sort_by([("label", "ascending"), ("predicted", "ascending")])
    assert cells.equals(summary.confusion_of_all) and again.per_class_of_all.equals(summary.per_class_of_all)
    assert summary.per_class.num_rows == (1 + 3 + PATIENTS) * len(CLASSES)
    assert math.fsum(summary.confusion["images"].to_pylist()) == summary.figures["measured"]


def test_cells_without_an_image_are_left_out_of_a_confusion_that_would_be_too_large(made, monkeypatch, tmp_path):
    monkeypatch.setattr("brainray.scoring.summary.tables._MOST_GRID_ROWS", 3)
    rows = [scored(f"/{i}", G, label=G, group=str(i)) for i in range(3)]
    summary = build_summary(write_run(tmp_path, rows, group_by="folder"))
    cells = [tuple(row.values()) for row in summary.confusion.to_pylist()]
    assert cells == [(str(i), G, G, 1) for i in range(3)]
