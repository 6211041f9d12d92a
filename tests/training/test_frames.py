"""Frames of DICOM files are examples of their own; no split divides a file or a series."""

import numpy as np
import pytest
from support.imaging.dicoms import dicom, slice_pixels
from support.imaging.pictures import audit_here
from support.training.selection import select_here

from brainray.commands.audit import AuditRequest, audit
from brainray.config import ImageSpec, TrainOptions
from brainray.duplicates.groups import list_images
from brainray.errors import BadRequest
from brainray.imaging.decode import decode
from brainray.inputs.labels.group_file import read_group_file
from brainray.training.dataset import list_excluded, list_training_set
from brainray.training.decoded import decode_rows

CLASSES = ("glioma", "notumor")
OPTIONS = TrainOptions(image_px=32, val_fraction=0.34)


def several(*seeds: int, **attributes) -> bytes:
    return dicom(np.stack([slice_pixels(seed=seed) for seed in seeds]), **attributes)


def put(root, files: dict[str, bytes]) -> str:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return str(root)


@pytest.fixture
def data(tmp_path) -> str:
    """Three files of two frames in each class, two of them without suffix, each of a series of its own."""
    files = {}
    for number, name in enumerate(CLASSES):
        for file in range(3):
            seed = 10 * number + 2 * file + 1
            content = several(seed, seed + 1, SeriesInstanceUID=f"1.2.{number}.{file}")
            files[f"{name}/IM{file}" if file else f"{name}/a.dcm"] = content
    return put(tmp_path / "data", files)


def test_each_frame_is_an_example_with_the_label_of_its_folder(data):
    found = list_training_set(data)
    assert found.classes == CLASSES
    names = [uri.removeprefix(f"{data}/") for uri in found.table["uri"].to_pylist()]
    assert sorted(names) == sorted(
        f"{name}/{file}#{number}" for name in CLASSES for file in ("a.dcm", "IM1", "IM2") for number in (1, 2)
    )
    rows = decode_rows(found.table, ImageSpec(image_px=32))
    assert set(rows["error"]) == {""}
    first = names.index("glioma/a.dcm#2")
    assert np.array_equal(rows["pixels"][first], decode(dicom(slice_pixels(seed=2)), ImageSpec(image_px=32)).pixels)
    assert len(list_excluded(data).table) == 12


def test_frames_of_a_file_and_slices_of_a_series_are_on_one_side(data):
    found = list_training_set(data)
    selected = select_here(found, OPTIONS)
    (split,) = selected.splits
    files = np.array([uri.partition("#")[0] for uri in found.table["uri"].to_pylist()])[selected.positions]
    assert not set(files[split.train]) & set(files[split.validation])
    assert selected.series == 6


def test_slices_of_one_series_in_files_of_their_own_are_on_one_side(tmp_path):
    slices = {
        f"{name}/{series}{number}.dcm": dicom(
            slice_pixels(seed=20 * k + 5 * series + number), SeriesInstanceUID=f"1.{k}.{series}"
        )
        for k, name in enumerate(CLASSES)
        for series in range(3)
        for number in range(2)
    }
    found = list_training_set(put(tmp_path, slices))
    selected = select_here(found, OPTIONS)
    names = np.array([uri.rpartition("/")[2][0] + uri.split("/")[-2] for uri in found.table["uri"].to_pylist()])
    (split,) = selected.splits
    assert not set(names[selected.positions][split.train]) & set(names[selected.positions][split.validation])


def test_one_series_a_class_is_refused_for_nothing_could_be_measured(tmp_path):
    data = put(
        tmp_path, {f"{name}/a.dcm": several(1 + k, 3 + k, SeriesInstanceUID=f"1.{k}") for k, name in enumerate(CLASSES)}
    )
    with pytest.raises(BadRequest, match=r"class glioma has 1 group\(s\) or series"):
        select_here(list_training_set(data), OPTIONS)


def test_a_row_of_a_group_file_holds_for_the_frames_of_its_file(data, tmp_path):
    table = tmp_path / "groups.csv"
    files = [f"{name}/{file}" for name in CLASSES for file in ("a.dcm", "IM1", "IM2")]
    table.write_text("path,group\n" + "".join(f"{name},patient {number}\n" for number, name in enumerate(files)))
    found = list_training_set(data, read_group_file(str(table)))
    groups = dict(zip(found.table["uri"].to_pylist(), found.table["group"].to_pylist(), strict=True))
    assert {groups[f"{data}/{name}#{number}"] for number in (1, 2) for name in files[1:2]} == {"patient 1"}
    assert None not in groups.values()


def test_audit_finds_the_copy_of_a_frame(data, tmp_path):
    put(tmp_path / "data", {"notumor/copy.dcm": dicom(slice_pixels(seed=2))})
    listed = list_images([data], [], group_regex=None)
    assert len(listed.table) == 13
    request = AuditRequest.of([data], against=[], output=str(tmp_path / "out"), group_regex=None)
    figures = audit(request, say=lambda _: None, start=audit_here)
    assert (figures["images"], figures["readable"], figures["pictures"]) == (13, 13, 12)
    assert figures["conflicts"]["pictures"] == 1, "glioma/a.dcm#2 is notumor/copy.dcm"


def test_a_header_that_promises_frames_that_are_not_there_leaves_rows_with_a_reason(tmp_path):
    whole = several(1, 2, 3)
    data = put(tmp_path, {"glioma/a.dcm": whole[:-3000], "glioma/b.dcm": several(4, 5), "notumor/c.dcm": several(6, 7)})
    rows = decode_rows(list_training_set(data).table, ImageSpec(image_px=32))
    assert sorted(rows["error"]) == ["", "", "", "", "", "", "truncated"]
