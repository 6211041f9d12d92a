"""`--group-by scan_vendor`: tables by scanner, from headers that are read only when an image is scored."""

import pytest
from support.imaging.dicoms import dicom, slice_pixels
from support.imaging.images import image_bytes
from support.scoring.runs import as_of_an_earlier_version, brightness, engine_of, request_for, rows, score_here

from brainray.config import MaxFailed
from brainray.errors import BadRequest
from brainray.inputs.image_files import SCAN_LEVELS
from brainray.scoring.prediction_schema import SCAN_COLUMNS

WINDOW = {"WindowCenter": 1000, "WindowWidth": 2000}


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "in"
    for name, content in {
        "A/1.dcm": dicom(slice_pixels(seed=1), **WINDOW, Manufacturer="SIEMENS", MagneticFieldStrength=1.5),
        "A/2.dcm": dicom(slice_pixels(seed=2), **WINDOW, Manufacturer="GE MEDICAL SYSTEMS", MagneticFieldStrength=3),
        "B/3.dcm": dicom(slice_pixels(seed=3), **WINDOW, Manufacturer="Siemens", MagneticFieldStrength=3),
        "B/scout.dcm": dicom(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"], Manufacturer="Siemens"),
        "B/photo.png": image_bytes(kind="PNG"),
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def grouped(root, output, bundle, group_by, *, engine=None):
    request = request_for(root, output, bundle, group_by=group_by, max_failed=MaxFailed(share=1.0))
    outcome = score_here(request, engine or engine_of(bundle, predict=brightness))
    return {row["uri"].rpartition("/")[2]: row["group"] for row in rows(output)}, outcome.summary.figures


def nothing_is_scored(request, plan, lease):
    raise AssertionError("regrouping reads no image")


def test_each_image_is_in_the_group_of_its_scanner(root, tmp_path, bundle):
    groups, figures = grouped(root, tmp_path / "run", bundle, "scan_vendor")
    assert groups == {"1.dcm": "Siemens", "2.dcm": "GE", "3.dcm": "Siemens", "scout.dcm": "Siemens", "photo.png": None}
    assert set(figures["groups"]) == {"Siemens", "GE", "(none)"}
    assert figures["group_levels"] == ["scan_vendor"]


def test_a_finished_run_is_grouped_anew_without_reading_an_image(root, tmp_path, bundle):
    grouped(root, tmp_path / "run", bundle, "folder")
    groups, figures = grouped(root, tmp_path / "run", bundle, "site=folder,scan_field_t", engine=nothing_is_scored)
    assert groups == {"1.dcm": "A/1.5", "2.dcm": "A/3", "3.dcm": "B/3", "scout.dcm": "B/", "photo.png": "B/"}
    assert figures["group_levels"] == ["site", "scan_field_t"]
    assert set(figures["groups_above"]["site"]) == {"A", "B"}


def test_a_column_that_is_not_there_is_named(root, tmp_path, bundle):
    with pytest.raises(BadRequest, match="--group-by scan_maker: there is no such column; known are scan_modality, "):
        grouped(root, tmp_path / "run", bundle, "scan_maker")


def test_a_run_of_an_earlier_version_says_that_it_cannot(root, tmp_path, bundle):
    grouped(root, tmp_path / "run", bundle, None)
    as_of_an_earlier_version(tmp_path / "run")
    with pytest.raises(BadRequest, match="--group-by scan_vendor: an earlier version began the run"):
        grouped(root, tmp_path / "run", bundle, "scan_vendor")


def test_every_column_of_headers_may_be_a_level():
    assert tuple(field.name for field in SCAN_COLUMNS) == SCAN_LEVELS
