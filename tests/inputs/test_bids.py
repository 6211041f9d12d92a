"""BIDS trees: what was computed from the scans is not scored with them, and is counted."""

from collections import Counter

import pytest
from support.imaging.dicoms import dicom
from support.imaging.niftis import nifti

from brainray.inputs.archives.index import ArchiveIndexes
from brainray.inputs.bids import BidsTrees
from brainray.inputs.frames.below import images_below
from brainray.inputs.listing import Lister


@pytest.fixture
def tree(tmp_path):
    for name in (
        "sub-01/ses-1/anat/sub-01_ses-1_T1w",
        "derivatives/fmriprep/sub-01/sub-01_desc-preproc_T1w",
        "sourcedata/sub-01/scan",
        "sub-01/derivatives/kept",
    ):
        path = tmp_path / "ds" / f"{name}.nii.gz"
        path.parent.mkdir(parents=True)
        path.write_bytes(nifti())
    (tmp_path / "ds/dataset_description.json").write_text("{}")
    (tmp_path / "ds/derivatives/fmriprep/dataset_description.json").write_text("{}")
    return tmp_path / "ds"


def listed(root, scratch, **options) -> tuple[set[str], dict[str, int], set[str | None]]:
    with ArchiveIndexes(str(scratch / "indexes")) as indexes:
        lister = Lister([str(root)], indexes, classes=("glioma", "notumor"), group_by="bids", **options)
        rows = [row for table, _ in lister.tables() for row in table.to_pylist()]
    names = {row["uri"].removeprefix(f"{root}/").partition("#")[0] for row in rows}
    return names, dict(lister.skipped), {row["group"] for row in rows}


def test_derivatives_and_sourcedata_are_passed_over_by_reason(tree, tmp_path):
    names, skipped, groups = listed(tree, tmp_path)
    assert names == {"sub-01/ses-1/anat/sub-01_ses-1_T1w.nii.gz", "sub-01/derivatives/kept.nii.gz"}
    assert (skipped["derivatives of BIDS"], skipped["sourcedata of BIDS"]) == (1, 1)
    assert groups == {"sub-01/ses-1", "sub-01/"}


def test_derivatives_are_scored_where_they_are_asked_for(tree, tmp_path):
    assert len(listed(tree / "derivatives/fmriprep", tmp_path)[0]) == 1
    assert len(listed(tree, tmp_path, include=["*"])[0]) == 4


def test_a_folder_of_that_name_in_no_tree_is_a_folder(tree, tmp_path):
    (tree / "dataset_description.json").unlink()
    assert len(listed(tree, tmp_path)[0]) == 4
    assert BidsTrees().skip_reason(("derivatives",)) is None


def test_what_scans_were_made_from_is_passed_over_without_a_suffix_too(tree, tmp_path):
    for number in range(3):
        (tree / f"sourcedata/sub-01/IM{number}").write_bytes(dicom())
    (tree / "sourcedata/sub-01/.hidden.png").write_bytes(b"")
    for options in ({}, {"any_suffix": True}):
        names, skipped, _ = listed(tree, tmp_path, **options)
        assert not any(name.startswith("sourcedata") for name in names)
        assert (skipped["sourcedata of BIDS"], skipped["hidden"]) == (4, 1)


def test_training_takes_no_derivatives_into_its_classes(tree, tmp_path):
    (tree / "sourcedata/IM0001").write_bytes(dicom())
    tree.rename(tmp_path / "glioma")
    skipped: Counter[str] = Counter()
    found = {each.file.folders[1] for each in images_below("--data", str(tmp_path), skipped, [])}
    assert found == {"sub-01"}
    assert skipped == {"derivatives of BIDS": 1, "sourcedata of BIDS": 2, "suffix .json": 2}
