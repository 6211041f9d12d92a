"""Folders of table formats, whose log decides which rows of their Parquet files exist."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.each import each
from support.imaging.images import image_bytes
from support.inputs.archive_rows import parquet_of
from support.storage.s3_servers import decided_s3, s3_endpoints

from brainray import storage
from brainray.errors import BadRequest
from brainray.inputs.archives.index import ArchiveIndexes
from brainray.inputs.distinct import distinct_inputs
from brainray.inputs.listing import Lister, scan

__all__ = ["decided_s3", "s3_endpoints"]  # fixtures

DELTA_LOG = "_delta_log/00000000000000000000.json"
ICEBERG_LOG = "metadata/00000-6c.metadata.json"


def listed(tmp_path, root, **options):
    with ArchiveIndexes(str(tmp_path / "indexes")) as indexes:
        lister = Lister(distinct_inputs([str(root)]), indexes, classes=("glioma", "notumor"), **options)
        return scan(lister, str(tmp_path / "listing.parquet"))


def images(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"image": [image_bytes(1), image_bytes(2)]}), path)


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"{}")


TABLES = [
    ("a Delta", "part-0.parquet", DELTA_LOG),
    ("a Delta", "Day=1/part-0.parquet", DELTA_LOG),  # sorts before the log
    ("a Delta", "day=1/part-0.parquet", DELTA_LOG),  # sorts behind it
    ("a Hudi", "2026/part-0.parquet", ".hoodie/hoodie.properties"),
    ("an Iceberg", "data/part-0.parquet", ICEBERG_LOG),
    ("an Iceberg", "data/day=1/part-0.parquet", ICEBERG_LOG),
]


@each(("kind", "data", "log"), TABLES)
def test_a_table_is_refused_with_the_ways_out(tmp_path, kind, data, log):
    images(tmp_path / "in" / "my table" / data)
    touch(tmp_path / "in" / "my table" / log)
    images(tmp_path / "in" / "plain.parquet")
    with pytest.raises(BadRequest) as refused:
        listed(tmp_path, tmp_path / "in")
    assert refused.value.exit_code == 2
    assert f"--input {tmp_path}/in/my table is {kind} table" in str(refused.value)
    assert "--exclude 'my table/*'" in str(refused.value)
    assert listed(tmp_path, tmp_path / "in", exclude=["my table/*"]).images == 2


@each(("kind", "data", "log"), TABLES)
def test_an_input_that_is_a_table_is_refused(tmp_path, kind, data, log):
    images(tmp_path / "in" / data)
    touch(tmp_path / "in" / log)
    with pytest.raises(BadRequest, match=f"{tmp_path}/in is {kind} table") as refused:
        listed(tmp_path, tmp_path / "in")
    assert "--exclude" not in str(refused.value), "nothing would be left"


def test_leaving_out_the_log_alone_does_not_bring_removed_rows_back(tmp_path):
    images(tmp_path / "in" / "part-0.parquet")
    touch(tmp_path / "in" / DELTA_LOG)
    with pytest.raises(BadRequest, match="Delta"):
        listed(tmp_path, tmp_path / "in", exclude=["*_delta_log/*"])


def test_a_table_without_images_hinders_no_images_beside_it(tmp_path):
    touch(tmp_path / "in" / "patients" / DELTA_LOG)
    pq.write_table(pa.table({"age": [4]}), tmp_path / "in" / "patients" / "part-0.parquet")
    touch(tmp_path / "in" / "scans" / "1.jpg")
    found = listed(tmp_path, tmp_path / "in")
    assert (found.images, found.skipped) == (1, {"Parquet without images": 1, "hidden": 1})


def test_a_folder_named_metadata_makes_no_table(tmp_path):
    images(tmp_path / "in" / "a" / "train.parquet")
    touch(tmp_path / "in" / "a" / "metadata" / "croissant.json")
    touch(tmp_path / "in" / "a" / "metadata" / "x.metadata.json")
    assert listed(tmp_path, tmp_path / "in").images == 2, "Iceberg keeps its files in data/"


def test_files_that_spark_has_not_finished_are_not_read(tmp_path):
    images(tmp_path / "in" / "part-0.parquet")
    images(tmp_path / "in" / "_temporary" / "0" / "task_1" / "part-0.parquet")
    touch(tmp_path / "in" / "_temporary" / "0" / "1.jpg")
    found = listed(tmp_path, tmp_path / "in")
    assert (found.images, found.skipped) == (2, {"hidden": 2})


@pytest.mark.timeout(60)
def test_a_table_in_a_bucket_is_refused_too(tmp_path, decided_s3):
    images(tmp_path / "part-0.parquet")
    data = (tmp_path / "part-0.parquet").read_bytes()
    root = f"{decided_s3.root}/tables"
    for key in ("t/part-0.parquet", f"t/{DELTA_LOG}", "u/part-0.parquet", "u/_temporary/0/part-1.parquet"):
        storage.write_bytes(f"{root}/{key}", data)
    with pytest.raises(BadRequest, match=f"{root}/t is a Delta table"):
        listed(tmp_path, root)
    found = listed(tmp_path, root, exclude=["t/*"])
    assert (found.images, found.skipped["hidden"]) == (2, 2)


def test_files_of_a_delta_table_that_are_given_by_themselves_say_that_its_log_is_not_followed(tmp_path):
    """As `--input table/*.parquet` gives them: rows that the log has removed are scored."""
    part = tmp_path / "table" / "part.parquet"
    (tmp_path / "table" / "_delta_log").mkdir(parents=True)
    part.write_bytes(parquet_of({"image": [b"x"]}))
    with ArchiveIndexes(str(tmp_path / "scratch")) as indexes:
        lister = Lister([str(part)], indexes, classes=("glioma",))
        assert [len(table) for table, _ in lister.tables()] == [1]
    (note,) = lister.notes
    assert note.startswith(f"--input {part} lies in a Delta table, {tmp_path}/table, whose log may say")
