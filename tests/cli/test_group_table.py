"""The tables of groups that `score` and `report` print."""

import io

import pytest
from rich.console import Console
from support.scoring.run_rows import CLASSES, failed, scored, write_run

from brainray.cli.console import show_summary
from brainray.scoring.summary.build import build_summary

pytestmark = pytest.mark.usefixtures("no_plot")
G, N = CLASSES


def printed(folder, rows):
    run = write_run(folder, rows, marks_seen=True, group_by="folder")
    console = Console(file=io.StringIO(), width=200)
    show_summary(console, build_summary(run))
    return console.file.getvalue()


def table_of(folder, rows):
    """The header and the rows below it, cell by cell."""
    table = printed(folder, rows).partition("Worst first by group")[2]
    lines = [line.replace("┃", "│").split("│") for line in table.splitlines() if "┃" in line or "│" in line]
    return [[cell.strip() for cell in line[1:-1]] for line in lines]


def test_a_group_with_labels_has_its_accuracy_and_the_number_of_images_it_is_of(tmp_path):
    rows = [
        *(scored(f"/seen-{i}", G, label=G, seen=True, group="a") for i in range(3)),
        scored("/new-1", G, label=G, seen=False, group="a"),
        scored("/new-2", N, label=G, seen=False, group="a"),
        scored("/new-3", N, seen=False, group="b"),
    ]
    header, *groups = table_of(tmp_path, rows)
    assert header[4:6] == ["labelled", "accuracy"]
    found = {group[0]: group[4:6] for group in groups}
    assert found["a"][0] == "2" and found["a"][1].startswith("0.500 ("), "of the three it has learned from none counts"
    assert found["b"] == ["0", "-"]


def test_where_every_labelled_image_was_learned_from_the_table_has_no_accuracy(tmp_path):
    header, *groups = table_of(tmp_path, [scored("/seen", G, label=G, seen=True, group="a")])
    assert "accuracy" not in header and groups[0][:2] == ["a", "1"]


def test_groups_of_localizers_alone_do_not_hide_the_worst(tmp_path):
    """An archive of DICOM has a group of localizers in each study."""
    left_out = [failed(f"/loc-{i}", "localizer", status="excluded", group=f"{i:03d}/loc") for i in range(60)]
    rows = [*left_out, scored("/1", G, group="t1"), failed("/2", group="t1"), failed("/3", group="t2")]
    header, first = table_of(tmp_path, rows)
    assert header[:5] == ["group", "images", "failed", "excluded", "for review"]
    assert first[:4] == ["t1", "2", "1", "0"]
    assert "61 groups without a scored image: t2 (1 failed), 000/loc (1 excluded), " in printed(
        tmp_path / "again", rows
    )
