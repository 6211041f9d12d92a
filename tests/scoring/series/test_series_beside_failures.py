"""Images whose header could not be read tell no series: what becomes of the series beside them."""

import json

import pyarrow.parquet as pq
import pytest
from support.scoring.run_rows import failed, scored, write_run

from brainray.config import PageOptions
from brainray.scoring.series.rows import TOLD
from brainray.scoring.summary.build import build_summary

pytestmark = pytest.mark.usefixtures("no_plot")
LATER = ["seen", "series", "study", "slice_position", "slice_number", *TOLD]


def rolled_up(folder, rows, parts=4, **values) -> tuple[dict[str, dict], dict]:
    """The series by name, and the figures of all."""
    run = write_run(folder / "run", rows, parts=parts, later_columns=LATER, **values)
    build_summary(run, page=PageOptions(report=False))
    table = pq.read_table(f"{run}/series").to_pylist()
    return {row["series"]: row for row in table}, json.loads((folder / "run/summary/summary.json").read_text())[
        "series"
    ]


def slices(where, series, count=10, predicted="notumor"):
    return [
        scored(f"{where}/{series}-{number}.dcm", predicted, 0.95, series=series, slice_position=5.0 * number)
        for number in range(count)
    ]


def broken(where, count):
    return [failed(f"{where}/broken-{number}.dcm", "not_an_image") for number in range(count)]


@pytest.mark.parametrize("where", ["/a/p1", "/a/more.zip#p1"])
@pytest.mark.parametrize("series_by", [None, "folder"])
def test_a_series_that_is_mostly_unreadable_is_not_called_healthy(tmp_path, where, series_by):
    found, figures = rolled_up(tmp_path, slices(where, "s") + broken(where, 30), series_by=series_by)
    (row,) = found.values()
    assert (row["slices"], row["failed"], row["predicted"], row["reason"]) == (40, 30, None, "too_many_failed")
    assert row["gaps"] == 0
    assert figures["images_without_series"] == 0


def test_failures_in_another_folder_are_none_of_its_slices(tmp_path):
    found, figures = rolled_up(tmp_path, slices("/a/p1", "s") + broken("/a/p2", 30))
    assert (found["s"]["predicted"], found["s"]["failed"]) == ("notumor", 0)
    assert figures["images_without_series"] == 30, "of all parts, also of those without a series"


def test_where_several_series_may_have_lost_slices_none_is_called_healthy(tmp_path):
    found, _ = rolled_up(tmp_path, slices("/a", "s") + slices("/a", "t") + broken("/a", 8))
    assert {(row["predicted"], row["reason"], row["stray"]) for row in found.values()} == {(None, "too_many_failed", 8)}


def test_a_series_that_could_have_lost_many_slices_among_many_images_is_for_review(tmp_path):
    rows = slices("/a", "s") + slices("/a", "large", 60) + slices("/a", "found", predicted="glioma")
    found, figures = rolled_up(tmp_path, rows + broken("/a", 5))
    said = {name: (row["predicted"], row["review"], row["stray"]) for name, row in found.items()}
    assert said == {"s": ("notumor", True, 5), "large": ("notumor", False, 5), "found": ("glioma", False, 5)}
    assert figures["beside_failed"] == 3


def test_a_localiser_beside_a_series_takes_none_of_its_failures(tmp_path):
    scout = failed("/a/scout.dcm", "localizer", series="scout") | {"status": "excluded"}
    found, _ = rolled_up(tmp_path, [*slices("/a", "s"), scout, *broken("/a", 5)])
    assert (found["s"]["reason"], found["scout"]["slices"]) == ("too_many_failed", 1)
