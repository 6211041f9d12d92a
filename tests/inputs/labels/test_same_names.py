"""One image has one name, however a list, a label file or the command line writes it."""

import pytest
from support.each import each
from support.inputs.labelling import labels_of

from brainray import storage
from brainray.errors import BadRequest
from brainray.inputs.labels.answer_file import read_label_file


def test_two_slashes_at_the_start_of_a_path_are_one():
    for path in ("//a/b.jpg", "///a/b.jpg", "file:////a/b.jpg"):
        assert storage.normalise(path) == "/a/b.jpg"
        assert storage.normalise_listed(path) == "/a/b.jpg"
    assert storage.resolve_listed("/l", "//a/b.jpg") == "/a/b.jpg"


def test_a_stream_is_refused_by_name():
    with pytest.raises(BadRequest, match=r"^-: a stream cannot be read again.* write it to a file and give that"):
        storage.normalise("-")
    assert storage.normalise("./-").endswith("/-")


@each("spelled", ["file://{}/1.jpg", "file://localhost{}/1.jpg", "FILE://{}/1.jpg", "file:{}/1.jpg"])
def test_a_label_file_may_name_files_by_uri(tmp_path, spelled):
    (tmp_path / "labels.csv").write_text(f"uri,label\n{spelled.format(tmp_path / 'in')},glioma\n")
    found = labels_of(tmp_path / "in", ["1.jpg", "2.jpg"], tmp_path / "labels.csv")
    assert found == {"1.jpg": "glioma", "2.jpg": None}
    (tmp_path / "labels.csv").write_text(
        f"uri,label\n{spelled.format(tmp_path / 'in').replace('1.', '%31%20.')},glioma\n"
    )
    assert labels_of(tmp_path / "in", ["1 .jpg"], tmp_path / "labels.csv")["1 .jpg"] == "glioma"


def test_keys_of_an_inventory_label_the_objects_that_they_encode(tmp_path):
    (tmp_path / "labels.csv").write_text("Bucket,Key,Label\nscans,a%2Fb+c.jpg,glioma\n")
    label_file = read_label_file(str(tmp_path / "labels.csv"), ("glioma",))
    assert label_file.rows == 1
    (tmp_path / "labels.csv").write_text("Bucket,Key,Label\nscans,a b.jpg,glioma\n")
    with pytest.raises(BadRequest, match=r"'a b\.jpg' is not URL-encoded"):
        read_label_file(str(tmp_path / "labels.csv"), ("glioma",))
