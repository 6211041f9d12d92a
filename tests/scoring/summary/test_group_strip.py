"""The strip of the page: which image stands for a group, and how many groups are shown."""

import pytest
from support.page.html_pages import read_page
from support.scoring.run_rows import CLASSES, failed, scored, write_run

from brainray.page.tiles import MOST_STRIP
from brainray.scoring.summary.build import build_summary
from brainray.scoring.summary.group_strip import strip_rows

pytestmark = pytest.mark.usefixtures("no_plot")
G, N = CLASSES
HOSTILE = "<script>alert(1)</script>\u202e"


def page_of(made, folder):
    figures = build_summary(made).figures
    return figures, read_page((folder / "summary" / "report.html").read_text())


def test_the_most_confident_mistake_stands_for_a_group_or_else_its_main_class(tmp_path):
    rows = [
        scored("/m1", N, 0.6, label=G, group="mistakes"),
        scored("/m2", N, 0.8, label=G, group="mistakes"),
        scored("/m3", G, 0.99, label=G, group="mistakes"),
        scored("/u1", G, 0.7, group="unlabelled"),
        scored("/u2", G, 0.9, group="unlabelled"),
        scored("/u3", N, 0.95, group="unlabelled"),
        scored("/z", G, 0.9),
        failed("/f", group="nothing scored"),
    ]
    figures, page = page_of(write_run(tmp_path, rows, parts=3, group_by="folder"), tmp_path)
    found = {row["group"]: (row["uri"], row["images"]) for row in strip_rows(str(tmp_path), figures)}
    assert found == {
        "mistakes": ("/m2", {G: 1, N: 2}),
        "unlabelled": ("/u2", {G: 2, N: 1}),
        "(none)": ("/z", {G: 1, N: 0}),
    }
    (strip,) = page.classed("strip")
    assert "2 notumor, 1 glioma of 3" in " ".join(strip.text.split())
    assert "1 group without a scored image has no tile." in page.by_id("groups").text


def test_the_strip_is_of_patients_where_a_level_has_that_name_and_capped(tmp_path):
    rows = [
        scored(f"/{i}", G, 0.5 + i / 400, group=f"{i // 2:03d}{HOSTILE}/{i % 2}".replace("</", "<%2F"))
        for i in range(100)
    ]
    levels = {"group_by": ["x"], "group_levels": ["patient", "series"]}
    figures, page = page_of(write_run(tmp_path, rows, parts=7, **levels), tmp_path)
    shown = strip_rows(str(tmp_path), figures)
    assert len(shown) == MOST_STRIP and {sum(row["images"].values()) for row in shown} == {2}
    assert [row["uri"] for row in shown[:2]] == ["/1", "/3"], "the more confident one of the worst patients"
    (strip,) = page.classed("strip")
    assert len(list(strip.all("li"))) == MOST_STRIP
    assert f"{50 - MOST_STRIP} more left out" in page.by_id("groups").text
    assert "script" not in {element.tag for element in strip.everything()}
    assert "000<script>alert(1)</script>\\u202e" in strip.text
