"""Listing the files below a folder of a disk: links, depth, and folders that cannot be read."""

import errno
import os
import random

import pytest
from support.each import each
from support.inputs.folders import forbid, touch

from brainray import storage
from brainray.errors import BrainrayError, StorageError, as_bad_request
from brainray.storage.base import FolderRules

__all__ = ["forbid"]  # a fixture


class Recorder(FolderRules):
    """Passes over folders by their name, and records what it is asked."""

    def __init__(self, *, excluded=(), hidden=()):
        self._excluded, self._hidden = set(excluded), set(hidden)
        self.not_followed, self.forbidden = [], []

    def excludes(self, folders):
        return bool(self._excluded & set(folders))

    def hides(self, folders):
        return bool(self._hidden & set(folders))

    def on_not_followed(self, folders):
        self.not_followed.append("/".join(folders))

    def on_forbidden(self, folders, error):
        self.forbidden.append("/".join(folders))


def walked(root, rules=None):
    found = storage.list_files(str(root), rules or FolderRules())
    return [info.uri.removeprefix(f"{root}/") for info in found]


def test_folders_linked_to_each_other_are_listed_once(tmp_path):
    names = "abcdefg"
    for name in names:
        touch(tmp_path / name / "1.jpg")
        for other in names:
            if other != name:
                (tmp_path / name / other).symlink_to(tmp_path / other)
    rules = Recorder()
    assert walked(tmp_path, rules) == [f"{name}/1.jpg" for name in names]
    assert len(rules.not_followed) == 42


def test_an_image_has_the_path_of_its_real_folder_also_where_a_link_sorts_first(tmp_path):
    touch(tmp_path / "in" / "glioma" / "1.jpg")
    (tmp_path / "in" / "alias").symlink_to(tmp_path / "in" / "glioma")
    assert walked(tmp_path / "in") == ["glioma/1.jpg"]


def test_of_links_to_one_folder_elsewhere_the_first_is_followed(tmp_path):
    touch(tmp_path / "elsewhere" / "deep" / "1.jpg")
    (tmp_path / "in").mkdir()
    for name in ("b", "a"):
        (tmp_path / "in" / name).symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in" / "c").symlink_to(tmp_path / "elsewhere" / "deep")
    rules = Recorder()
    assert walked(tmp_path / "in", rules) == ["a/deep/1.jpg"]
    assert rules.not_followed == ["b", "c"]


