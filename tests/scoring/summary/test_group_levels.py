"""Figures of groups in several levels: of sites, and of the patients of each."""

import pytest
from support.page.html_pages import read_page
from support.scoring.run_rows import CLASSES, failed, scored, write_run

from brainray.cli.console import show_summary
from brainray.commands.compare import compare
from brainray.scoring.summary.build import build_summary

pytestmark = pytest.mark.usefixtures("no_plot")
G, N = CLASSES
LEVELS = {"group_by": ["site=folder", "patient=folder:1"], "group_levels": ["site", "patient"]}


def run(folder, predicted=G, **values):
    rows = [
        *(scored(f"/a1/{i}", predicted, label=G, group="A/1") for i in range(3)),
        *(scored(f"/a2/{i}", N, label=G, group="A/2") for i in range(2)),
        *(scored(f"/b1/{i}", G, label=G, group="B%2F/1") for i in range(4)),
        scored("/none", G, label=G),
        failed("/f", group="A/1"),
    ]
    return write_run(folder, rows, parts=3, **(LEVELS | values))


def test_every_level_has_its_figures_and_the_last_ones_add_up(tmp_path):
    summary = build_summary(run(tmp_path / "run"))
    figures = summary.figures
    images = {name: group["totals"]["images"] for name, group in figures["groups"].items()}
    assert images == {"(none)": 1, "A/1": 4, "A/2": 2, "B%2F/1": 4}
    above = figures["groups_above"]["site"]
    assert {name: group["totals"]["images"] for name, group in above.items()} == {"(none)": 1, "A": 6, "B%2F": 4}
    assert above["A"]["accuracy"]["value"] == 3 / 5 and above["A"]["totals"]["failed"] == 1
    assert sum(summary.confusion["images"].to_pylist()) == 10, "no image is counted once a level"
    rows = summary.per_class.to_pylist()
    assert [(row["level"], row["group"]) for row in rows[:: len(CLASSES)]] == [
        (None, "all"),
        *(("site", name) for name in above),
        *(("patient", name) for name in images),
    ]
    recall = {row["group"]: row["recall"] for row in rows if row["class"] == G}
    assert (recall["A"], recall["A/2"], recall["all"]) == (3 / 5, 0, 8 / 10)


def test_page_and_terminal_show_each_level_worst_first_by_its_name(tmp_path, capsys):
    from rich.console import Console

    made = run(tmp_path / "run")
    summary = build_summary(made)
    chapter = read_page((tmp_path / "run/summary/report.html").read_text()).by_id("groups")
    sites, patients = (table.rows() for table in chapter.all("table"))
    assert (sites[0][0], patients[0][0]) == ("A", "A / 2")
    assert {row[0] for row in sites} == {"A", "B/", "(none)"}
    show_summary(Console(width=200), summary)
    out = capsys.readouterr().out
    assert "Worst first by site" in out and "Worst first by patient" in out and "B/ / 1" in out


def test_the_comparison_draws_patients_where_a_level_has_that_name(tmp_path):
    series = {"group_by": ["x"], "group_levels": ["patient", "series"]}
    a, b = run(tmp_path / "a", **series), run(tmp_path / "b", N, **series)
    figures = compare(a, b, output=None, thumbnails=False, say=print).figures
    assert {row["group"] for row in figures["groups"]["listed"]} <= {"A", "B%2F", None}
