import io
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)
from support.each import each
from support.imaging.dicoms import data_set, dicom, items, slice_pixels, written

from brainray.config import ImageSpec
from brainray.errors import ImageError
from brainray.imaging.decode import decode, luminance

PIXELS = slice_pixels()
WINDOW = {"WindowCenter": 2048, "WindowWidth": 4096}
SPEC = ImageSpec(image_px=32)


def shown(content: bytes) -> np.ndarray:
    return luminance(content)


def fails(content: bytes) -> tuple[str, str]:
    with pytest.raises(ImageError) as found:
        decode(content, SPEC)
    return found.value.reason, found.value.detail


@each(
    "syntax",
    [
        ImplicitVRLittleEndian,
        ExplicitVRLittleEndian,
        ExplicitVRBigEndian,
        DeflatedExplicitVRLittleEndian,
        RLELossless,
        JPEG2000Lossless,
        JPEGLSLossless,
    ],
    ids=lambda syntax: syntax.name,
)
def test_every_lossless_transfer_syntax_gives_the_same_picture(syntax):
    as_it_is = shown(dicom(**WINDOW))
    assert as_it_is.shape == PIXELS.shape
    assert as_it_is.std() > 20
    made = data_set(PIXELS, **WINDOW)
    if syntax == ExplicitVRBigEndian:
        made.PixelData = PIXELS.astype(">u2").tobytes()
    assert (shown(written(made, syntax)) == as_it_is).all()


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian], ids=lambda syntax: syntax.name)
def test_a_data_set_without_preamble_is_read(syntax):
    assert (shown(dicom(syntax=syntax, preamble=False, **WINDOW)) == shown(dicom(**WINDOW))).all()


PACKAGED = {  # files that come with pydicom: what they are, and the mean of their luminance as another viewer has it
    "SC_rgb_jpeg_dcmtk.dcm": "JPEG baseline, YBR",
    "SC_rgb_dcmtk_+eb+cy+np.dcm": "JPEG extended of 8 bits",
    "SC_rgb_rle.dcm": "RLE in three planes",
    "SC_rgb_jls_lossy_sample.dcm": "JPEG-LS, near-lossless",
    "SC_ybr_full_422_uncompressed.dcm": "YBR_FULL_422 that is not compressed",
    "SC_rgb_small_odd_big_endian.dcm": "big endian, an odd number of bytes",
}


@each("name", PACKAGED)
def test_the_same_colours_in_every_coding_are_the_same_picture(name):
    content = Path(str(get_testdata_file(name, download=False))).read_bytes()
    got = luminance(content)
    whole = luminance(Path(str(get_testdata_file("SC_rgb_dcmtk_+eb+cr.dcm", download=False))).read_bytes())
    if got.shape == whole.shape:
        assert np.abs(got.astype(int) - whole).mean() < 2
    else:
        assert got.shape == (3, 3)
        assert got.std() > 20


def test_a_palette_gives_its_colours():
    content = Path(str(get_testdata_file("examples_palette.dcm", download=False))).read_bytes()
    expected = pydicom.pixels.apply_color_lut(
        pydicom.dcmread(io.BytesIO(content)).pixel_array, pydicom.dcmread(io.BytesIO(content))
    )
    decoded = decode(content, ImageSpec(image_px=64, channels=3))
    assert (decoded.width, decoded.height) == expected.shape[1::-1]
    assert decoded.pixels.std() > 1


