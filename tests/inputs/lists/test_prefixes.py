"""Lists whose rows name folders and prefixes of buckets: each stands for the images below it."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.imaging.dicoms import dicom
from support.imaging.images import image_bytes
from support.models.bundles import CLASSES
from support.storage.s3_servers import fast_s3, s3_endpoints

from brainray.errors import StorageError
from brainray.inputs.archives.index import ArchiveIndexes
from brainray.inputs.listing import Lister

__all__ = ["fast_s3", "s3_endpoints"]  # fixtures


def listed(root, tmp_path, **options):
    """The images of a list, and its lister, which has counted."""
    with ArchiveIndexes(str(tmp_path / "indexes")) as indexes:
        lister = Lister([str(root)], indexes, classes=CLASSES, **options)
        return [row for table, _ in lister.tables() for row in table.to_pylist()], lister


def names(rows, root) -> list[str]:
    return [row["uri"].removeprefix(f"{root}/") for row in rows]


@pytest.fixture
def series(fast_s3):
    """Two series as the Imaging Data Commons has them, one of files without suffix, and an image of its own."""
    for number in range(3):
        fast_s3.put(f"uuid-a/{number}.dcm", dicom())
    for number in range(2):
        fast_s3.put(f"uuid-b/1.2.840.{number}", dicom())
    fast_s3.put("uuid-b/README.md", b"no image")
    fast_s3.put("uuid-ab/other.dcm", dicom())
    fast_s3.put("single.png", image_bytes())
    return fast_s3


def test_an_index_of_series_is_an_input_as_it_is(series, tmp_path):
    root = series.root
    urls = [f"{root}/uuid-a/*", f"{root}/uuid-b", f"{root}/uuid-a/*"]
    pq.write_table(pa.table({"PatientID": ["p1", "p2", "p1"], "series_aws_url": urls}), tmp_path / "idc.parquet")
    rows, lister = listed(tmp_path / "idc.parquet", tmp_path, keep=("PatientID",), group_by="folder")
    found = ["uuid-a/0.dcm", "uuid-a/1.dcm", "uuid-a/2.dcm", "uuid-b/1.2.840.0", "uuid-b/1.2.840.1"]
    assert names(rows, root) == found
    assert [row["group"] for row in rows] == ["uuid-a"] * 3 + ["uuid-b"] * 2
    assert [row["kept"] for row in rows] == ['["p1"]'] * 3 + ['["p2"]'] * 2
    assert all(row["size_bytes"] and row["version"] for row in rows)
    assert lister.skipped == {"prefix that is listed again": 1, "suffix .md": 1}


def test_prefixes_and_objects_stand_in_one_list_with_their_labels(series, tmp_path):
    root = series.root
    (tmp_path / "list.csv").write_text(
        f"uri,label\n{root}/uuid-a/,glioma\n{root}/single.png,no tumor\n{root}/uuid-b/*,\n"
    )
    rows, _ = listed(tmp_path / "list.csv", tmp_path)
    assert [row["label"] for row in rows] == ["glioma"] * 3 + ["notumor"] + [None] * 2
    assert names(rows, root)[3] == "single.png"


def test_a_prefix_with_nothing_below_is_counted_and_named(series, tmp_path):
    root = series.root
    series.put("notes/a.md", b"no image")
    (tmp_path / "list.csv").write_text(f"uri\n{root}/gone/*\n{root}/notes/\n{root}/uuid-a/*\n")
    rows, lister = listed(tmp_path / "list.csv", tmp_path)
    assert len(rows) == 3
    assert lister.skipped == {"prefix without an image": 2, "suffix .md": 1}
    assert lister.notes == (
        f"--input {tmp_path}/list.csv: below 2 of 3 prefixes there is no image: {root}/gone, {root}/notes",
    )


def test_a_key_that_ends_with_a_slash_is_an_object_where_the_list_has_its_size(series, tmp_path):
    (tmp_path / "list.csv").write_text(f"uri,size\n{series.root}/odd/,7\n")
    rows, _ = listed(tmp_path / "list.csv", tmp_path)
    assert names(rows, series.root) == ["odd/"]


def test_folders_of_a_disk_are_prefixes_too(tmp_path):
    for name in ("a/1.png", "a/deep/2.png", "b/3.png", "c/4.png", "5.png"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(image_bytes())
    (tmp_path / "in" / "list.txt").write_text(f"./a\n./b/\n{tmp_path}/in/c/*\n5.png\n")
    rows, lister = listed(tmp_path / "in" / "list.txt", tmp_path)
    assert names(rows, tmp_path / "in") == ["a/1.png", "a/deep/2.png", "b/3.png", "c/4.png", "5.png"]
    assert not lister.skipped


@pytest.mark.parametrize("in_bucket", [False, True])
@pytest.mark.parametrize(("glob", "left"), [("sub/*", "abc"), ("ser/sub/*", "bc"), ("ser/*", "c")])
def test_exclude_takes_the_same_images_from_prefixes_of_a_disk_and_of_a_bucket(
    fast_s3, tmp_path, glob, left, in_bucket
):
    for name in ("ser/sub/a.png", "ser/b.png", "other/sub/c.png"):
        fast_s3.put(name, image_bytes())
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(image_bytes())
    root = fast_s3.root if in_bucket else tmp_path
    (tmp_path / "list.csv").write_text(f"uri\n{root}/ser/\n{root}/other/\n")
    rows, _ = listed(tmp_path / "list.csv", tmp_path, exclude=(glob,))
    assert sorted(row["uri"][-5] for row in rows) == list(left)


def test_a_file_may_be_called_by_a_star(tmp_path):
    (tmp_path / "*").write_bytes(image_bytes())
    (tmp_path / "list.csv").write_text(f"uri\n{tmp_path}/*\n")
    rows, _ = listed(tmp_path / "list.csv", tmp_path)
    assert names(rows, tmp_path) == ["*"]


def test_a_folder_that_is_gone_is_told_like_any_other_prefix(tmp_path):
    (tmp_path / "list.csv").write_text(f"uri\n{tmp_path}/gone/*\n")
    rows, lister = listed(tmp_path / "list.csv", tmp_path)
    assert rows == []
    assert lister.skipped == {"prefix without an image": 1}


def test_a_bucket_that_is_closed_is_said(fast_s3, tmp_path):
    fast_s3.proxy.add("403 AccessDenied", key="closed")
    (tmp_path / "list.csv").write_text(f"uri\n{fast_s3.root}/closed/*\n")
    with pytest.raises(StorageError, match="closed"):
        listed(tmp_path / "list.csv", tmp_path)
