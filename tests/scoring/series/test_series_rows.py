"""The order of slices, and what becomes of their labels, in runs that are written row by row."""

import pyarrow.parquet as pq
import pytest
from support.scoring.run_rows import failed, scored, write_run

from brainray.config import PageOptions, ScoreOptions
from brainray.errors import BadRequest
from brainray.scoring.series.rows import TOLD
from brainray.scoring.summary.build import build_summary

pytestmark = pytest.mark.usefixtures("no_plot")
LATER = ("series", "study", "slice_position", "slice_number", *TOLD)


def rolled_up(folder, rows, **values) -> list[dict]:
    run = write_run(folder / "run", rows, parts=3, later_columns=["seen", "brightness", "contrast", *LATER], **values)
    build_summary(run, page=PageOptions(report=False))
    return pq.read_table(f"{run}/series").to_pylist()


def slices(finds, name, count=12, **values):
    """Slices 1 to `count`, of which some show a glioma."""
    return [
        scored(name(number), "glioma" if number in finds else "notumor", 0.95, **values)
        for number in range(1, count + 1)
    ]


@pytest.mark.parametrize("name", ["/a/IM_{}.jp2", "/a/{}.png", "/a.nii.gz#z={}", "/a/b.dcm#{}", "/a/1.2.840.{}"])
def test_numbers_in_names_are_no_texts(tmp_path, name):
    (row,) = rolled_up(tmp_path, slices({9, 10, 11}, name.format), series_by=r"^/a")
    assert row["predicted"] == "glioma"


def test_positions_count_before_numbers_and_only_where_all_slices_have_one(tmp_path):
    rows = slices({2, 6, 10}, "/a/{}.dcm".format, series="s")
    upwards = [1, 3, 4, 5, 2, 6, 10, 7, 8, 9, 11, 12]
    placed = [row | {"slice_position": 4.0 * upwards.index(number)} for number, row in enumerate(rows, 1)]
    (row,) = rolled_up(tmp_path / "all", placed)
    assert (row["predicted"], row["finding_slices"]) == ("glioma", 3)
    (row,) = rolled_up(tmp_path / "some", [placed[0] | {"slice_position": None}, *placed[1:]])
    assert (row["predicted"], row["gaps"], row["doubled"]) == ("notumor", 0, 0)


def test_slices_of_another_plane_are_no_neighbours(tmp_path):
    """Else a tumour in neighbouring axial slices is lost between coronal ones at the same distances."""
    axial = slices({5, 6, 7}, "/a/{}.dcm".format, series="s", scan_plane="axial")
    coronal = slices(set(), "/b/{}.dcm".format, series="s", scan_plane="coronal")
    rows = [row | {"slice_position": 4.0 * number} for each in (axial, coronal) for number, row in enumerate(each, 1)]
    (row,) = rolled_up(tmp_path, rows)
    assert (row["predicted"], row["finding_slices"], row["doubled"], row["gaps"]) == ("glioma", 3, 0, 0)


def test_slices_beside_a_tumour_do_not_contradict_its_label(tmp_path):
    rows = slices({5, 6, 7}, "/a/{}.png".format, series="s")
    for row in rows:
        row["label"] = "glioma" if row["predicted"] == "glioma" else "notumor"
    (row,) = rolled_up(tmp_path, rows)
    assert (row["label"], row["predicted"], row["finding_slices"], row["slices_notumor"]) == ("glioma", "glioma", 3, 9)


def test_a_series_of_failures_has_its_row(tmp_path):
    (row,) = rolled_up(tmp_path, [failed(f"/a/{k}.dcm", series="s") for k in range(3)])
    assert (row["reason"], row["failed"], row["predicted"]) == ("none_scored", 3, None)


def test_a_wrong_regular_expression_is_said_before_anything_is_scored():
    with pytest.raises(BadRequest, match="--series-by"):
        ScoreOptions(series_by="(")
