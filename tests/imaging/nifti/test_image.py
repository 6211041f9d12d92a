"""Pictures of slices: the window of the volume, square pixels, what shows nothing, and bytes that look like one."""

from contextlib import suppress

import numpy as np
import pytest
from support.each import each
from support.imaging.niftis import head, nifti

from brainray.config import ImageSpec
from brainray.errors import EXCLUSION_REASONS, ImageError
from brainray.imaging.decode import Excluded, decode, luminance, read_header
from brainray.inputs.frames.nifti.reading import Volumes
from brainray.inputs.frames.nifti.slice_file import pack, unpack

SPEC = ImageSpec(image_px=32)


def slice_of(content: bytes, name: str = "z=10") -> bytes:
    (found,) = Volumes().read("/none/v.nii.gz", None, len(content), lambda a, n: content[a : a + n], [name])
    return found


def test_slices_are_as_bright_as_the_others_of_their_volume():
    voxels = head()
    shown = {name: luminance(slice_of(nifti(voxels), name)) for name in ("z=5", "z=14")}
    top = np.percentile(voxels, 99.9)
    for name, number in (("z=5", 5), ("z=14", 14)):
        expected = voxels[::-1, ::-1, number].T / top * 255
        assert abs(shown[name].astype(float) - expected.clip(0, 255)).max() < 2
    assert shown["z=5"].max() < shown["z=14"].max()


def test_scaled_integers_and_floats_give_the_same_picture():
    whole, real = (luminance(slice_of(nifti(voxels))) for voxels in (head(), head().astype(np.float32) / 7))
    assert abs(whole.astype(int) - real).max() <= 1


def test_pixels_are_square_whatever_the_spacing():
    decoded = decode(slice_of(nifti(affine=np.diag([1.0, 2.0, 1.0, 1.0]))), SPEC)
    assert (decoded.width, decoded.height, decoded.format) == (24, 60, "NIfTI")
    assert luminance(slice_of(nifti(affine=np.diag([1e-30, 1.0, 1.0, 1.0])))).size < 10_000


@each("name", ["z=0", "z=1"])
def test_slices_beside_the_head_are_left_out(name):
    with pytest.raises(Excluded, match="blank"):
        decode(slice_of(nifti(), name), SPEC, excluding=("blank",))
    assert decode(slice_of(nifti(), "z=2"), SPEC, excluding=EXCLUSION_REASONS).note is None


def test_voxels_that_are_no_numbers_are_black_and_noted():
    voxels = head().astype(np.float32)
    voxels[voxels == 0] = np.nan
    decoded = decode(slice_of(nifti(voxels)), SPEC)
    assert "no finite numbers" in (decoded.note or "")
    assert luminance(slice_of(nifti(voxels)))[0, 0] == 0


@each("value", [np.nan, np.inf, 0, 7])
def test_a_volume_that_shows_nothing_says_so(value):
    content = slice_of(nifti(np.full((20, 20, 12), value, np.float32)))
    with pytest.raises(ImageError) as caught:
        decode(content, SPEC, excluding=EXCLUSION_REASONS)
    assert caught.value.reason == "not_an_image"


def test_a_mask_is_drawn_where_it_is_wanted_all_the_same():
    content = slice_of(nifti((head() > 0).astype(np.uint8)))
    with pytest.raises(Excluded, match="label_map: its voxels are those of a mask"):
        decode(content, SPEC, excluding=EXCLUSION_REASONS)
    assert set(np.unique(luminance(content))) == {0, 255}
    assert read_header(content).facts.likely == "label_map"


def test_a_slice_of_too_many_pixels_is_refused():
    with pytest.raises(ImageError, match="too_large"):
        decode(slice_of(nifti()), ImageSpec(image_px=32, max_pixels=100))


def test_bytes_that_only_begin_like_a_slice_are_no_defect():
    whole = slice_of(nifti())
    rng = np.random.default_rng(3)
    damaged = [whole[:length] for length in (17, 20, 24, 200, 500, len(whole) - 1)]
    for _ in range(200):
        content = bytearray(whole)
        for at in rng.integers(16, 600, 3):
            content[at] = rng.integers(256)
        damaged.append(bytes(content))
    damaged += [whole.replace(b'"values": ', b'"values": "'), whole.replace(b'"axial"', b'["x"]'), whole[:21] + b"[]"]
    for content in damaged:
        with suppress(ImageError, Excluded):
            decode(content, SPEC, excluding=EXCLUSION_REASONS)


@each("shape", [(0, 5), (5, 0), (0, 0)])
def test_a_slice_without_pixels_is_refused_and_does_not_end_the_run(shape):
    whole = slice_of(nifti())
    facts = {name: value for name, value in unpack(whole)[1].items() if name not in ("shape", "dtype")}
    empty = pack(np.zeros(shape, np.uint8), facts)
    for read in (lambda content: decode(content, SPEC), luminance):
        with pytest.raises(ImageError, match="truncated"):
            read(empty)
    assert read_header(empty).format == "NIfTI"
