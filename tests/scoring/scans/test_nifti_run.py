"""A folder of NIfTI is scored: a row for each slice, what the model does not know is left out and counted."""

import json
import sys
from collections import Counter

import numpy as np
import pytest
from support.imaging.niftis import SHAPE, head, nifti
from support.scoring.runs import brightness, engine_of, request_for, rows, score_here

from brainray.config import MaxFailed
from brainray.inputs.frames import library

SLICES = SHAPE[2]
BLANK = 4  # two slices at each end of the drawn head


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "in"
    anat = root / "sub-01/ses-2/anat"
    anat.mkdir(parents=True)
    (anat / "sub-01_ses-2_T1w.nii.gz").write_bytes(nifti())
    (anat / "sub-01_ses-2_T1w.json").write_text(json.dumps({"Manufacturer": "Philips", "MagneticFieldStrength": 1.5}))
    (anat / "sub-01_ses-2_mask.nii.gz").write_bytes(nifti((head() > 0).astype(np.uint8)))
    (root / "bold.nii").write_bytes(nifti(np.stack([head(), head() // 2], axis=3), packed=False))
    (root / "cut.nii.gz").write_bytes(nifti()[:-4000])
    return root


def scored(root, output, bundle, **options) -> tuple[dict[str, dict], dict]:
    request = request_for(root, output, bundle, **{"max_failed": MaxFailed(share=1.0), "shard_size": 16} | options)
    outcome = score_here(request, engine_of(bundle, predict=brightness))
    found = {row["uri"].rpartition("/")[2]: row for row in rows(output)}
    return found, outcome.summary.figures


def test_every_slice_has_a_row_and_what_is_left_out_a_reason(folder, tmp_path, bundle):
    found, figures = scored(folder, tmp_path / "run", bundle, group_by="bids")
    said = Counter((name.partition("#")[0], row["status"], row["error"]) for name, row in found.items())
    assert said == {
        ("sub-01_ses-2_T1w.nii.gz", "ok", None): SLICES - BLANK,
        ("sub-01_ses-2_T1w.nii.gz", "excluded", "blank"): BLANK,
        ("sub-01_ses-2_mask.nii.gz", "excluded", "label_map"): SLICES - BLANK,
        ("sub-01_ses-2_mask.nii.gz", "excluded", "blank"): BLANK,
        ("bold.nii", "ok", None): SLICES - BLANK,
        ("bold.nii", "excluded", "blank"): BLANK,
        ("cut.nii.gz", "error", "truncated"): SLICES,
    }
    assert figures["excluded"] == {"blank": 3 * BLANK, "label_map": SLICES - BLANK}
    assert figures["skipped"] == {"suffix .json": 1, "volume of a 4-D file": 1}
    row = found["sub-01_ses-2_T1w.nii.gz#z=10"]
    assert {name: row[f"scan_{name}"] for name in ("modality", "plane", "sequence", "field_t", "vendor")} == {
        "modality": "MR",
        "plane": "axial",
        "sequence": "T1",
        "field_t": 1.5,
        "vendor": "Philips",
    }
    assert (row["format"], row["width"], row["height"], row["group"]) == ("NIfTI", 24, 30, "sub-01/ses-2")
    assert found["bold.nii#t=0,z=10"]["scan_likely"] == "functional"


def test_all_volumes_are_added_to_a_run_of_the_first(folder, tmp_path, bundle):
    before, _ = scored(folder, tmp_path / "run", bundle)
    after, figures = scored(folder, tmp_path / "run", bundle, volumes="all")
    assert set(after) - set(before) == {f"bold.nii#t=1,z={number}" for number in range(SLICES)}
    assert "volume of a 4-D file" not in figures["skipped"]
    assert after["bold.nii#t=0,z=10"]["scored_at"] == before["bold.nii#t=0,z=10"]["scored_at"]


def test_all_series_scores_masks_and_no_empty_slice(folder, tmp_path, bundle):
    found, figures = scored(folder, tmp_path / "run", bundle, all_series=True)
    assert found["sub-01_ses-2_mask.nii.gz#z=10"]["status"] == "ok"
    assert figures["excluded"] == {"blank": 3 * BLANK}


def test_a_list_names_volumes_and_slices(folder, tmp_path, bundle):
    (folder / "list.csv").write_text(
        "uri,label\nsub-01/ses-2/anat/sub-01_ses-2_T1w.nii.gz,glioma\n"
        '"bold.nii#t=1,z=10",\nbold.nii#x=12,\nbold.nii#z=99,\nbold.nii#z=7x,\n'
    )
    found, _ = scored(folder / "list.csv", tmp_path / "run", bundle)
    slices = [row for name, row in found.items() if name.startswith("sub-01")]
    assert (len(slices), {row["label"] for row in slices}) == (SLICES, {"glioma"})
    assert {name: (row["error"], row["scan_plane"]) for name, row in found.items() if name.startswith("bold")} == {
        "bold.nii#t=1,z=10": (None, "axial"),
        "bold.nii#t=0,x=12": (None, "sagittal"),
        "bold.nii#t=0,z=99": ("truncated", None),
        "bold.nii#z=7x": ("not_found", None),
    }


def test_once_the_extra_is_installed_retry_unread_scores_the_slices(tmp_path, bundle, monkeypatch):
    root = tmp_path / "in"
    root.mkdir()
    (root / "a.nii.gz").write_bytes(nifti())
    with monkeypatch.context() as without:
        library.nibabel_library.cache_clear()
        without.setitem(sys.modules, "nibabel", None)
        found, _ = scored(root, tmp_path / "run", bundle)
    library.nibabel_library.cache_clear()
    assert {row["error"] for row in found.values()} == {"unsupported"}
    assert "pip install 'brainray[nifti]'" in found["a.nii.gz#z=3"]["error_detail"]
    found, _ = scored(root, tmp_path / "run", bundle, retry_unread=True)
    assert Counter(row["status"] for row in found.values()) == {"ok": SLICES - BLANK, "excluded": BLANK}