@each("bits", [8, 16])
def test_a_palette_whose_words_hold_values_of_8_bits_is_not_black(bits):
    palette = {f"{colour}PaletteColorLookupTable" for colour in ("Red", "Green", "Blue")}
    tables = {f"{name}Descriptor": [256, 0, bits] for name in palette}
    tables |= {f"{name}Data": np.arange(256, dtype=np.uint16).tobytes() for name in palette}
    grey = (PIXELS // 16).astype(np.uint8)
    assert (shown(dicom(grey, PhotometricInterpretation="PALETTE COLOR", **tables)) == grey).all()


def test_a_black_picture_of_a_bright_palette_stays_black():
    """Its depth is that of the table, not of the colours that the picture happens to have: noise would be scored."""
    palette = {f"{colour}PaletteColorLookupTable" for colour in ("Red", "Green", "Blue")}
    tables = {f"{name}Descriptor": [512, 0, 16] for name in palette}
    tables |= {f"{name}Data": (np.arange(512, dtype=np.uint16) * 128).tobytes() for name in palette}
    grey = PIXELS.astype(np.uint16) % 2
    with pytest.raises(ImageError, match="all have one brightness"):
        shown(dicom(grey, PhotometricInterpretation="PALETTE COLOR", **tables))


def test_monochrome1_is_shown_as_monochrome2():
    inverted = dicom(4095 - PIXELS, PhotometricInterpretation="MONOCHROME1", **WINDOW)
    assert np.abs(shown(inverted).astype(int) - shown(dicom(**WINDOW))).max() <= 1


@each(("kind", "below"), [(np.int16, 1000), (np.uint16, 0)])
def test_rescale_gives_the_values_that_the_window_is_of(kind, below):
    stored = (PIXELS.astype(int) // 2 - below).astype(kind)
    rescaled = dicom(stored, RescaleSlope=2, RescaleIntercept=2 * below, **WINDOW)
    assert np.abs(shown(rescaled).astype(int) - shown(dicom(**WINDOW))).max() <= 1


def test_eight_bits_are_read():
    eight = (PIXELS // 16).astype(np.uint8)
    assert (shown(dicom(eight, WindowCenter=128, WindowWidth=256)) == eight).mean() > 0.95


@each("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
def test_windows_follow_their_formulas(function):
    """PS3.3, C.11.2.1.2 and C.11.2.1.3, in steps of the 256 grey levels."""
    x = np.arange(0, 4096, 13, dtype=np.uint16).reshape(1, -1)
    c, w = 1000.0, 1500.0
    linear = np.clip((x - (c - 0.5)) / (w - 1) + 0.5, 0, 1)
    exact = np.clip((x - c) / w + 0.5, 0, 1)
    expected = {"LINEAR": linear, "LINEAR_EXACT": exact, "SIGMOID": 1 / (1 + np.exp(-4 * (x - c) / w))}[function]
    got = shown(dicom(x, WindowCenter=[c, 40], WindowWidth=[w, 80], VOILUTFunction=function))
    assert np.abs(got - 255 * expected).max() <= 0.51


def test_a_table_of_values_of_interest_is_applied():
    table = {"LUTDescriptor": [4096, 0, 16], "LUTData": (np.arange(4096)[::-1] * 16).astype(np.uint16).tobytes()}
    made = data_set(PIXELS, VOILUTSequence=items({}))
    item = made.VOILUTSequence[0]
    item.add_new("LUTDescriptor", "US", table["LUTDescriptor"])
    item.add_new("LUTData", "OW", table["LUTData"])
    got = shown(written(made))
    assert np.abs(got.astype(int) - (255 - shown(dicom(**WINDOW)).astype(int))).max() <= 2


def test_without_a_window_percentiles_become_black_and_white():
    pixels = PIXELS.copy()
    pixels[0, 0] = 4095  # one hot pixel does not darken all others
    got = shown(dicom(pixels // 8))
    assert got.max() == 255
    assert np.percentile(got, 99) > 150


def test_a_picture_with_a_window_of_no_width_is_shown():
    assert shown(dicom(WindowCenter=100, WindowWidth=0)).std() > 20


def test_overlays_in_unused_bits_are_not_shown():
    overlaid = PIXELS | (np.eye(64, dtype=np.uint16) << 15)
    assert (shown(dicom(overlaid, **WINDOW)) == shown(dicom(**WINDOW))).all()


def test_the_groups_of_an_enhanced_frame_have_its_window():
    groups = items(
        {
            "FrameVOILUTSequence": items(WINDOW),
            "PixelValueTransformationSequence": items({"RescaleSlope": 1, "RescaleIntercept": 0}),
        }
    )
    enhanced = dicom(SharedFunctionalGroupsSequence=groups)
    assert (shown(enhanced) == shown(dicom(**WINDOW))).all()
    assert (shown(enhanced) != shown(dicom())).any()


def test_pixels_that_end_too_early_are_truncated():
    content = dicom()
    assert fails(content[:-100])[0] == "truncated"
    assert fails(content[:400]) == ("truncated", "it ends before its pixels")


def test_bytes_after_the_pixels_are_noted():
    made = data_set(PIXELS, **WINDOW)
    made.PixelData += bytes(200)
    decoded = decode(written(made), SPEC)
    assert decoded.note == "it has 200 bytes after its pixels"


@each(
    ("attributes", "reason"),
    [
        ({"Rows": 60000, "Columns": 60000}, "too_large"),
        ({"NumberOfFrames": 1000}, "unsupported"),
        ({"Rows": None}, "truncated"),
        ({"PixelData": None}, "truncated"),
        ({"BitsAllocated": 7}, "truncated"),
    ],
)
def test_headers_that_promise_what_there_is_not_are_refused(attributes, reason):
    assert fails(dicom(**attributes))[0] == reason


def test_a_compressed_picture_of_another_size_is_not_unpacked():
    small = pydicom.dcmread(io.BytesIO(dicom(slice_pixels(32), JPEG2000Lossless)))
    small.Rows = small.Columns = 64
    sink = io.BytesIO()
    small.save_as(sink)
    assert fails(sink.getvalue()) == (
        "unsupported",
        "its compressed picture has 32 x 32 pixels, its header says 64 x 64",
    )


@each(
    ("syntax", "said"), [("1.2.840.10008.1.2.4.100", "MPEG2"), ("1.2.3.4.5", "an unknown or private transfer syntax")]
)
def test_other_transfer_syntaxes_are_named_and_not_read(syntax, said):
    made = pydicom.dcmread(io.BytesIO(dicom(syntax=RLELossless)))
    made.file_meta.TransferSyntaxUID = syntax
    sink = io.BytesIO()
    pydicom.dcmwrite(sink, made, implicit_vr=False, little_endian=True, enforce_file_format=True)
    reason, detail = fails(sink.getvalue())
    assert reason == "unsupported"
    assert said in detail


def test_a_deflated_file_unpacks_within_a_bound():
    bomb = data_set(PIXELS)
    bomb.add_new(0x00091010, "OB", bytes(8 << 20))
    with pytest.raises(ImageError) as found:
        decode(written(bomb, DeflatedExplicitVRLittleEndian), ImageSpec(max_pixels=1_000_000))
    assert found.value.reason == "too_large"


def test_a_large_deflated_file_that_is_padded_is_read():
    large = data_set(PIXELS)
    large.add_new(0x00091010, "OB", bytes(17 << 20))
    content = written(large, DeflatedExplicitVRLittleEndian) + b"\0"
    assert decode(content, ImageSpec(max_pixels=10_000_000)).width == PIXELS.shape[1]


@each(
    ("name", "value"),
    [
        ("SamplesPerPixel", 1),
        ("PhotometricInterpretation", "MONOCHROME2"),
        ("PixelRepresentation", 0),
        ("BitsStored", 16),
    ],
)
def test_an_old_export_that_lacks_an_attribute_of_its_pixels_is_shown_and_told(name, value):
    whole = decode(dicom(BitsStored=16, HighBit=15), SPEC)
    lacking = decode(dicom(**{"BitsStored": 16, "HighBit": 15} | {name: None}), SPEC)
    assert np.array_equal(lacking.pixels, whole.pixels)
    assert lacking.note == f"its header lacks and is taken to have {name} as {value}"
