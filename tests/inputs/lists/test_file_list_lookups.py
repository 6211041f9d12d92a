"""What the rows of a list name in archives: each archive's index is read once, whatever the order of the rows."""

import pytest
from support.each import each
from support.inputs.archives import zip_of

from brainray.inputs.archives import archive_of, index
from brainray.inputs.archives.index import ArchiveIndexes
from brainray.inputs.lists import resolve
from brainray.inputs.lists.archive_lookup import ArchiveLookup
from brainray.inputs.lists.file_lists import open_file_list
from brainray.inputs.lists.resolve import resolve_rows

MEMBERS = 9


@pytest.fixture
def listed(tmp_path):
    """Rows of a list that go to and fro between two archives."""
    for name in ("a.zip", "b.zip"):
        (tmp_path / name).write_bytes(zip_of({f"{k}.jpg": b"x" * (k + 1) for k in range(MEMBERS)}))
    rows = [f"{name}.zip#{k}.jpg" for k in range(MEMBERS) for name in "ab"]
    (tmp_path / "list.csv").write_text("\n".join(["uri", *rows, "a.zip#none.jpg", "none.zip#1.jpg", ""]))
    return open_file_list(str(tmp_path / "list.csv"))


@pytest.fixture
def opened(monkeypatch):
    """Paths of the indexes that were read."""
    paths = []
    original = index.pq.ParquetFile

    def counted(path, **how):
        paths.append(path)
        return original(path, **how)

    monkeypatch.setattr(index.pq, "ParquetFile", counted)
    return paths


def entries(listed, tmp_path):
    with ArchiveIndexes(str(tmp_path / "scratch")) as made:
        return [entry for _, entry in resolve_rows(listed, made)]


def test_an_index_is_read_once_for_a_list_of_many_pieces(listed, tmp_path, monkeypatch, opened):
    monkeypatch.setattr(resolve, "CHUNK_ROWS", 3)
    found = entries(listed, tmp_path)
    assert len(opened) == 2
    assert [entry.size_bytes for entry in found[:-2]] == [k + 1 for k in range(MEMBERS) for _ in "ab"]
    assert [entry.uri for entry in found[:3]] == [
        f"{tmp_path}/{name}" for name in ("a.zip#0.jpg", "b.zip#0.jpg", "a.zip#1.jpg")
    ]
    assert found[0].container == f"{tmp_path}/a.zip" and found[0].offset is not None
    assert [entry.refused.partition(":")[0] for entry in found[-2:]] == ["not_found", "not_found"]


def test_indexes_are_kept_up_to_a_bound_and_found_again_without_one(listed, tmp_path, opened):
    """The last used ones stay; what has been dropped is read again, and nothing else changes."""
    expected = entries(listed, tmp_path)
    once = len(opened)
    with ArchiveIndexes(str(tmp_path / "again")) as made:
        archives = ArchiveLookup(made, most_bytes=1)
        uris = [entry.uri for entry in expected]
        assert [archives.find([uri])[uri] for uri in uris] == expected
        assert archives._kept == {} and archives._bytes == 0
    assert len(opened) - once == 2 * MEMBERS + 1


def test_the_archive_itself_is_no_member(listed, tmp_path):
    with ArchiveIndexes(str(tmp_path / "scratch")) as made:
        archive = str(tmp_path / "a.zip")
        uri = f"{archive}#"
        assert ArchiveLookup(made).find([uri])[uri].refused == f"not_found: {archive} has no such member"


@each(
    ("uri", "found"),
    [
        ("/in/a.tar#x.jpg", ("/in/a.tar", "tar")),
        ("/in/#1/a.ZIP#x#2.jpg", ("/in/#1/a.ZIP", "zip")),
        ("s3://b/a.pq#0", ("s3://b/a.pq", "parquet")),
        ("/in/MRT #1.jpg", None),
        ("/in/a.tar", None),
    ],
)
def test_the_kind_of_an_archive_comes_from_its_name_and_from_nothing_else(uri, found):
    """A file of no kind is no archive, and is never taken for a tar."""
    assert archive_of(uri) == found
