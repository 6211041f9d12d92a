import os
import threading

import pyarrow as pa
import pytest
from support.each import each

from brainray import storage
from brainray.errors import BadRequest, OutputHeld, StorageError


def test_a_location_has_one_spelling(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert storage.normalise("a/../b/") == f"{tmp_path}/b"
    assert storage.normalise(f"file://{tmp_path}/with%20space") == f"{tmp_path}/with space"
    assert storage.normalise(f"file:{tmp_path}/with%20space") == f"{tmp_path}/with space"  # as Spark writes it
    assert storage.normalise(f"FILE://{tmp_path}/a") == f"{tmp_path}/a"
    assert storage.normalise("~") == os.path.expanduser("~")


@each("uri", ["", "gopher://x/y", "file://host/path", "s3:/bucket/key", "arn:aws:s3:::bucket/key"])
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


@each("name", ["with space.jpg", "quo\"te's.jpg", "new\nline.jpg", "脳.jpg", "percent%20.jpg", "#?.jpg"])
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


@pytest.fixture
def owner(tmp_path):
    """A writer that stages in a claimed folder."""
    assert storage.claim(f"{tmp_path}/.lease/1", b"{}")
    return storage.Writer(staging=f"{tmp_path}/.lease/1")


def test_an_owner_makes_missing_folders_and_leaves_nothing_in_its_staging(tmp_path, owner):
    owner.write_bytes(f"{tmp_path}/a/b/c", b"new")
    owner.copy(f"{tmp_path}/a/b/c", f"{tmp_path}/d/e")
    owner.write_bytes(f"{tmp_path}/.lease/1/holder.json", b"[]")
    assert storage.read_bytes(f"{tmp_path}/a/b/c") == storage.read_bytes(f"{tmp_path}/d/e") == b"new"
    assert os.listdir(owner.staging) == ["holder.json"]


def test_a_folder_that_two_workers_make_at_once_keeps_what_is_in_it(tmp_path, owner, monkeypatch):
    mkdir = os.mkdir

    def slow_mkdir(path):
        mkdir(path)
        monkeypatch.setattr(os, "mkdir", mkdir)
        owner.write_bytes(f"{tmp_path}/new/other", b"of the other worker")

    monkeypatch.setattr(os, "mkdir", slow_mkdir)
    owner.write_bytes(f"{tmp_path}/new/own", b"own")
    assert sorted(os.listdir(f"{tmp_path}/new")) == ["other", "own"]
    assert os.listdir(owner.staging) == ["holder.json"]


def test_where_a_file_stands_in_a_folders_place_an_owner_says_so(tmp_path, owner):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="Not a directory"):
        owner.write_bytes(f"{tmp_path}/file/below", b"x")
    assert os.listdir(owner.staging) == ["holder.json"]


@pytest.mark.parametrize("name", ["file", "new/folder/file", ".lease/1/holder.json", ".lease/1/deeper/file"])
def test_a_former_owner_changes_nothing_and_does_not_bring_its_staging_back(tmp_path, owner, name):
    (tmp_path / "kept").write_bytes(b"kept")
    storage.revoke(owner.staging)
    with pytest.raises(OutputHeld):
        owner.write_bytes(f"{tmp_path}/{name}", b"late")
    with pytest.raises(OutputHeld):
        owner.copy(f"{tmp_path}/kept", f"{tmp_path}/{name}")
    for victim in ("kept", name):
        with pytest.raises(OutputHeld):
            owner.delete(f"{tmp_path}/{victim}")
    assert sorted(os.listdir(tmp_path)) == [".lease", "kept"]
    assert os.listdir(tmp_path / ".lease") == []


HELD = ".lease/1/holder.json"


@pytest.mark.parametrize(
    ("call", "name"),
    [("mkdir", "new/file"), ("fsync", "new/file"), ("replace", "new/file"), ("fsync", HELD), ("replace", HELD)],
)
def test_an_owner_revoked_in_the_middle_of_a_write_changes_nothing(tmp_path, owner, monkeypatch, call, name):
    original = getattr(os, call)

    def slow(*args):
        monkeypatch.setattr(os, call, original)
        storage.revoke(owner.staging)
        return original(*args)

    monkeypatch.setattr(os, call, slow)
    with pytest.raises(OutputHeld):
        owner.write_bytes(f"{tmp_path}/{name}", b"late")
    files = [name for _, _, names in os.walk(tmp_path) for name in names]
    assert files == [] and os.listdir(tmp_path / ".lease") == []


def test_a_revocation_removes_what_a_call_under_way_still_adds(tmp_path, owner, monkeypatch):
    rmdir = os.rmdir

    def late_file(path, **options):
        monkeypatch.setattr(os, "rmdir", rmdir)
        with open(os.path.join(path, "late"), "wb"):
            pass
        rmdir(path, **options)

    monkeypatch.setattr(os, "rmdir", late_file)
    storage.revoke(owner.staging)
    assert os.rmdir is rmdir and os.listdir(tmp_path / ".lease") == []


def test_once_a_revocation_returns_busy_workers_change_nothing_more(tmp_path):
    """Threads are inside the calls that create and rename at that moment."""
    for round_ in range(20):
        root = tmp_path / str(round_)
        storage.claim(f"{root}/.lease/1", b"{}")
        owner = storage.Writer(staging=f"{root}/.lease/1")
        workers = [threading.Thread(target=write_until_refused, args=(owner, f"{root}/{k}")) for k in range(4)]
        for worker in workers:
            worker.start()
        while len(os.listdir(root)) < 5:
            pass
        storage.revoke(owner.staging)
        before = [(path, os.stat(path).st_mtime_ns) for path, *_ in os.walk(root)]
        for worker in workers:
            worker.join()
        assert [(path, os.stat(path).st_mtime_ns) for path, *_ in os.walk(root)] == before
        assert os.listdir(root / ".lease") == []


def write_until_refused(owner, folder):
    try:
        for k in range(10**6):
            owner.write_bytes(f"{folder}/{k % 3}/file", b"x")
    except OutputHeld:
        pass


def test_a_renewed_claim_stays_and_a_revoked_one_is_not_brought_back(tmp_path, owner):
    storage.renew(owner.staging, b"[1]")
    assert storage.read_bytes(storage.claim_file(owner.staging)) == b"[1]"
    assert len(os.listdir(owner.staging)) == 1
    storage.revoke(owner.staging)
    with pytest.raises(OutputHeld):
        storage.renew(owner.staging, b"[2]")
    assert os.listdir(tmp_path / ".lease") == []


def test_of_many_claims_one_succeeds_and_the_others_leave_nothing(tmp_path):
    claims = [storage.claim(f"{tmp_path}/.lease/1", b"%d" % k) for k in range(3)]
    assert claims == [True, False, False]
    assert os.listdir(tmp_path / ".lease") == ["1"]
    assert storage.read_bytes(f"{tmp_path}/.lease/1/holder.json") == b"0"


def test_a_folder_that_cannot_be_written_to_is_told_beforehand(tmp_path, monkeypatch):
    storage.check_access(f"{tmp_path}/new/deeper", write=True)
    assert not (tmp_path / "new").exists()
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(StorageError, match=rf"{tmp_path}/new/deeper: {tmp_path} cannot be written to"):
        storage.check_access(f"{tmp_path}/new/deeper", write=True)
