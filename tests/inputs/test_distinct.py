"""Which of several inputs are listed: none of their images twice, and none left out."""

import pyarrow as pa
import pytest

from brainray.errors import BadRequest
from brainray.inputs.archives.index import ArchiveIndexes
from brainray.inputs.distinct import distinct_inputs
from brainray.inputs.listing import Lister, scan


@pytest.fixture
def listed(tmp_path):
    def run(*inputs):
        with ArchiveIndexes(str(tmp_path / "indexes")) as indexes:
            lister = Lister(distinct_inputs(map(str, inputs)), indexes, classes=("glioma", "notumor"))
            found = scan(lister, str(tmp_path / "listing.parquet"))
        rows = pa.concat_tables(found.batches()).to_pylist()
        return [(row["uri"].removeprefix(f"{tmp_path}/"), row["label"]) for row in rows], found.notes

    return run


@pytest.fixture
def folder(tmp_path):
    for name in ("in/1.jpg", "in/sub/2.jpg", "in/.cache/3.jpg", "in/.cache/deep/4.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    return tmp_path / "in"


def test_the_same_folder_under_another_name_is_listed_once(folder, tmp_path, listed):
    (tmp_path / "link").symlink_to("in")
    (tmp_path / "linked.jpg").symlink_to("in/1.jpg")
    both = [("in/1.jpg", None), ("in/sub/2.jpg", None)]
    assert listed(folder, tmp_path / "link" / "sub", tmp_path / "linked.jpg", tmp_path / "link")[0] == both
    assert [uri for uri, _ in listed(tmp_path / "link", folder)[0]] == ["link/1.jpg", "link/sub/2.jpg"]


def test_what_a_folder_hides_is_scored_where_it_is_given_by_name(folder, listed):
    rows, _ = listed(folder, folder / ".cache", folder / ".cache" / "deep", folder / ".cache" / "3.jpg")
    assert [uri for uri, _ in rows] == ["in/1.jpg", "in/sub/2.jpg", "in/.cache/3.jpg", "in/.cache/deep/4.jpg"]


def test_derivatives_given_beside_their_tree_are_scored_once(tmp_path, listed):
    names = ("sub-01/1.jpg", "derivatives/fmriprep/sub-01/2.jpg")
    for name in names:
        (tmp_path / "ds" / name).parent.mkdir(parents=True)
        (tmp_path / "ds" / name).write_bytes(b"x")
    (tmp_path / "ds/dataset_description.json").write_text("{}")
    derived = tmp_path / "ds/derivatives"
    for inner in (derived, derived / "fmriprep", derived / "fmriprep/sub-01/2.jpg"):
        rows, _ = listed(tmp_path / "ds", inner)
        assert [uri for uri, _ in rows] == [f"ds/{name}" for name in names]
    assert len(listed(tmp_path / "ds", derived, derived / "fmriprep")[0]) == 2
    both = map(str, (tmp_path / "ds", derived))
    assert distinct_inputs(both, all_wanted=True) == [str(tmp_path / "ds")]  # `--include` passes over nothing


def test_images_in_the_output_are_refused_and_a_list_there_is_read(folder, tmp_path):
    """Passed over as files of the run, they would have no rows, without a word."""
    (tmp_path / "link").symlink_to("in")
    (folder / "list.csv").write_text("path,label\n../5.jpg,glioma\n")
    for inner in (folder, folder / "sub", folder / "1.jpg", tmp_path / "link/sub"):
        with pytest.raises(BadRequest, match=rf"--input {inner} lies in --output"):
            distinct_inputs([str(inner)], output=str(folder))
    assert distinct_inputs([str(folder / "list.csv")], output=str(folder)) == [str(folder / "list.csv")]
    assert distinct_inputs([str(folder)], output=str(folder / "run")) == [str(folder)]


def test_a_list_within_a_folder_that_is_an_input_too_is_read(folder, tmp_path, listed):
    """Passed over as a file of that folder, its labels would be lost without a word."""
    (tmp_path / "5.jpg").write_bytes(b"x")
    (folder / "list.csv").write_text("path,label\n../5.jpg,glioma\n")
    assert listed(folder, folder / "list.csv")[0][-1] == ("5.jpg", "glioma")


def test_a_partition_by_label_that_is_no_class_is_told(tmp_path, listed):
    for name in ("label=glioma", "label=LGG", "label=__HIVE_DEFAULT_PARTITION__", "site=LGG"):
        (tmp_path / "in" / name).mkdir(parents=True)
        (tmp_path / "in" / name / "1.jpg").write_bytes(b"x")
    rows, (note,) = listed(tmp_path / "in")
    assert [label for _, label in rows] == [None, None, "glioma", None]
    assert note.startswith("the folder label=LGG labels no image, for 'LGG' is no class of the model, which knows")
