from dataclasses import replace
from pathlib import Path

import numpy as np
from support.each import each
from support.imaging.dicoms import dicom

from brainray import storage
from brainray.inputs import frames, unnamed_files
from brainray.inputs.frames import listing, unread_note
from brainray.inputs.frames.listing import frames_of, with_frames
from brainray.inputs.listed_image import ListedImage
from brainray.inputs.unnamed_files import FileFormats
from brainray.storage.base import FileInfo

THREE = dicom(np.zeros((3, 8, 8), np.uint16))


def info(uri: str, size_bytes: int = 300_000) -> FileInfo:
    return FileInfo(uri=uri, folders=(), size_bytes=size_bytes, version="v")


def asked_for(monkeypatch, files: list[FileInfo]) -> tuple[list[str], list[int]]:
    """The files of which bytes are read, and the frames of each."""
    asked = []

    def head(uri: str, start: int, length: int) -> bytes:
        asked.append(uri)
        assert start == 0
        assert length <= 65_536
        return THREE

    monkeypatch.setattr(listing, "read_span", head)
    found = list(with_frames((each, None) for each in files))
    assert [each for each, _, _ in found] == files
    return sorted(asked), [number for _, _, number in found]


def test_on_a_disk_every_dicom_file_is_asked_and_no_picture(monkeypatch):
    files = [info(f"/in/{name}") for name in ("a.dcm", "b.jpg", "IM0001", "1.2.840", "c.IMA", "d.png")]
    asked, numbers = asked_for(monkeypatch, files)
    assert asked == ["/in/a.dcm", "/in/c.IMA"]
    assert numbers == [3, 0, 0, 0, 3, 0]


def test_a_file_without_suffix_is_read_once_for_format_and_frames(monkeypatch):
    read = []

    def head(uri: str, start: int, length: int) -> bytes:
        read.append((uri, length))
        return THREE[:length]

    monkeypatch.setattr(unnamed_files, "read_span", head)
    monkeypatch.setattr(listing, "read_span", head)
    formats = FileFormats(tars=True)
    found = info("s3://bucket/IM0001", 50_000)
    assert formats(found) == "DICOM"
    assert [number for _, _, number in with_frames([(found, None)], formats)] == [3]
    assert [number for _, _, number in with_frames([(found, None)], formats)] == [1], "it is remembered no longer"
    assert read == [("s3://bucket/IM0001", 50_000)]


ONE_BYTES = 512 * 512 * 2 + 100_000


def test_in_a_bucket_one_slice_stands_for_its_series(monkeypatch):
    files = [info(f"s3://bucket/a/{number}.dcm", ONE_BYTES + number % 7) for number in range(1000)]
    monkeypatch.setattr(listing, "frames_of_head", lambda head: 1)
    asked, numbers = asked_for(monkeypatch, [*files, info("s3://bucket/a/big.dcm", 5_000_000)])
    assert asked == ["s3://bucket/a/0.dcm", "s3://bucket/a/big.dcm"]
    assert set(numbers) == {1}


def test_in_a_bucket_small_files_of_several_frames_are_found(monkeypatch):
    files = [info(f"s3://bucket/{folder}/{number}.dcm") for folder in "ab" for number in range(40)]
    _, numbers = asked_for(monkeypatch, files)
    assert numbers == [3] * 80


def test_in_a_bucket_of_folders_with_a_file_each_few_are_asked(monkeypatch):
    files = [info(f"s3://bucket/{number}/a.dcm") for number in range(3200)]
    monkeypatch.setattr(listing, "frames_of_head", lambda head: 1)
    asked, numbers = asked_for(monkeypatch, files)
    assert 64 <= len(asked) <= 64 + 3200 // 16 + 1
    assert set(numbers) == {1}


def test_what_is_archived_or_no_file_is_not_asked(monkeypatch):
    files = [replace(info("/in/a.dcm"), archived="GLACIER"), replace(info("/in/b.dcm"), special=True)]
    assert asked_for(monkeypatch, files) == ([], [0, 0])


def test_a_file_that_is_gone_is_one_image(tmp_path):
    (found,) = storage.list_files(_file(tmp_path / "a.dcm", THREE))
    Path(found.uri).unlink()
    assert [number for _, _, number in with_frames([(found, None)])] == [0]


def _file(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    return str(path)


def test_frames_share_the_file():
    image = ListedImage("/in/a.dcm", size_bytes=1000, version="v", label="glioma", group="g")
    rows = list(frames_of(image, 3))
    assert [row.uri for row in rows] == ["/in/a.dcm#1", "/in/a.dcm#2", "/in/a.dcm#3"]
    assert [row.offset for row in rows] == [0, 1, 2]
    assert {(row.container, row.version, row.label, row.group) for row in rows} == {("/in/a.dcm", "v", "glioma", "g")}
    assert 1000 <= sum(row.size_bytes for row in rows) <= 1002


@each(("promised", "reason"), [(2_000_000_000, "too_large"), (90_000, "truncated")])
def test_a_header_that_promises_too_much_makes_one_row(promised, reason):
    (row,) = frames_of(ListedImage("/in/a.dcm", size_bytes=1000), promised)
    assert row.uri == "/in/a.dcm"
    assert row.refused.startswith(f"{reason}: ")


def test_without_the_extra_one_line_says_how_to_install_it(monkeypatch):
    assert unread_note(5) == ()
    monkeypatch.setattr(frames, "find_spec", lambda _: None)
    (line,) = unread_note(5)
    assert "pip install 'brainray[dicom]'" in line
    assert unread_note(0) == ()
