import os

import pyarrow as pa
import pytest

from brainray import storage
from brainray.errors import BadRequest, StorageError


def test_a_location_has_one_spelling(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert storage.normalise("a/../b/") == f"{tmp_path}/b"
    assert storage.normalise(f"file://{tmp_path}/with%20space") == f"{tmp_path}/with space"
    assert storage.normalise("~") == os.path.expanduser("~")


@pytest.mark.parametrize("uri", ["", "gopher://x/y", "file://host/path"])
def test_a_location_that_is_not_served_is_refused(uri):
    with pytest.raises(BadRequest):
        storage.normalise(uri)


def test_files_are_listed_sorted_with_their_folders(tmp_path):
    for name in ("b/2.jpg", "a/1.jpg", "a/deep/3.jpg", "0.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    found = list(storage.list_files(str(tmp_path)))
    assert [(f.folders, storage.name_of(f.uri)) for f in found] == [
        ((), "0.jpg"),
        (("a",), "1.jpg"),
        (("a", "deep"), "3.jpg"),
        (("b",), "2.jpg"),
    ]
    assert {f.size_bytes for f in found} == {1}


@pytest.mark.parametrize(
    "name", ["with space.jpg", "quo\"te's.jpg", "new\nline.jpg", "脳.jpg", "percent%20.jpg", "#?.jpg"]
)
def test_any_name_leads_back_to_its_file(tmp_path, name):
    (tmp_path / name).write_bytes(name.encode())
    (found,) = storage.list_files(str(tmp_path))
    assert found.uri == f"{tmp_path}/{name}"
    assert storage.read_bytes(found.uri) == name.encode()


def test_a_name_that_is_no_utf8_leads_back_to_its_file(tmp_path):
    path = os.path.join(os.fsencode(tmp_path), b"\xff\xfe.jpg")
    with open(path, "wb") as file:
        file.write(b"pixels")
    (found,) = storage.list_files(str(tmp_path))
    assert pa.array([found.uri]).to_pylist() == [found.uri]
    assert storage.read_bytes(found.uri) == b"pixels"
    assert storage.exists(found.uri)
    assert storage.name_of(found.uri) == r"\xff\xfe.jpg"


def test_a_folder_linked_into_itself_is_walked_once(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.jpg").write_bytes(b"x")
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    assert [storage.name_of(f.uri) for f in storage.list_files(str(tmp_path))] == ["1.jpg"]


def test_a_dangling_link_is_listed_and_not_found(tmp_path):
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nowhere")
    (found,) = storage.list_files(str(tmp_path))
    with pytest.raises(StorageError) as missing:
        storage.read_bytes(found.uri)
    assert missing.value.reason == "not_found"


def test_errors_of_the_system_carry_a_reason(tmp_path):
    with pytest.raises(StorageError) as missing:
        storage.read_bytes(f"{tmp_path}/none.jpg")
    assert missing.value.reason == "not_found"
    with pytest.raises(StorageError) as folder:
        storage.read_bytes(str(tmp_path))
    assert folder.value.reason == "read_failed"
    assert str(tmp_path) in str(folder.value)


def test_a_write_that_fails_leaves_the_old_content_and_no_rest(tmp_path, monkeypatch):
    uri = f"{tmp_path}/file"
    storage.write_bytes(uri, b"old")

    def no_space(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(StorageError, match="No space left"):
        storage.write_bytes(uri, b"new")
    assert storage.read_bytes(uri) == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_damaged_parquet_file_is_named(tmp_path):
    uri = f"{tmp_path}/part.parquet"
    storage.write_parquet(uri, pa.table({"a": [1]}))
    storage.write_bytes(uri, storage.read_bytes(uri)[:-8])
    with pytest.raises(StorageError, match=r"part\.parquet: no readable Parquet") as damaged, storage.open_parquet(uri):
        pass
    assert damaged.value.reason == "read_failed"


def test_json_that_is_none_is_named(tmp_path):
    uri = f"{tmp_path}/run.json"
    storage.write_bytes(uri, b"[1]")
    with pytest.raises(StorageError, match="no JSON object"):
        storage.read_json(uri)
