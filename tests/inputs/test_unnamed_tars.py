"""Tars whose names do not say that they are tars: their bytes do, wherever files without suffix are looked into."""

import bz2
import gzip
import lzma

import pyarrow as pa
import pytest
from support.imaging.images import image_bytes
from support.inputs.archives import tar_of

from brainray.doctor.inputs import first_image
from brainray.inputs.archives.index import ArchiveIndexes
from brainray.inputs.listing import Lister, scan
from brainray.inputs.ranges import RangeReader, plan_reads

JPEG = image_bytes()
TAR = tar_of({"glioma/1.jpg": JPEG, "2.jpg": JPEG, "README": b"text"})
PACKED = {
    "plain": TAR,
    "gzip": gzip.compress(TAR),
    "bzip2": bz2.compress(TAR),
    "xz": lzma.compress(TAR),
    "zstd": pa.compress(TAR, "zstd", asbytes=True),
}


@pytest.fixture
def listed(tmp_path):
    def run(files, *, root="in", **options):
        for name, data in files.items():
            (tmp_path / "in").mkdir(exist_ok=True)
            (tmp_path / "in" / name).write_bytes(data)
        with ArchiveIndexes(str(tmp_path / "scratch")) as indexes:
            lister = Lister([str(tmp_path / root)], indexes, classes=("glioma",), **options)
            found = scan(lister, str(tmp_path / "listing.parquet"))
        rows = [row for table in found.batches() for row in table.to_pylist()]
        return {row["uri"].removeprefix(f"{tmp_path}/in/"): row for row in rows}, found

    return run


@pytest.mark.parametrize("packed", PACKED)
def test_a_tar_without_suffix_is_read(listed, packed):
    rows, found = listed({"export": PACKED[packed]})
    assert {uri: row["label"] for uri, row in rows.items()} == {"export#glioma/1.jpg": "glioma", "export#2.jpg": None}
    (table,) = found.batches()
    reader = RangeReader()
    assert [image for read in plan_reads(table) for image in reader(read)] == [JPEG, JPEG]
    assert found.notes[0].endswith(
        "1 of 1 files without suffix are images or tars by their first bytes (1 tar), and are scored"
    )


def test_a_member_may_be_named_like_the_frame_at_its_place(listed):
    """Its bytes begin at 512, where frame 513 of a DICOM file would be, too."""
    rows, found = listed({"export": tar_of({"513": JPEG, "2.jpg": JPEG})}, any_suffix=True)
    (table,) = found.batches()
    reader = RangeReader()
    images = [image for read in plan_reads(table) for image in reader(read)]
    assert sorted(rows) == ["export#2.jpg", "export#513"]
    assert images == [JPEG, JPEG]


def test_it_may_be_the_input_itself(listed):
    rows, _ = listed({"export": PACKED["gzip"]}, root="in/export")
    assert len(rows) == 2


@pytest.mark.parametrize("data", [gzip.compress(b"text" * 999), gzip.compress(JPEG), PACKED["gzip"][:60], bytes(2048)])
def test_other_compressed_files_are_passed_over(listed, data):
    rows, found = listed({"export": data, "1": JPEG, "2": JPEG})
    assert (sorted(rows), found.skipped) == (["1", "2"], {"no suffix": 1})


def test_beside_more_images_the_option_is_named(listed):
    files = {"export": PACKED["gzip"], "a.jpg": JPEG, "b.jpg": JPEG, "other.gz": PACKED["gzip"]}
    rows, found = listed(files)
    assert sorted(rows) == ["a.jpg", "b.jpg"]
    assert "of the first 1, look like images: 1 tar; give --any-suffix" in found.notes[0]
    rows, found = listed(files, any_suffix=True)
    assert sorted(rows) == [
        "a.jpg",
        "b.jpg",
        "export#2.jpg",
        "export#glioma/1.jpg",
        "other.gz#2.jpg",
        "other.gz#glioma/1.jpg",
    ]


def test_a_list_may_name_its_members_as_the_parts_of_a_run_do(listed, tmp_path):
    listed({"export": PACKED["gzip"], "scan#1.jpg": JPEG})
    names = ("export#2.jpg", "export#none.jpg", "scan#1.jpg", "none#1.jpg")
    (tmp_path / "list.csv").write_text("\n".join(["uri", *(f"in/{name}" for name in names)]))
    rows, _ = listed({}, root="list.csv")
    assert {uri: (row["container"] is not None, row["refused"]) for uri, row in rows.items()} == {
        "export#2.jpg": (True, None),
        "export#none.jpg": (False, f"not_found: {tmp_path}/in/export has no such member"),
        "scan#1.jpg": (False, None),
        "none#1.jpg": (False, None),
    }


def test_doctor_finds_it_too(tmp_path):
    (tmp_path / "export").write_bytes(PACKED["bzip2"])
    found, _ = first_image(str(tmp_path))
    assert found is not None
