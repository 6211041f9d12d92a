"""Folders that cannot be made, because a file is in the way."""

import pytest
from support.each import each

from brainray import storage
from brainray.errors import BadRequest
from brainray.imaging.phantom import write_archive
from brainray.storage.s3.backend import S3Objects


@each(("below", "said"), [("", "is a file"), ("/x/y", "lies below {file}, which is a file")])
def test_a_file_at_or_above_an_output_is_named(tmp_path, below, said):
    file = tmp_path / "1.jpg"
    file.write_bytes(b"x")
    with pytest.raises(BadRequest) as refused:
        storage.check_is_folder("--output", f"{file}{below}", give="a new folder")
    assert str(refused.value) == f"--output {file}{below} {said.format(file=file)}; give a new folder"
    with pytest.raises(BadRequest, match=r"--output .*is a file; give"):
        write_archive(f"{file}{below}", images=1, seed=0)


def test_folders_that_exist_or_can_be_made_are_taken(tmp_path):
    for uri in (tmp_path, tmp_path / "new" / "er"):
        storage.check_is_folder("--output", str(uri), give="a new folder")


class Keys(S3Objects):
    """A bucket with an object of the key a.zip, and one below run/."""

    def exists(self, uri):
        return uri in ("s3://b/a.zip", "s3://b/run")

    def is_folder(self, uri):
        return uri == "s3://b/run"


def test_an_object_is_in_the_way_of_a_folder_of_its_key():
    files = Keys()
    assert files.file_in_the_way("s3://b/a.zip") == "s3://b/a.zip"
    assert files.file_in_the_way("s3://b/run") is None
    assert files.file_in_the_way("s3://b/new") is None
