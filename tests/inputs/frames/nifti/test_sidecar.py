"""Trouble with the file beside a volume costs what it says, and not the volume's slices."""

import os
from pathlib import Path

import pytest
from support.each import each

from brainray import storage
from brainray.errors import StorageError
from brainray.inputs.frames.nifti.sidecar import Sidecars


def test_a_side_file_says_what_it_knows_of_scanner_and_sequence(tmp_path):
    (tmp_path / "a.json").write_text('{"Modality": "MR", "PatientName": "Doe"}')
    assert Sidecars().of(f"{tmp_path}/a.nii.gz") == {"Modality": "MR"}


@each(
    "make", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to(path.name), lambda path: path.write_text("[" * 9999)]
)
def test_what_is_no_side_file_says_nothing(tmp_path, make):
    for folder in (tmp_path / "sub-1", tmp_path):
        folder.mkdir(exist_ok=True)
        make(folder / ("T1w.json" if folder == tmp_path else "sub-1_T1w.json"))
    assert Sidecars().of(f"{tmp_path}/sub-1/sub-1_T1w.nii.gz") == {}


def test_the_name_of_a_volume_may_be_as_long_as_a_disk_allows(tmp_path):
    assert Sidecars().of(f"{tmp_path}/{'m' * 251}.nii") == {}


def test_what_a_later_read_may_find_is_asked_again(monkeypatch):
    def fails(uri: str, **_: int) -> bytes:
        raise StorageError("read_failed", f"{uri}: timeout") from TimeoutError("timed out")

    monkeypatch.setattr(storage, "read_once", fails)
    with pytest.raises(StorageError, match="timeout"):
        Sidecars().of("s3://bucket/a.nii")
