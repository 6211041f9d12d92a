"""The end of a shard: whether its inputs are still there decides between rows and an outage."""

import os
import shutil
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.each import each
from support.inputs.reading import all_fail, names, read_all, read_until_outage, reader, whole

from brainray import storage
from brainray.errors import Outage, StorageError


def vanish(root):
    shutil.rmtree(root)


def unmount(root):
    vanish(root)
    root.mkdir()


def cut_the_link(root):
    os.rename(root, f"{root}.away")
    root.symlink_to("nowhere")


@pytest.fixture
def small_archive(tmp_path):
    """A root with three images, and their URIs."""
    root = tmp_path / "in"
    (root / "glioma").mkdir(parents=True)
    files = [root / "glioma" / f"{i}.jpg" for i in range(3)]
    for file in files:
        file.write_bytes(b"pixels")
    (tmp_path / "other.jpg").write_bytes(b"pixels")
    return root, [str(file) for file in files]


def test_a_loss_near_the_end_of_a_shard_makes_no_error_rows(tmp_path, small_archive):
    """Too few reads are left to fill the window: what could be read before tells that the storage is gone."""
    root, uris = small_archive
    reading = reader(roots=[str(root)])
    with ThreadPoolExecutor(1) as pool:
        contents = reading.read_ahead(whole(uris), pool, ahead=0)
        assert isinstance(next(contents).images[0], bytes)
        (root / "glioma").rename(tmp_path / "away")
        assert next(contents).images[0].reason == "not_found"
        with pytest.raises(Outage, match=r"what could be read before can not be read now \(.*0\.jpg"):
            next(contents)


@pytest.mark.parametrize("lose", [vanish, unmount, cut_the_link])
def test_a_small_archive_whose_root_is_lost_is_an_outage(tmp_path, small_archive, lose):
    root, uris = small_archive
    lose(root)
    message = (
        rf"the last image of a shard could not be read \({root}/.*\) and the input {root} is gone or empty; is the"
    )
    taken = read_until_outage(reader(roots=[str(tmp_path), str(root)]), uris, message)
    assert len(taken) < len(uris), "a shard whose contents were all handed out can be committed"


def test_a_root_that_cannot_be_listed_is_an_outage(tmp_path, monkeypatch):
    def refuse(root):
        raise StorageError("forbidden", f"{root}: Permission denied")

    monkeypatch.setattr(storage, "list_names", refuse)
    with pytest.raises(Outage, match=f"input {tmp_path}: Permission denied; is the input"):
        read_all(reader(roots=[str(tmp_path)]), [f"{tmp_path}/gone.jpg"])


@each(
    ("there", "fault", "message"),
    [
        (True, None, None),
        (False, None, "the input s3://bucket/in is gone or empty"),
        (True, "forbidden", "the input s3://bucket/in: denied"),
    ],
)
def test_a_bucket_is_looked_for_without_listing_it(monkeypatch, there, fault, message):
    def exists(root):
        if fault:
            raise StorageError(fault, f"{root}: denied")
        return there

    monkeypatch.setattr(storage, "exists", exists)
    monkeypatch.setattr(storage, "list_names", lambda root: pytest.fail("a million names"))
    uris = names(3, "s3://bucket/in/")
    reading = reader(all_fail(uris, "not_found"), roots=["s3://bucket/in"])
    if message is None:
        assert len(read_all(reading, uris)) == 3
    else:
        read_until_outage(reading, uris, message)


def test_deleted_files_of_a_small_archive_are_rows(small_archive):
    root, uris = small_archive
    for uri in uris:
        os.unlink(uri)
    contents = read_all(reader(roots=[str(root)]), uris)
    assert [content.images[0].reason for content in contents] == ["not_found"] * 3


def test_an_unreadable_input_that_is_one_file_is_a_row(tmp_path):
    file = tmp_path / "a.jpg"
    file.write_bytes(b"")
    (content,) = read_all(reader(all_fail([str(file)], "forbidden"), roots=[str(file)]), [str(file)])
    assert content.images[0].reason == "forbidden"


def test_a_shard_that_gave_an_image_is_kept_though_a_root_is_lost(tmp_path, small_archive):
    _, uris = small_archive
    for uri in uris[1:]:
        os.unlink(uri)
    assert len(read_all(reader(roots=[f"{tmp_path}/gone"]), uris)) == 3
