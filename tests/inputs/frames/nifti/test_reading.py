"""Slices of volumes: shown as a radiologist expects them, read by one request, unpacked once."""

import gzip
import struct
from itertools import permutations, product

import nibabel
import numpy as np
import pytest
from support.each import each
from support.imaging.niftis import SHAPE, head, nifti, with_header

from brainray.errors import ImageError, StorageError
from brainray.inputs.frames.nifti import stream
from brainray.inputs.frames.nifti.file import only_slice
from brainray.inputs.frames.nifti.reading import Volumes
from brainray.inputs.frames.nifti.slice_file import unpack

ALL = [f"z={number}" for number in range(SHAPE[2])]
MIDDLE = "z=10"


def read(content: bytes, *names: str, volumes: Volumes | None = None, asked: list | None = None) -> list:
    """The pixels of slices, or the reasons of their errors."""

    def fetch(start: int, length: int) -> bytes:
        if asked is not None:
            asked.append((start, length))
        return content[start : start + length]

    found = (volumes or Volumes()).read("/none/vol.nii.gz", "v", len(content), fetch, names)
    return [each.reason if isinstance(each, ImageError) else unpack(each)[0] for each in found]


def known(content: bytes, name: str = MIDDLE) -> dict:
    (found,) = Volumes().read("/none/v.nii.gz", None, len(content), lambda a, n: content[a : a + n], [name])
    return unpack(found)[1]


def stored_as(voxels: np.ndarray, order: tuple[int, int, int], signs: tuple[int, int, int]) -> bytes:
    """A file whose stored axes run along others of the patient, each in its direction."""
    orientation = np.array([[axis, sign] for axis, sign in zip(order, signs, strict=True)], float)
    back = nibabel.orientations.ornt_transform(nibabel.io_orientation(np.eye(4)), orientation)
    turned = nibabel.apply_orientation(voxels, back)
    affine = nibabel.orientations.inv_ornt_aff(back, voxels.shape)
    return nifti(np.ascontiguousarray(turned), affine)


@each("order", list(permutations(range(3))))
@each("signs", list(product((1, -1), repeat=3))[::3])
def test_the_front_is_up_and_the_right_side_on_the_left_however_voxels_are_stored(order, signs):
    voxels = head()
    (picture,) = read(stored_as(voxels, order, signs), MIDDLE)
    assert (picture == voxels[::-1, ::-1, 10].T).all()
    front, back = picture[4:8].mean(), picture[-8:-4].mean()
    right, left = picture[10:20, 2:8].mean(), picture[10:20, -8:-2].mean()
    assert (front > back, right > left) == (True, True)


def test_other_planes_have_the_head_up_and_the_front_on_the_left():
    voxels = head()
    sagittal, coronal = read(nifti(voxels), "x=12", "y=15")
    assert (sagittal == voxels[12, ::-1, ::-1].T).all()
    assert (coronal == voxels[::-1, 15, ::-1].T).all()


def test_slices_of_a_tilted_volume_are_those_of_the_nearest_axis():
    def tilted(degrees: float) -> np.ndarray:
        angle, affine = np.radians(degrees), np.eye(4)
        affine[1:3, 1:3] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        return affine

    assert (read(nifti(affine=tilted(25)), MIDDLE)[0] == head()[::-1, ::-1, 10].T).all()
    assert [known(nifti(affine=tilted(angle)))["plane"] for angle in (25, 40)] == ["axial", "oblique"]
    assert known(with_header(nifti(packed=False), 252, bytes(4)))["plane"] is None


