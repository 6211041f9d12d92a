"""BIDS trees: what was computed from the scans is not scored with them, and is counted."""

import tarfile
import zipfile
from collections import Counter
from pathlib import Path

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


def packed(tree: Path, name: str) -> Path:
    """The tree as an archive, with its description as the last member."""
    files = sorted(path for path in tree.rglob("*") if path.is_file())[::-1]
    archive = tree.parent / name
    if name.endswith(".zip"):
        with zipfile.ZipFile(archive, "w") as made:
            for path in files:
                made.write(path, path.relative_to(tree.parent))
    else:
        with tarfile.open(archive, "w:gz") as made:
            for path in files:
                made.add(path, path.relative_to(tree.parent))
    return archive


@pytest.mark.parametrize("name", ["ds.zip", "ds.tgz"])
def test_a_tree_in_an_archive_has_the_rows_and_counts_that_it_has_in_a_folder(tree, tmp_path, name):
    (tree / "sourcedata/IM0001").write_bytes(dicom())
    archive = packed(tree, name)
    (tmp_path / "above").mkdir()
    tree.rename(tmp_path / "above/ds")
    names, skipped, groups = listed(tmp_path / "above", tmp_path / "a")
    _, counted, in_groups = listed(archive, tmp_path / "b")
    assert {each.partition("#")[0] for each in in_archive(archive, tmp_path / "c")} == names
    assert (counted, in_groups) == (skipped, groups)
    assert counted["sourcedata of BIDS"] == 2
    assert len(in_archive(archive, tmp_path / "d", include=["*"])) > len(in_archive(archive, tmp_path / "e"))


def in_archive(archive: Path, scratch: Path, **options) -> list[str]:
    """The names of its members, of slices with their places."""
    with ArchiveIndexes(str(scratch / "indexes")) as indexes:
        lister = Lister([str(archive)], indexes, classes=("glioma", "notumor"), **options)
        rows = [row for table, _ in lister.tables() for row in table.to_pylist()]
    return [row["uri"].removeprefix(f"{archive}#") for row in rows]


def test_side_files_in_an_archive_are_counted_in_a_note(tree, tmp_path):
    sidecar = tree / "sub-01/ses-1/anat/sub-01_ses-1_T1w.json"
    for content, said in ((None, 0), ("{}", 1)):
        if content:
            sidecar.write_text(content)
        with ArchiveIndexes(str(tmp_path / f"indexes {said}")) as indexes:
            lister = Lister([str(packed(tree, "ds.zip"))], indexes, classes=("glioma", "notumor"))
            assert sum(1 for _ in lister.tables())
        notes = [note for note in lister.notes if "JSON files beside" in note]
        assert len(notes) == said
        assert not said or "not read there: 1;" in notes[0]


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
