"""Slices that a list names have the name and the size that a listing of their file gives them."""

import numpy as np
from support.each import each
from support.imaging.niftis import SHAPE, head, nifti

from brainray.errors import StorageError
from brainray.inputs.frames import listing
from brainray.inputs.frames.listing import frames_of
from brainray.inputs.frames.named import NamedFrames
from brainray.inputs.frames.nifti import Place, split
from brainray.inputs.frames.nifti.listing import slices_in
from brainray.inputs.listed_image import ListedImage
from brainray.inputs.unread import UNREAD

ONE, TWO = nifti(), nifti(np.stack([head(), head() // 2], axis=3))


@each(("content", "at"), [(ONE, 10), (TWO, 10), (TWO, 30)])
def test_a_slice_is_the_one_that_is_listed_however_it_is_spelt(tmp_path, content, at):
    path = tmp_path / "v.nii.gz"
    path.write_bytes(content)
    whole = ListedImage(str(path), len(content))
    listed = list(frames_of(whole, slices_in(str(path), content, len(content), "all")))[at]
    names = {listed.uri, listed.uri.replace("#z", "#t=0,z"), listed.uri.replace("#t=0,", "#")}
    found = {NamedFrames().find(ListedImage(name))._replace(version=None) for name in names}
    assert found == {listed}
    assert len(names) == (1 if at == 30 else 2)


def test_a_file_is_asked_once_for_all_its_slices(tmp_path, monkeypatch):
    (tmp_path / "v.nii.gz").write_bytes(ONE)
    asked, read_span = [], listing.read_span
    monkeypatch.setattr(listing, "read_span", lambda uri, *part: asked.append(part) or read_span(uri, *part))
    frames = NamedFrames()
    sizes = {frames.find(ListedImage(f"{tmp_path}/v.nii.gz#x={number}")).size_bytes for number in range(SHAPE[0])}
    assert (sizes, asked) == ({SHAPE[1] * SHAPE[2] * 2}, [(0, len(ONE))])


def test_a_volume_that_is_not_there_keeps_its_name(tmp_path):
    (tmp_path / "v.nii.gz").write_bytes(ONE)
    assert NamedFrames().find(ListedImage(f"{tmp_path}/v.nii.gz#t=1,z=3")).uri.endswith("#t=1,z=3")


def test_slices_of_a_file_that_cannot_be_read_say_why(tmp_path, monkeypatch):
    path = tmp_path / "v.nii.gz"
    path.write_bytes(ONE[:40])
    assert NamedFrames().find(ListedImage(f"{path}#z=3")).refused.startswith("truncated: ")

    def fails(*_: object) -> bytes:
        raise StorageError("read_failed", "the network is gone")

    monkeypatch.setattr(listing, "read_span", fails)
    found = NamedFrames().find(ListedImage(f"{path}#z=3"))
    assert (found.uri, found.container) == (f"{path}#z=3", str(path))
    assert found.refused.startswith(f"read_failed: {UNREAD}"), "its size and place in the file are not known"


@each(
    ("name", "file"),
    [
        ("v.nii.gz#z=3", "v.nii.gz"),
        ("v.nii.gz#2#z=3", "v.nii.gz#2"),  # the second of its name in an archive
        ("v.nii.gz12#z=3", None),  # a suffix that no volume has
        ("v.nii.gz#2", None),
    ],
)
def test_a_slice_is_of_a_file_that_is_named_as_a_volume(name, file):
    assert split(name) == (None if file is None else (file, Place(2, 3)))
