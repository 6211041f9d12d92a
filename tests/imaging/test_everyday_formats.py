"""Formats of cameras, scanners and archives: HEIC, JPEG of 12 bits, images in gzip, files of several pages."""

import gzip
import io
import sys
import zlib

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.data import get_testdata_file
from pydicom.encaps import get_frame
from support.each import each
from support.imaging.dicoms import dicom
from support.imaging.encoded import HEIC, drawing, packed

from brainray.config import ImageSpec
from brainray.errors import ImageError
from brainray.imaging import gzipped
from brainray.imaging.decode import Header, decode, decode_with_luminance, luminance, read_header
from brainray.imaging.dicom.image import DicomImage
from brainray.imaging.dicom.pictures_apart import decode_12_bits

SPEC = ImageSpec(image_px=64, channels=1)
DECOMPRESSOBJ = zlib.decompressobj
PAGES = "it has several pages or frames, of which the first is scored"


def refusal(data: bytes, spec: ImageSpec = SPEC) -> ImageError:
    with pytest.raises(ImageError) as caught:
        decode(data, spec)
    return caught.value


@pytest.fixture(scope="module")
def twelve_bits() -> tuple[pydicom.Dataset, bytes]:
    """A picture of pydicom's tests in JPEG of 12 bits, and its JPEG alone."""
    dataset = pydicom.dcmread(get_testdata_file("JPGExtended.dcm"))
    return dataset, get_frame(dataset.PixelData, 0, number_of_frames=1)


def test_heic_is_read_and_upright():
    found = decode(HEIC, SPEC)
    assert (found.format, found.width, found.height, found.note) == ("HEIF", 48, 64, None)
    expected = np.asarray(Image.fromarray(drawing(48, 64)).transpose(Image.Transpose.ROTATE_270), float)
    assert np.abs(luminance(HEIC).astype(float) - expected).mean() < 12
    assert refusal(HEIC[:-40]).reason == "truncated"
    assert refusal(HEIC, ImageSpec(max_pixels=48 * 64 - 1)).reason == "too_large"
    assert "HEIF" not in Image.OPEN, "Pillow itself stays as the user has it"


def test_a_heic_refused_as_too_large_is_not_unpacked_for_its_row(monkeypatch):
    monkeypatch.setattr("brainray.imaging.decode.heif_image", lambda *_: pytest.fail("its pixels were unpacked"))
    monkeypatch.setattr("pi_heif.HeifFile.to_pillow", lambda _: pytest.fail("its pixels were unpacked"))
    monkeypatch.setattr("brainray.imaging.heif.decoded_apart", lambda decoder, *arguments: decoder(*arguments))
    assert read_header(HEIC) == Header(width=48, height=64, format="HEIF")


def test_heic_without_its_extra_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "pi_heif", None)
    error = refusal(HEIC)
    assert error.reason == "unsupported"
    assert "pip install 'brainray[heif]', then run again with --retry-unread" in error.detail


def test_dicom_of_12_bits_has_the_values_that_its_makers_give(twelve_bits):
    dataset, jpeg = twelve_bits
    values = decode_12_bits(jpeg, (256, 1024))
    assert (values[420, 140], values[230, 120]) == (244, 95)  # as another library has them, in the tests of pydicom
    content = io.BytesIO()
    dataset.save_as(content)
    grey = np.asarray(DicomImage.open(content.getvalue(), 10**8).picture().image)
    assert grey.shape == (1024, 256)
    assert int(grey[420, 140]) > 1.5 * int(grey[230, 120]) > 100


