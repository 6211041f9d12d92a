"""S3 inventories are read as AWS writes them: manifest, encoded keys, older versions, delete markers, columns."""

import gzip
import json
from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.each import each
from support.inputs.labelling import CLASSES

from brainray.errors import BadRequest
from brainray.inputs.archives.index import ArchiveIndexes
from brainray.inputs.listing import Lister
from brainray.inputs.lists.file_lists import open_file_list

SCHEMA = "Bucket, Key, VersionId, IsLatest, IsDeleteMarker, Size, LastModifiedDate, ETag, StorageClass"
ROWS = (
    ("glioma/a%20b%2Bc.jpg", "true", "false", "10"),
    ("glioma/a+d%C3%A9.jpg", "true", "false", "11"),
    ("glioma/old.jpg", "false", "false", "12"),
    ("glioma/gone.jpg", "true", "true", ""),
    ("glioma/", "true", "false", "0"),
    ("notes.txt", "true", "false", "13"),
    (".hidden/e.jpg", "true", "false", "14"),
    ("run/summary/confusion.png", "true", "false", "15"),
)
WANTED = ["s3://scans/glioma/a b+c.jpg", "s3://scans/glioma/a dé.jpg"]
SKIPPED = {"deleted object": 1, "older version of an object": 1, "folder object": 1, "suffix .txt": 1, "hidden": 1}


def csv_rows(*, header=False):
    lines = [SCHEMA.replace(" ", "")] if header else []
    lines += [
        f'"scans","{key}","v","{new}","{gone}","{size}","2026","e{size}","STANDARD"' for key, new, gone, size in ROWS
    ]
    return "\n".join([*lines, ""]).encode()


def manifest(folder, name, *, kind="CSV", schema=SCHEMA):
    """A manifest that was copied to a disk, beside its files or in AWS' own layout."""
    folder.mkdir(parents=True, exist_ok=True)
    values = {
        "sourceBucket": "scans",
        "destinationBucket": "arn:aws:s3:::lists",
        "version": "2016-11-30",
        "fileFormat": kind,
        "fileSchema": schema,
        "files": [{"key": f"inventory/scans/all/data/{name}", "size": 1, "MD5checksum": "x"}],
    }
    (folder / "manifest.json").write_text(json.dumps(values))
    return folder / "manifest.json"


def listed(given, tmp_path):
    with ArchiveIndexes(str(tmp_path / "indexes")) as indexes:
        lister = Lister([str(given)], indexes, classes=CLASSES, output="s3://scans/run", group_by="folder")
        rows = [row for table, _ in lister.tables() for row in table.to_pylist()]
    return rows, dict(lister.skipped)


@each("place", ["data", "2026-11-28T01-00Z/../data", "2026-11-28T01-00Z"])
def test_an_inventory_lists_the_images_of_a_bucket(tmp_path, place):
    given = manifest(tmp_path / "2026-11-28T01-00Z", "x.csv.gz")
    (tmp_path / place).mkdir(parents=True, exist_ok=True)
    (tmp_path / place / "x.csv.gz").write_bytes(gzip.compress(csv_rows()))
    rows, skipped = listed(given, tmp_path)
    assert [row["uri"] for row in rows] == WANTED
    assert [(row["size_bytes"], row["version"], row["label"], row["group"]) for row in rows] == [
        (10, "e10", "glioma", "glioma"),
        (11, "e11", "glioma", "glioma"),
    ]
    assert skipped == SKIPPED


def test_keys_in_parquet_are_not_encoded(tmp_path):
    given = manifest(tmp_path, "x.parquet", kind="Parquet", schema="message s3.inventory { ... }")
    table = {
        "bucket": ["scans"] * 3,
        "key": ["a%20b+c.jpg", "old.jpg", "gone.jpg"],
        "is_latest": [True, False, True],
        "is_delete_marker": [False, False, True],
        "size": pa.array([1, 2, None], pa.int64()),
        "e_tag": ["x", "y", None],
    }
    pq.write_table(pa.table(table), tmp_path / "x.parquet")
    for listing in (given, tmp_path / "x.parquet"):
        rows, skipped = listed(listing, tmp_path)
        assert [(row["uri"], row["size_bytes"], row["version"]) for row in rows] == [("s3://scans/a%20b+c.jpg", 1, "x")]
        assert skipped == {"deleted object": 1, "older version of an object": 1}


