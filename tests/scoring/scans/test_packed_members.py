"""Files in archives that are packed once more have the rows, and predictions, that they have in a folder."""

import gzip
import io

import numpy as np
import pytest
from PIL import Image
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEGLSLossless
from support.imaging.dicoms import dicom, slice_pixels
from support.imaging.niftis import nifti
from support.inputs.archives import write_in_folder, write_packed, zip_of
from support.scoring.runs import rows_by_name

from brainray import storage
from brainray.inputs.frames import packed

WINDOW = {"WindowCenter": 1000, "WindowWidth": 2000}
FRAMES = np.stack([slice_pixels(seed=seed) for seed in range(1, 5)])


def picture(kind: str = "PNG") -> bytes:
    made = io.BytesIO()
    Image.fromarray((slice_pixels(seed=7) >> 4).astype(np.uint8)).save(made, kind)
    return made.getvalue()


DEFLATED = dicom(FRAMES, DeflatedExplicitVRLittleEndian, **WINDOW)
MEMBERS = {
    "s1/frames.dcm.gz": gzip.compress(dicom(FRAMES, **WINDOW)),
    "s1/deflated.dcm": DEFLATED,
    "s1/deflated.dcm.gz": gzip.compress(DEFLATED),
    "s1/JPEG-LS.dcm.gz": gzip.compress(dicom(FRAMES[:2], JPEGLSLossless, **WINDOW)),
    "s1/slice.dcm.gz": gzip.compress(dicom(FRAMES[0], **WINDOW)),
    "s1/localizer.IMA.gz": gzip.compress(dicom(FRAMES[1], ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"], **WINDOW)),
    "s2/vol.nii.gz": nifti(),
    "s2/packed.nii": nifti(),
    "s2/not packed.nii.gz": nifti(packed=False),
    "s2/cut.nii": nifti(packed=False)[:-999],
    "s2/a.png.gz": gzip.compress(picture()),
    "s2/a.JPG.GZ": gzip.compress(picture("JPEG")),
    "s2/cut.dcm.gz": gzip.compress(dicom(FRAMES, **WINDOW))[:-3000],
    "s2/promises.dcm.gz": gzip.compress(dicom(FRAMES, NumberOfFrames=900_000)),
    "s2/none.dcm.gz": gzip.compress(b"no DICOM at all"),
    "s2/twice.dcm.gz": gzip.compress(gzip.compress(dicom(FRAMES[0], **WINDOW))),
}
SAME = ("status", "error", "error_detail", "confidence", "size_bytes", "width", "content_hash", "scan_plane", "group")


@pytest.fixture(scope="module")
def in_a_folder(tmp_path_factory, bundle):
    folder = write_in_folder(tmp_path_factory.mktemp("in"), MEMBERS)
    return rows_by_name(folder, tmp_path_factory.mktemp("run"), bundle)


@pytest.mark.parametrize("name", ["a.tar", "a.tgz", "a.zip"])
def test_packed_members_have_the_rows_that_they_have_in_a_folder(name, in_a_folder, tmp_path, bundle, monkeypatch):
    unpacked, unpack = [], packed.unpack
    monkeypatch.setattr("brainray.inputs.frames.reading.unpack", lambda *args: unpacked.append(1) or unpack(*args))
    found = rows_by_name(write_packed(tmp_path / name, MEMBERS), tmp_path / "run", bundle)
    told = {name: {column: row[column] for column in SAME} for name, row in found.items()}
    there = {name: {column: row[column] for column in SAME} for name, row in in_a_folder.items()}
    assert told == there
    assert sum(name.startswith("s1/") for name in found) == 4 + 4 + 4 + 2 + 1 + 1
    assert {found[f"s1/{name}#3"]["status"] for name in ("frames.dcm.gz", "deflated.dcm", "deflated.dcm.gz")} == {"ok"}
    assert found["s1/localizer.IMA.gz"]["error"] == "localizer"
    assert len({row["series"] for key, row in found.items() if key.startswith("s1/frames")}) == 1
    assert len(unpacked) == 5, "each member with frames is unpacked once"


def test_archives_in_archives_stay_refused_in_gzip_too(tmp_path, bundle):
    inner = zip_of({"a.png": picture()})
    members = {"a.png": picture(), "in.zip": inner, "in.zip.gz": gzip.compress(inner), "in.tar.gz": b"x"}
    (tmp_path / "a.zip").write_bytes(zip_of(members))
    found = rows_by_name(tmp_path / "a.zip", tmp_path / "run", bundle)
    refused = {name: row["error_detail"] for name, row in found.items() if row["status"] == "error"}
    assert refused == dict.fromkeys(("in.zip", "in.zip.gz", "in.tar.gz"), "an archive inside an archive is not opened")


def test_a_list_names_frames_of_packed_members(tmp_path, bundle):
    (tmp_path / "a.zip").write_bytes(zip_of(MEMBERS))
    (tmp_path / "list.csv").write_text("uri\na.zip#s1/frames.dcm.gz#frame=3\na.zip#s1/frames.dcm.gz#frame=9\n")
    before = rows_by_name(tmp_path / "a.zip", tmp_path / "run", bundle)
    found = rows_by_name(tmp_path / "list.csv", tmp_path / "again", bundle, group_by=None)
    there, missing = (found[f"{tmp_path}/a.zip#s1/frames.dcm.gz#{k}".lstrip("/")] for k in (3, 9))
    for column in ("confidence", "size_bytes", "content_hash"):
        assert there[column] == before["s1/frames.dcm.gz#3"][column]
    assert missing["error"] == "not_found"


def test_a_packed_member_is_read_once_whatever_is_read_between_its_frames(tmp_path, bundle, monkeypatch):
    monkeypatch.setattr("brainray.inputs.ranges.RANGE_BYTES", 20_000)  # two frames a read
    monkeypatch.setattr("brainray.inputs.ranges._UNPACKED_BYTES", 1)
    read, real = [], storage.read_range
    monkeypatch.setattr(
        storage, "read_range", lambda uri, start, length, **at: read.append(start) or real(uri, start, length, **at)
    )
    members = {f"{k}.dcm.gz": MEMBERS["s1/frames.dcm.gz"] for k in range(3)}
    (tmp_path / "a.zip").write_bytes(zip_of(members))
    found = rows_by_name(tmp_path / "a.zip", tmp_path / "run", bundle, shard_size=3)
    assert [row["status"] for row in found.values()] == ["ok"] * 12
    assert len(read) == len(set(read)) == 3


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_volumes_of_one_name_in_an_archive_have_all_their_slices(tmp_path, bundle):
    """The second is told from the first by a number, which is no part of its suffix."""
    twice = zip_of([("v.nii.gz", nifti()), ("v.nii.gz", nifti())])
    (tmp_path / "a.zip").write_bytes(twice)
    found = rows_by_name(tmp_path / "a.zip", tmp_path / "run", bundle)
    slices = [name.removeprefix("v.nii.gz#2") for name in found if name.startswith("v.nii.gz#2")]
    assert slices and len(found) == 2 * len(slices)
    assert "truncated" not in {row["error"] for row in found.values()}


def test_frames_are_told_by_what_comes_before_the_damage():
    """Wherever the reader looks: a zip is asked for less of a member than a tar."""
    sound = gzip.compress(dicom(np.stack([slice_pixels(64, seed) for seed in range(9)])))
    for at in range(9_000, len(sound) - 8, 2_000):
        damaged = sound[:at] + bytes([sound[at] ^ 0xFF]) + sound[at + 1 :]
        assert packed.frames_of_head(damaged) == packed.frames_told_by(damaged[: 8 << 10]) == 9