def test_a_jpeg_of_12_bits_is_scaled_as_other_wide_images_are(twelve_bits):
    _, jpeg = twelve_bits
    found, grey = decode_with_luminance(jpeg, SPEC)
    assert (found.format, found.width, found.height) == ("JPEG", 256, 1024)
    assert (grey[420, 140], grey[230, 120]) == (luminance(jpeg)[420, 140], luminance(jpeg)[230, 120])
    assert int(grey[420, 140]) > 1.5 * int(grey[230, 120]) > 100
    assert refusal(jpeg[: len(jpeg) // 2]).reason == "truncated"
    assert refusal(jpeg, ImageSpec(max_pixels=1000)).reason == "too_large"


def test_a_jpeg_of_12_bits_without_its_extra_says_how_to_install_it(twelve_bits, monkeypatch):
    monkeypatch.setitem(sys.modules, "gdcm", None)
    error = refusal(twelve_bits[1])
    assert error.reason == "unsupported" and "pip install 'brainray[dicom]'" in error.detail


@each("content", [packed(drawing()), packed(drawing(), "JPEG"), dicom(WindowCenter=900, WindowWidth=1800)])
def test_an_image_in_gzip_is_the_image(content):
    for zipped in (gzip.compress(content), gzip.compress(content[:100]) + gzip.compress(content[100:]) + b"more"):
        found, grey = decode_with_luminance(zipped, SPEC)
        assert (found.pixels == decode(content, SPEC).pixels).all()
        assert (grey == luminance(content)).all() and (luminance(zipped) == grey).all()
        assert read_header(zipped) == read_header(content) != Header()


class Watched:
    """One of zlib's decompressors, which tells how many bytes it is given at a time."""

    def __init__(self, member, lengths):
        self._member, self._lengths = member, lengths

    def __getattr__(self, name):
        return getattr(self._member, name)

    def decompress(self, content, most):
        self._lengths.append(len(content))
        return self._member.decompress(content, most)


def test_a_file_of_many_small_gzip_members_is_not_copied_for_each_of_them(monkeypatch):
    read = []
    monkeypatch.setattr(gzipped.zlib, "decompressobj", lambda wbits: Watched(DECOMPRESSOBJ(wbits=wbits), read))
    empty, content = gzip.compress(b""), packed(drawing())
    zipped = empty * 9_000 + gzip.compress(content) + empty * 9_000
    assert gzipped.unzipped(zipped, 100_000) == content
    assert max(read) <= 64 << 10, "zlib copies what follows a member"


def test_gzip_members_of_any_length_are_joined_in_order():
    rng = np.random.default_rng(1)
    parts = [rng.integers(256, size=length, dtype=np.uint8).tobytes() for length in (65_510, 1, 65_536, 0, 200_000)]
    parts.append(bytes(17 << 20))  # more than one step of unpacking from one piece
    assert gzipped.unzipped(b"".join(map(gzip.compress, parts)), 100_000_000) == b"".join(parts)


def test_damaged_gzip_says_so_and_a_bomb_is_not_unpacked():
    whole = gzip.compress(packed(drawing()))
    assert refusal(whole[:-30]).detail == "its gzip file ends too early"
    assert refusal(whole[:40] + b"\0" * 20 + whole[60:]).reason == "truncated"
    assert refusal(gzip.compress(bytes(9_000_000)), ImageSpec(max_pixels=1_000_000)).reason == "too_large"
    assert refusal(gzip.compress(whole)).detail == "it is a PDF, archive or video", "packed twice is an archive"


@each("format", ["TIFF", "GIF", "PNG", "WEBP", "AVIF"])
def test_of_several_pages_the_first_is_scored_and_the_row_says_so(format):
    first, second = (Image.fromarray(picture) for picture in (drawing(), 255 - drawing()))
    several = packed(first, format, save_all=True, append_images=[second, second])
    alone = packed(first, format)
    found = decode(several, SPEC)
    assert found.note == PAGES
    assert np.abs(found.pixels.astype(float) - decode(alone, SPEC).pixels).mean() < 3
    assert decode(alone, SPEC).note is None


def test_reduced_copies_in_a_tiff_are_no_pages():
    sink = io.BytesIO()
    picture = Image.fromarray(drawing())
    small = picture.resize((64, 48))
    small.encoderinfo = {"tiffinfo": {254: 1}}
    picture.save(sink, "TIFF", save_all=True, append_images=[small])
    assert decode(sink.getvalue(), SPEC).note is None
