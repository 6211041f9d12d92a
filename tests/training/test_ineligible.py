"""Train, tune and audit leave out what `score` leaves out: masks, maps, localisers; they are counted by reason."""

import pytest
from support.imaging.dicoms import dicom, slice_pixels
from support.imaging.niftis import head, nifti
from support.imaging.pictures import audit_here
from support.training.selection import select_here

from brainray.commands.audit import AuditRequest, audit
from brainray.config import ImageSpec, TrainOptions
from brainray.duplicates.report import figure_rows
from brainray.errors import ALWAYS_EXCLUDED
from brainray.training.dataset import describe_data, describe_selection, list_training_set
from brainray.training.decoded import decode_rows
from brainray.training.report import command_of
from brainray.training.state import describe_request

OPTIONS = TrainOptions(image_px=32, val_fraction=0.34)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    """Three slices in each class, among them a localiser, a map and the mask of a volume."""
    root = tmp_path_factory.mktemp("data")
    for number, name in enumerate(("glioma", "notumor")):
        (root / name).mkdir()
        for k in range(3):
            content = dicom(slice_pixels(seed=10 * number + k + 1), SeriesInstanceUID=f"1.{number}.{k}")
            (root / name / f"{k}.dcm").write_bytes(content)
    scout = dicom(slice_pixels(seed=40), ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    adc = dicom(slice_pixels(seed=41), ImageType=["DERIVED", "PRIMARY", "ADC"])
    for name, content in {"scout.dcm": scout, "adc.dcm": adc, "mask.nii.gz": nifti((head() > 0).astype("u1"))}.items():
        (root / "glioma" / name).write_bytes(content)
    return str(root)


def test_training_leaves_out_what_score_leaves_out_and_counts_it(data):
    selected = select_here(list_training_set(data), OPTIONS)
    assert len(selected.positions) == 6
    shown = 20 - selected.ineligible["blank"]
    assert selected.ineligible == {"map": 1, "localizer": 1, "label_map": shown, "blank": 20 - shown}
    assert selected.unreadable == {}
    said = " ".join(describe_selection(selected))
    assert "1 localizer" in said and "see --all-series" in said and "cannot be read" not in said
    assert describe_data(selected, ("glioma", "notumor"))["ineligible"] == selected.ineligible


def test_all_series_learns_from_them_too(data):
    found = list_training_set(data)
    errors = decode_rows(found.table, ImageSpec(image_px=32), ALWAYS_EXCLUDED)["error"]
    assert set(errors) == {"", "blank"}
    options = TrainOptions(image_px=32, all_series=True)
    assert "--all-series" in command_of(options.to_json()).split()
    assert describe_request(options, found, None).digest != describe_request(OPTIONS, found, None).digest
    assert "all_series" not in describe_request(OPTIONS, found, None).described["options"], "as of earlier versions"


def test_an_audit_takes_no_mask_for_a_copy_of_another(data, tmp_path):
    request = AuditRequest.of([data], against=[], output=str(tmp_path / "out"), group_regex=None)
    said: list[str] = []
    figures = audit(request, say=said.append, start=audit_here)
    assert (figures["readable"], figures["unreadable"]) == (6, {})
    assert figures["excluded"]["localizer"] == figures["excluded"]["map"] == 1
    assert "no anatomical slice: localizer" in dict(figure_rows(figures))
    assert "22 are no anatomical slices, as score has it; they have a row that says why; see --all-series" in said