def test_files_lie_in_the_bucket_of_the_inventory(tmp_path):
    found = open_file_list(str(manifest(tmp_path, "x.csv.gz")))
    assert [part.uri for part in found.inventory.parts] == ["s3://lists/inventory/scans/all/data/x.csv.gz"]


def test_a_csv_of_an_inventory_may_have_a_header(tmp_path):
    """Also one with the columns that it needs only; any file that it names is an image."""
    (tmp_path / "list.csv.gz").write_bytes(gzip.compress(csv_rows(header=True)))
    skipped = Counter()
    rows = list(open_file_list(str(tmp_path / "list.csv.gz")).rows(skipped=skipped))
    assert [row.uri for row in rows[:2]] == WANTED
    assert len(rows) == 5 and skipped == {name: SKIPPED[name] for name in list(SKIPPED)[:3]}
    (tmp_path / "list.csv").write_text("Key,Bucket\na%20b.jpg,scans\n")
    assert [row.uri for row in open_file_list(str(tmp_path / "list.csv")).rows()] == ["s3://scans/a b.jpg"]


@each("header", ["bucket,key", "BUCKET,KEY", "Bucket,key"])
def test_other_columns_of_bucket_and_key_are_read_as_they_stand(tmp_path, header):
    (tmp_path / "list.csv").write_text(f"{header}\nscans,a%20b+c.jpg\n")
    assert [row.uri for row in open_file_list(str(tmp_path / "list.csv")).rows()] == ["s3://scans/a%20b+c.jpg"]


@each("key", ["a b.jpg", "100%.jpg", "é.jpg"])
def test_keys_that_were_not_encoded_are_refused_where_encoded_ones_stand(tmp_path, key):
    (tmp_path / "list.csv").write_text(f"Bucket,Key\nscans,{key}\n")
    with pytest.raises(BadRequest, match=f"the key '{key}' is not URL-encoded.* name the columns bucket,key"):
        list(open_file_list(str(tmp_path / "list.csv")).rows())


@each(
    ("values", "told"),
    [
        ({"fileFormat": "ORC"}, "its inventory is ORC; have it written as CSV or Parquet"),
        ({"files": [{}]}, "is no whole manifest of an S3 inventory"),
        ({"fileSchema": "Size, ETag"}, "needs a column uri or path, and has Size, ETag"),
    ],
)
def test_a_manifest_that_cannot_be_used_is_refused(tmp_path, values, told):
    given = manifest(tmp_path, "x.csv.gz")
    given.write_text(json.dumps(json.loads(given.read_text()) | values))
    with pytest.raises(BadRequest, match=told):
        open_file_list(str(given))


def test_other_json_is_no_list(tmp_path):
    for number, text in enumerate(('{"files": []}', "[1]", "no json", "")):
        (tmp_path / f"{number}.json").write_text(text)
        assert open_file_list(str(tmp_path / f"{number}.json")) is None


@each("retry_unread", [False, True])
def test_an_archived_object_is_known_from_its_storage_class(tmp_path, retry_unread):
    """With --retry-unread it may be restored by now, which an inventory does not tell."""
    classes = {"a": ("GLACIER", ""), "b": ("DEEP_ARCHIVE", ""), "c": ("INTELLIGENT_TIERING", "ARCHIVE")}
    classes |= {"d": ("INTELLIGENT_TIERING", "ARCHIVE_INSTANT"), "e": ("GLACIER_IR", ""), "f": ("", "")}
    given = manifest(tmp_path, "x.csv.gz", schema="Bucket, Key, StorageClass, IntelligentTieringAccessTier")
    lines = (f'"scans","{key}.jpg","{kind}","{tier}"\n' for key, (kind, tier) in classes.items())
    (tmp_path / "x.csv.gz").write_bytes(gzip.compress("".join(lines).encode()))
    with ArchiveIndexes(str(tmp_path / "indexes")) as indexes:
        lister = Lister([str(given)], indexes, classes=CLASSES, retry_unread=retry_unread)
        rows = [row for table, _ in lister.tables() for row in table.to_pylist()]
    told = "archived: s3://scans/c.jpg: is in ARCHIVE by its list; restore it, then run again with --retry-unread"
    refused = {row["uri"][-5]: row["refused"] for row in rows if row["refused"]}
    assert refused.get("c") == (None if retry_unread else told)
    assert list(refused) == ([] if retry_unread else ["a", "b", "c"])
