"""Members of a tar or zip whose names tell no format are images by their first bytes, as files of a folder are."""

import gzip
import lzma
import zipfile

import pytest
from support.imaging.images import image_bytes
from support.inputs.archives import tar_of, zip_of

from brainray.inputs import unnamed_files
from brainray.inputs.archives import unpack
from brainray.inputs.archives.index import ArchiveIndexes
from brainray.inputs.listing import Lister, scan

JPEG = image_bytes()
FILES = {"glioma/IM1": JPEG, "1.2.840.7": JPEG, "README": b"text" * 99, "empty": b""}


@pytest.fixture
def listed(tmp_path):
    def run(archives, **options):
        for name, data in archives.items():
            (tmp_path / "in" / name).parent.mkdir(exist_ok=True)
            (tmp_path / "in" / name).write_bytes(data)
        with ArchiveIndexes(str(tmp_path / "scratch")) as indexes:
            lister = Lister([str(tmp_path / "in")], indexes, classes=("glioma",), **options)
            found = scan(lister, str(tmp_path / "listing.parquet"))
        (table,) = found.batches()
        return table, found

    return run


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.tar", tar_of(FILES)),
        ("a.zip", zip_of(FILES)),
        ("a.zip", zip_of(FILES, zipfile.ZIP_STORED)),
        ("a.zip", zip_of(FILES, streamed=True)),
    ],
)
def test_members_without_suffix_are_scored_where_they_outnumber_the_others(listed, name, data):
    table, found = listed({name: data})
    rows = table.to_pylist()
    assert {row["uri"].partition("#")[2]: row["label"] for row in rows} == {"glioma/IM1": "glioma", "1.2.840.7": None}
    assert found.skipped == {"no suffix": 2}
    assert [note.partition(f"{name}: ")[2] for note in found.notes] == [
        "2 of 4 files without suffix are images by their first bytes (2 JPEG), and are scored"
    ]
    for row in rows:
        stored = data[row["offset"] : row["offset"] + row["stored_bytes"]]
        assert unpack(name[2:], row["uri"].partition("#")[2], row["size_bytes"], stored) == JPEG


def test_elsewhere_they_are_passed_over_and_one_archive_is_sampled(listed, monkeypatch):
    reads = []
    read = unnamed_files.storage.read_range
    monkeypatch.setattr(
        unnamed_files.storage, "read_range", lambda *place, **how: reads.append(place) or read(*place, **how)
    )
    files = {"1": JPEG, "2.jpg": JPEG, "3.dat": JPEG}
    archives = {f"{number}.zip": zip_of(files) for number in range(3)}
    table, found = listed(archives)
    assert (len(table), found.skipped) == (3, {"no suffix": 3, "suffix .dat": 3})
    assert len(reads) == 1
    assert [note.partition("0.zip: ")[2] for note in found.notes] == [
        "1 files without suffix were passed over; of the first 1, look like images: 1 JPEG; "
        "give --any-suffix to score such files"
    ]
    table, found = listed(archives, any_suffix=True, exclude=["1.zip#*"])
    assert (len(table), found.skipped) == (6, {"in --exclude": 3})


@pytest.mark.parametrize(("name", "pack"), [("a.tgz", gzip.compress), ("a.tar.xz", lzma.compress)])
def test_those_of_a_compressed_tar_count_too(listed, name, pack):
    table, found = listed({name: pack(tar_of(FILES))})
    rows = {row["uri"].partition("#")[2]: row["label"] for row in table.to_pylist()}
    assert (rows, found.skipped) == ({"glioma/IM1": "glioma", "1.2.840.7": None}, {"no suffix": 2})


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(("name", "data"), [("a.tar", tar_of), ("a.zip", zip_of)])
def test_a_name_that_occurs_again_keeps_its_suffix(listed, name, data):
    """As `tar -r` appends a new version of a file."""
    stored = [("x.jpg", JPEG), ("x.jpg", JPEG), ("x.txt", b"1"), ("x.txt", b"2")]
    table, found = listed({name: data(stored)})
    assert [uri.partition(f"{name}#")[2] for uri in table["uri"].to_pylist()] == ["x.jpg", "x.jpg#2"]
    assert found.skipped == {"suffix .txt": 2}
