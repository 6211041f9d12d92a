"""Which paths of a command other nodes must see as its own machine does."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from brainray.errors import BadRequest
from brainray.storage import Writer
from brainray.storage.shared_paths import NamedPath, SharedPaths, shared_paths_of


@pytest.fixture
def images(tmp_path: Path) -> list[NamedPath]:
    """Three images as they were listed."""
    found = []
    for name in "abc":
        path = tmp_path / f"{name}.jpg"
        path.write_bytes(b"x")
        os.utime(path, ns=(1, 1))
        found.append(NamedPath("--input", str(path), "1"))
    return found


def record(named: list[NamedPath], samples: list[NamedPath]) -> SharedPaths:
    return shared_paths_of(named, samples=samples, output="s3://out/run", writer=Writer())


def test_a_file_that_was_touched_or_deleted_does_not_make_a_path_unshared(images):
    shared_paths = record([], images)
    os.utime(images[0].uri, ns=(2, 2))
    os.unlink(images[1].uri)
    assert shared_paths.unseen() is None


def test_a_path_is_unshared_where_every_sampled_file_is_another_one_or_missing(images):
    shared_paths = record([], images)
    os.utime(images[0].uri, ns=(2, 2))
    os.unlink(images[1].uri)
    os.unlink(images[2].uri)
    assert str(shared_paths.unseen()) == f"--input {images[0].uri}"
    with pytest.raises(BadRequest, match="is not the same on node"):
        shared_paths.check()


def test_a_folder_must_be_there_whatever_the_samples_say(images, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    shared_paths = record([NamedPath("--input", str(folder))], images)
    folder.rmdir()
    assert str(shared_paths.unseen()) == f"--input {folder}"


def test_a_path_that_may_name_a_patient_is_not_in_the_message(tmp_path):
    (folder := tmp_path / "jane").mkdir()
    shared_paths = record([NamedPath("--input", str(folder), shown=False)], [])
    folder.rmdir()
    assert str(shared_paths.unseen()) == "--input (one of them)"


def test_what_this_machine_does_not_find_as_listed_is_not_asked_for(images, tmp_path):
    """A dangling link, as git-annex leaves them, a file touched and one deleted since the listing."""
    dangling = tmp_path / "dangling.jpg"
    dangling.symlink_to(tmp_path / "none")
    os.utime(images[0].uri, ns=(2, 2))
    os.unlink(images[1].uri)
    shared_paths = record([], [NamedPath("--input", str(dangling), "1"), *images[:2]])
    assert shared_paths.samples == ()
    assert shared_paths.unseen() is None


def test_only_so_many_samples_are_recorded_and_none_in_buckets(images):
    remote = [NamedPath("--input", f"s3://in/{i}.jpg", "1") for i in range(9)]
    assert record([], [*remote, *images * 9]).samples == tuple(images * 9)[:16]


def test_samples_beside_named_paths_keep_their_option(images):
    shared_paths = replace(record([], images), samples=(NamedPath("--data", "/none"),))
    assert str(shared_paths.unseen()) == "--data /none"