@each("version", [1, 2])
@each("dtype", ["u1", "i2", ">i2", "u2", "i4", "f4", ">f4", "f8"])
def test_every_type_of_voxel_is_read(version, dtype):
    voxels = (head() // 16).astype(dtype)
    content = nifti(voxels, version=version, packed=dtype != "f8")
    assert (read(content, MIDDLE)[0] == voxels[::-1, ::-1, 10].T).all()


def test_a_volume_is_fetched_once_for_all_reads_of_its_slices():
    asked: list = []
    volumes, content = Volumes(), nifti()
    for names in (ALL[:8], ALL[8:16], ALL[16:], ALL[:8]):
        assert all(isinstance(each, np.ndarray) for each in read(content, *names, volumes=volumes, asked=asked))
    assert asked == [(0, len(content))]


def test_volumes_in_order_are_unpacked_without_a_new_beginning(monkeypatch):
    monkeypatch.setattr(stream, "REQUEST_BYTES", 8192)
    four = np.stack([head() + number for number in range(3)], axis=3)
    content, asked = nifti(four), []
    volumes = Volumes()
    for number in range(3):
        (picture,) = read(content, f"t={number},z=10", volumes=volumes, asked=asked)
        assert (picture == four[::-1, ::-1, 10, number].T).all()
    assert [start for start, _ in asked] == sorted({start for start, _ in asked}), "bytes were fetched twice"
    (again,) = read(content, "t=0,z=10", volumes=volumes)
    assert (again == four[::-1, ::-1, 10, 0].T).all()


def test_of_the_first_volume_no_more_is_fetched_than_it_needs(monkeypatch):
    monkeypatch.setattr(stream, "REQUEST_BYTES", 4096)
    content, asked = nifti(np.stack([head()] * 30, axis=3), packed=False), []
    read(content, "t=0,z=10", asked=asked)
    assert sum(length for _, length in asked) < len(content) / 20


def test_a_gzip_file_of_several_streams_is_read():
    plain = nifti(packed=False)
    parts = [plain[start : start + 5000] for start in range(0, len(plain), 5000)]
    assert (read(b"".join(map(gzip.compress, parts)), MIDDLE)[0] == head()[::-1, ::-1, 10].T).all()


def test_damage_is_the_reason_of_each_slice():
    content = nifti()
    flipped = bytearray(content)
    flipped[len(content) // 2] ^= 0xFF
    wrong_checksum = content[:-8] + bytes(4) + content[-4:]
    for damaged in (content[: len(content) // 2], bytes(flipped), wrong_checksum):
        asked: list = []
        assert read(damaged, *ALL[:3], asked=asked) == ["truncated"] * 3
        assert len(asked) == 1, "each slice unpacks the file again"


def test_whole_voxels_before_a_cut_checksum_are_read_and_noted():
    content = nifti()
    assert not known(content)["cut"]
    assert known(content[:-6])["cut"]


def test_a_slice_that_is_not_there_has_a_reason():
    assert read(nifti(), "z=20", "t=1,z=0", "z=19")[:2] == ["truncated", "truncated"]


def test_after_a_failed_read_a_file_is_read_anew():
    content, volumes, fails = nifti(), Volumes(), [True]

    def fetch(start: int, length: int) -> bytes:
        if fails.pop() if fails else False:
            raise StorageError("read_failed", "the network is gone")
        return content[start : start + length]

    with pytest.raises(StorageError):
        volumes.read("/none/a.nii.gz", "v", len(content), fetch, [MIDDLE])
    (found,) = volumes.read("/none/a.nii.gz", "v", len(content), fetch, [MIDDLE])
    assert isinstance(found, bytes)


def test_what_a_volume_tells_is_of_all_its_slices():
    facts = known(nifti())
    assert facts["window"] == known(nifti(), "z=2")["window"]
    assert (facts["whole_numbers"], facts["values"] > 500, facts["flat"] < 0.2) == (True, True, True)
    mask = known(nifti((head() > 0).astype(np.uint8)))
    assert (mask["values"], mask["flat"] > 0.8) == (2, True)
    halved = with_header(nifti(head() - 2000, packed=False), 112, struct.pack("<2f", 0.5, 0))
    assert (known(halved)["lowest"], known(halved)["below_zero"] > 0.4) == (-1000, True)
    low, high = known(with_header(nifti(packed=False), 112, struct.pack("<2f", -1, 0)))["window"]
    assert low > high, "higher values would be darker"


def test_the_only_slice_of_a_file_needs_no_name():
    flat = head()[:, :, 10:11]
    assert (unpack(only_slice(nifti(flat)))[0] == flat[::-1, ::-1, 0].T).all()
    with pytest.raises(ImageError, match="20 slices and was listed as one image"):
        only_slice(nifti())
