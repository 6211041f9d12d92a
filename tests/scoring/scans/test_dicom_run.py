"""A folder of DICOM is scored: a row for each picture, what the model does not know is left out and counted."""

import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydicom.uid import RLELossless
from support.imaging.dicoms import dicom, slice_pixels
from support.scoring.runs import as_of_an_earlier_version, brightness, engine_of, request_for, rows, score_here

from brainray.commands.score import check_max_failed, plan_only
from brainray.config import MaxFailed
from brainray.errors import TooManyFailed
from brainray.inputs.frames import library

WINDOW = {"WindowCenter": 1000, "WindowWidth": 2000}


def localizer(**attributes) -> bytes:
    return dicom(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"], **attributes)


@pytest.fixture
def folder(tmp_path):
    """Six pictures, three of them frames of a file, and three objects that are none the model knows."""
    root = tmp_path / "in"
    root.mkdir()
    (root / "a.dcm").write_bytes(dicom(**WINDOW, Manufacturer="SIEMENS", MagneticFieldStrength=3))
    (root / "b.ima").write_bytes(dicom(slice_pixels(seed=2), RLELossless, **WINDOW))
    (root / "c.dcm").write_bytes(dicom(np.stack([slice_pixels(seed=k) for k in (3, 4, 5)]), **WINDOW))
    (root / "cut.dcm").write_bytes(dicom()[:-50])
    (root / "scout.dcm").write_bytes(localizer())
    (root / "ct.dcm").write_bytes(dicom(Modality="CT"))
    (root / "report.dcm").write_bytes(dicom(SOPClassUID="1.2.840.10008.5.1.4.1.1.88.33", PixelData=None, Rows=None))
    (root / "DICOMDIR").write_bytes(dicom())
    return root


def scored(root, output, bundle, **options) -> tuple[dict[str, dict], dict]:
    request = request_for(root, output, bundle, **{"max_failed": MaxFailed(share=1.0)} | options)
    outcome = score_here(request, engine_of(bundle, predict=brightness))
    found = {row["uri"].removeprefix(f"{root}/"): row for row in rows(output)}
    return found, outcome.summary.figures


def test_every_picture_has_a_row_and_every_other_object_a_reason(folder, tmp_path, bundle):
    found, figures = scored(folder, tmp_path / "run", bundle)
    said = {name: (row["status"], row["error"]) for name, row in found.items()}
    assert said == {
        "a.dcm": ("ok", None),
        "b.ima": ("ok", None),
        "c.dcm#1": ("ok", None),
        "c.dcm#2": ("ok", None),
        "c.dcm#3": ("ok", None),
        "cut.dcm": ("error", "truncated"),
        "scout.dcm": ("excluded", "localizer"),
        "ct.dcm": ("excluded", "not_mr"),
        "report.dcm": ("excluded", "no_pixels"),
    }
    totals = figures["totals"]
    assert (totals["images"], totals["ok"], totals["failed"], totals["excluded"]) == (9, 5, 1, 3)
    assert figures["excluded"] == {"not_mr": 1, "no_pixels": 1, "localizer": 1}
    assert figures["failures"] == {"truncated": 1}
    assert figures["skipped"] == {"DICOMDIR": 1}
    assert (found["a.dcm"]["scan_vendor"], found["a.dcm"]["scan_field_t"], found["a.dcm"]["scan_plane"]) == (
        "Siemens",
        3.0,
        "axial",
    )
    assert found["scout.dcm"]["scan_likely"] == "localizer"
    assert found["a.dcm"]["format"] == "DICOM"


def test_frames_are_the_pictures_of_their_numbers(folder, tmp_path, bundle):
    found, _ = scored(folder, tmp_path / "run", bundle)
    (tmp_path / "alone").mkdir()
    for number, seed in ((1, 3), (2, 4), (3, 5)):
        (tmp_path / "alone" / f"{number}.dcm").write_bytes(dicom(slice_pixels(seed=seed), **WINDOW))
    alone, _ = scored(tmp_path / "alone", tmp_path / "run of slices", bundle)
    for number in (1, 2, 3):
        assert alone[f"{number}.dcm"]["confidence"] == found[f"c.dcm#{number}"]["confidence"]


def test_all_series_scores_what_was_left_out_and_nothing_else(folder, tmp_path, bundle):
    before, _ = scored(folder, tmp_path / "run", bundle)
    after, figures = scored(folder, tmp_path / "run", bundle, all_series=True)
    assert after["scout.dcm"]["status"] == "ok"
    assert after["ct.dcm"]["status"] == "ok"
    assert after["report.dcm"]["error"] == "no_pixels"
    assert after["a.dcm"]["scored_at"] == before["a.dcm"]["scored_at"]
    assert figures["excluded"] == {"no_pixels": 1}
    request = request_for(folder, tmp_path / "run", bundle, all_series=True)
    assert plan_only(request).pending == {}, "a repetition would write parts anew"


def test_what_is_left_out_does_not_count_as_failed(folder, tmp_path, bundle):
    (folder / "cut.dcm").unlink()
    request = request_for(folder, tmp_path / "run", bundle)
    outcome = score_here(request, engine_of(bundle, predict=brightness))
    check_max_failed(outcome, MaxFailed(count=0))
    assert outcome.failed == 0


def test_the_share_of_max_failed_is_of_images_that_were_to_be_scored(folder, tmp_path, bundle):
    outcome = score_here(request_for(folder, tmp_path / "run", bundle), engine_of(bundle, predict=brightness))
    check_max_failed(outcome, MaxFailed(share=1 / 6))
    with pytest.raises(TooManyFailed, match="1 of 6 images failed"):
        check_max_failed(outcome, MaxFailed(share=1 / 7))


def test_files_without_suffix_and_preamble_are_found(tmp_path, bundle):
    root = tmp_path / "pacs"
    root.mkdir()
    (root / "1.2.840.1").write_bytes(dicom(**WINDOW))
    (root / "IM0001").write_bytes(dicom(preamble=False, **WINDOW))
    (root / "README").write_text("plain text")
    found, _ = scored(root, tmp_path / "run", bundle)
    assert {name: row["status"] for name, row in found.items()} == {"1.2.840.1": "ok", "IM0001": "ok"}
    assert found["1.2.840.1"]["confidence"] == found["IM0001"]["confidence"]


def test_a_list_names_frames(folder, tmp_path, bundle):
    (folder / "list.csv").write_text("uri\nc.dcm#2\nc.dcm\nc.dcm#9\n")
    found, _ = scored(folder / "list.csv", tmp_path / "run", bundle)
    said = {name.rpartition("/")[2]: row["error"] for name, row in found.items()}
    assert said == {"c.dcm#2": None, "c.dcm": "unsupported", "c.dcm#9": "truncated"}


def test_a_list_of_rows_of_a_run_names_frames_of_files_without_suffix(tmp_path, bundle):
    root = tmp_path / "pacs"
    root.mkdir()
    (root / "IM0001").write_bytes(dicom(np.stack([slice_pixels(seed=k) for k in (3, 4, 5)]), **WINDOW))
    (root / "notes").write_text("plain text")
    found, _ = scored(root, tmp_path / "run", bundle)
    assert sorted(found) == ["IM0001#1", "IM0001#2", "IM0001#3"]
    (root / "list.csv").write_text("uri\nIM0001#2\nnotes#2\nIM0001#x\n")
    again, _ = scored(root / "list.csv", tmp_path / "again", bundle)
    by_name = {name.rpartition("/")[2]: row for name, row in again.items()}
    assert by_name["IM0001#2"]["confidence"] == found["IM0001#2"]["confidence"]
    assert [by_name[name]["error"] for name in ("notes#2", "IM0001#x")] == ["not_found", "not_found"]


def test_once_the_extra_is_installed_retry_unread_scores_the_rest(tmp_path, bundle, monkeypatch):
    root = tmp_path / "in"
    root.mkdir()
    (root / "a.dcm").write_bytes(dicom(**WINDOW))
    with monkeypatch.context() as without:
        library._imported.cache_clear()
        without.setitem(sys.modules, "pydicom", None)
        found, _ = scored(root, tmp_path / "run", bundle)
    assert found["a.dcm"]["error"] == "unsupported"
    assert "pip install 'brainray[dicom]'" in found["a.dcm"]["error_detail"]
    library._imported.cache_clear()
    found, _ = scored(root, tmp_path / "run", bundle, retry_unread=True)
    assert found["a.dcm"]["status"] == "ok"


def test_retry_unread_scores_dicom_rows_of_versions_that_read_none(tmp_path, bundle, monkeypatch):
    root, output = tmp_path / "in", tmp_path / "run"
    root.mkdir()
    (root / "a.dcm").write_bytes(dicom(**WINDOW))
    with monkeypatch.context() as without:
        library._imported.cache_clear()
        without.setitem(sys.modules, "pydicom", None)
        scored(root, output, bundle)
    library._imported.cache_clear()
    (part,) = (output / "predictions").iterdir()
    table = pq.read_table(part)
    for name, value in (
        ("error", "unsupported"),
        ("error_detail", "it is a DICOM file; export its slices as PNG first"),
    ):
        table = table.set_column(table.column_names.index(name), table.schema.field(name), pa.array([value]))
    info = table.schema.metadata[b"brainray"].replace(b'"unread": 1', b'"unread": 0')
    pq.write_table(table.replace_schema_metadata({b"brainray": info}), part)
    found, _ = scored(root, output, bundle, retry_unread=True)
    assert found["a.dcm"]["status"] == "ok"


def test_a_run_of_an_earlier_version_keeps_its_columns(folder, tmp_path, bundle):
    output = tmp_path / "run"
    scored(folder, output, bundle)
    as_of_an_earlier_version(output)
    (folder / "d.dcm").write_bytes(dicom(slice_pixels(seed=9), **WINDOW))
    found, _ = scored(folder, output, bundle)
    assert found["d.dcm"]["status"] == "ok"
    assert not any(name.startswith("scan_") for row in found.values() for name in row)