def test_a_cycle_outside_the_input_ends(tmp_path):
    touch(tmp_path / "elsewhere" / "1.jpg")
    (tmp_path / "elsewhere" / "again").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "in")
    touch(tmp_path / "in" / "z.jpg")
    (tmp_path / "in" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in" / "up").symlink_to(tmp_path)
    assert walked(tmp_path / "in") == ["link/1.jpg", "z.jpg"]


@each("passed_over", ["excluded", "hidden"])
def test_a_link_is_followed_where_its_target_is_passed_over(tmp_path, passed_over):
    """Versions of a data set often lie in a hidden folder, and a link names the current one."""
    touch(tmp_path / "store" / "v1" / "1.jpg")
    (tmp_path / "current").symlink_to(tmp_path / "store" / "v1")
    assert "current/1.jpg" in walked(tmp_path, Recorder(**{passed_over: ["store"]}))


def test_a_link_in_a_hidden_folder_takes_nothing_from_a_visible_one(tmp_path):
    touch(tmp_path / "elsewhere" / "1.jpg")
    for name in ("a-hidden", "b"):
        (tmp_path / "in" / name).mkdir(parents=True)
        (tmp_path / "in" / name / "link").symlink_to(tmp_path / "elsewhere")
    assert walked(tmp_path / "in", Recorder(hidden=["a-hidden"])) == ["b/link/1.jpg"]


def test_real_files_are_listed_once_and_always_in_the_same_order(tmp_path):
    """Links between random folders: every real file once, under a path that does not depend on the order of making."""
    folders = [f"{a}/{b}" for a in "abc" for b in "xyz"]
    for seed in range(20):
        draw = random.Random(seed)
        root = tmp_path / str(seed)
        for folder in folders:
            touch(root / folder / "1.jpg")
        for number in range(12):
            (root / draw.choice(folders) / f"l{number}").symlink_to(root / draw.choice(["a", "b", *folders]))
        assert walked(root) == [f"{folder}/1.jpg" for folder in folders]


def test_deeply_nested_folders_are_listed(tmp_path):
    depth = 1500
    folder = os.open(tmp_path, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("d", dir_fd=folder)
        below = os.open("d", os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = below
    os.close(os.open("1.jpg", os.O_CREAT | os.O_WRONLY, dir_fd=folder))
    os.close(folder)
    try:
        (found,) = storage.list_files(str(tmp_path))
        assert found.folders == ("d",) * depth
    finally:  # pytest removes by recursion
        os.rename(tmp_path / "d", tmp_path / "top")
        while os.path.isdir(tmp_path / "top" / "d"):
            os.rename(tmp_path / "top" / "d", tmp_path / "next")
            os.rmdir(tmp_path / "top")
            os.rename(tmp_path / "next", tmp_path / "top")


def test_a_folder_that_cannot_be_read_is_named(tmp_path, forbid):
    touch(tmp_path / "a" / "b" / "1.jpg")
    forbid(tmp_path / "a" / "b")
    with pytest.raises(StorageError, match=f"{tmp_path}/a/b: Permission denied") as error:
        walked(tmp_path)
    assert error.value.reason == "forbidden"


def test_rules_may_pass_over_a_folder_that_cannot_be_read(tmp_path, forbid):
    touch(tmp_path / "a" / "1.jpg")
    touch(tmp_path / "b" / "2.jpg")
    forbid(tmp_path / "a")
    rules = Recorder()
    assert walked(tmp_path, rules) == ["b/2.jpg"]
    assert rules.forbidden == ["a"]


def test_an_excluded_folder_is_not_entered(tmp_path, forbid):
    touch(tmp_path / "a" / "1.jpg")
    touch(tmp_path / "b" / "2.jpg")
    forbid(tmp_path / "a")
    rules = Recorder(excluded=["a"])
    assert walked(tmp_path, rules) == ["b/2.jpg"]
    assert rules.forbidden == []


def test_the_listed_folder_itself_must_be_readable(tmp_path, forbid):
    forbid(tmp_path)
    with pytest.raises(StorageError, match="Permission denied"):
        walked(tmp_path, Recorder())


def test_a_link_in_a_circle_is_listed_and_cannot_be_read(tmp_path):
    (tmp_path / "circle.jpg").symlink_to(tmp_path / "circle.jpg")
    (found,) = storage.list_files(str(tmp_path))
    with pytest.raises(StorageError):
        storage.read_bytes(found.uri)


def test_a_folder_that_goes_while_its_neighbours_are_listed_is_passed_over(tmp_path):
    touch(tmp_path / "a" / "1.jpg")
    (tmp_path / "b").mkdir()
    files = storage.list_files(str(tmp_path))
    first = next(files)
    (tmp_path / "b").rmdir()
    assert [first.folders, *files] == [("a",)]


@each(("number", "code"), [(errno.EIO, 1), (errno.ESTALE, 1), (errno.EACCES, 2), (errno.ENOENT, 2)])
def test_a_share_that_fails_while_it_is_listed_is_an_outage(tmp_path, monkeypatch, number, code):
    """Code 1, after which a scheduler tries the same command again; what the user must change has code 2."""

    def scandir(_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "scandir", scandir)
    words = f"^--input {tmp_path}: {os.strerror(number)}"
    with pytest.raises(BrainrayError, match=words) as told, as_bad_request("--input"):
        list(storage.list_files(str(tmp_path)))
    assert told.value.exit_code == code
