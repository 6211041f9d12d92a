"""A group that is named as all groups together are: in no level is it taken for them."""

from pathlib import Path

import pytest
from support.page.html_pages import read_page
from support.scoring.run_rows import CLASSES, scored, write_run

from brainray.cli.console import per_class_table
from brainray.scoring.summary.build import build_summary

pytestmark = pytest.mark.usefixtures("no_plot")
G, N = CLASSES
PATIENT = {"group_by": ["site", "patient", "series"], "group_levels": ["site", "patient", "series"]}


@pytest.mark.parametrize(
    ("groups", "levels", "named"),
    [
        (("all/1/x", "b/1/x"), PATIENT, ["all (group)", "b", "all/1", "b/1", "all/1/x", "b/1/x"]),
        (("b/all/all", "b/1/x"), PATIENT, ["b", "b/1", "b/all", "b/1/x", "b/all/all"]),
        (("all", "b"), {"group_by": "folder"}, ["all (group)", "b"]),
    ],
    ids=["site", "below", "one level"],
)
def test_terminal_page_and_table_show_each_class_once(tmp_path, groups, levels, named):
    rows = [
        scored(f"/{i}", G, label=label, group=group)
        for i, (group, label) in enumerate(zip(groups, CLASSES, strict=True))
    ]
    summary = build_summary(write_run(tmp_path, rows, **levels))
    found = summary.per_class["group"].to_pylist()[:: len(CLASSES)]
    assert found == ["all", *named]
    of_all = summary.per_class.to_pylist()[: len(CLASSES)]
    assert [row["support"] for row in of_all] == [1, 1]
    assert per_class_table(summary.per_class).row_count == len(CLASSES)
    chapter = read_page(Path(tmp_path, "summary", "report.html").read_text()).by_id("groups")
    shown = {row[0] for table in chapter.all("table") for row in table.rows()}
    assert shown == {name.replace("/", " / ") for name in named}
