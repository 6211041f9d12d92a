"""Files whose names tell no format: which are looked into, and what the user is told."""

from collections import Counter

from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from support.each import each
from support.imaging.dicoms import dicom
from support.imaging.images import image_bytes
from support.inputs.folders import touch

from brainray.imaging.formats import plugin_for
from brainray.inputs.archives.index import ArchiveIndexes
from brainray.inputs.distinct import distinct_inputs
from brainray.inputs.listing import Lister, scan
from brainray.inputs.unnamed_files import UnnamedFiles, format_of
from brainray.storage.base import FileInfo

JPEG = image_bytes(0)
DICOM = bytes(128) + b"DICM" + bytes(99)


def listed(tmp_path, **options):
    with ArchiveIndexes(str(tmp_path / "indexes")) as indexes:
        lister = Lister(distinct_inputs([str(tmp_path / "in")]), indexes, classes=("glioma", "notumor"), **options)
        found = scan(lister, str(tmp_path / "listing.parquet"))
    rows = [row for table in found.batches() for row in table.to_pylist()]
    return {row["uri"].removeprefix(f"{tmp_path}/in/"): row["label"] for row in rows}, found


def put(tmp_path, **files):
    for name, data in files.items():
        touch(tmp_path / "in" / name)
        (tmp_path / "in" / name).write_bytes(data)


def test_files_without_suffix_are_scored_where_they_outnumber_the_others(tmp_path):
    put(tmp_path, **{"glioma/1.2.840.113619": JPEG, "IM_0002": JPEG, "LICENSE": b"text", "b.jpg": JPEG, "c.txt": JPEG})
    put(tmp_path, **{"1.2.840.7": DICOM, "empty": b""})
    rows, found = listed(tmp_path)
    assert rows == {"b.jpg": None, "IM_0002": None, "glioma/1.2.840.113619": "glioma", "1.2.840.7": None}
    assert found.skipped == {"no suffix": 2, "suffix .txt": 1}
    assert [note.partition("/in: ")[2] for note in found.notes] == [
        "3 of 5 files without suffix are images by their first bytes (2 JPEG, 1 DICOM), and are scored",
    ]


def test_elsewhere_the_option_is_named(tmp_path):
    put(tmp_path, **{"1": JPEG, "LICENSE": b"text", "a.jpg": JPEG, "b.jpg": JPEG, "c.bak": JPEG, "d.csv": b"x"})
    rows, found = listed(tmp_path)
    assert (sorted(rows), found.skipped) == (
        ["a.jpg", "b.jpg"],
        {"no suffix": 2, "suffix .bak": 1, "suffix .csv": 1},
    )
    assert [note.partition("/in: ")[2] for note in found.notes] == [
        "2 files without suffix were passed over; of the first 2, look like images: 1 JPEG; "
        "give --any-suffix to score such files"
    ]
    rows, found = listed(tmp_path, any_suffix=True)
    assert (sorted(rows), found.skipped) == (["1", "a.jpg", "b.jpg", "c.bak"], {"no suffix": 1, "suffix .csv": 1})
    assert found.notes == ()


def test_globs_and_hidden_folders_hold_for_them_too(tmp_path):
    put(tmp_path, **{"old/1": JPEG, ".trash/2": JPEG, "3": JPEG})
    rows, found = listed(tmp_path, any_suffix=True, exclude=["old/?"])
    assert (sorted(rows), found.skipped) == (["3"], {"hidden": 1, "in --exclude": 1})


@each(("root", "read"), [("s3://b/in", 64), ("/in", 1001)])
def test_a_bucket_is_asked_for_few_files(root, read):
    asked = []
    skipped = Counter()

    def head(found):
        asked.append(found.uri)
        return "JPEG"

    files = UnnamedFiles(root, skipped, format_in=head)
    for number in range(1001):
        found = FileInfo(uri=f"{root}/{number}", folders=(), size_bytes=9, version="")
        assert not list(files.add(found, "no suffix"))
    taken = len(list(files.rest(0)))
    assert len(asked) == read
    assert taken + skipped["no suffix"] == 1001
    assert ("--any-suffix" in files.notes[0]) == (taken == 0)


def test_every_format_that_is_read_is_known():
    heads = [JPEG, b"\x89PNG\r\n\x1a\n", b"GIF89a", b"II*\0", b"RIFF1234WEBP", b"\xff\x4f\xff\x51", b"P5 1", b"text"]
    heads += [b"\0\0\0\x1cftypavif", b"BM" + bytes(12) + b"\x28\0\0\0"]
    assert [format_of(head) is not None for head in heads] == [plugin_for(head) is not None for head in heads]
    assert format_of(DICOM) == "DICOM"


@each("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian])
def test_dicom_without_its_preamble_is_known(syntax):
    assert format_of(dicom(syntax=syntax, preamble=False)[:132]) == "DICOM"
