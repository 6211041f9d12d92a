import numpy as np
import pytest
from support.each import each
from support.imaging.dicoms import data_set, dicom, items, slice_pixels, written

from brainray.config import ImageSpec
from brainray.errors import EXCLUSION_REASONS, ImageError
from brainray.imaging.decode import Excluded, decode
from brainray.imaging.dicom.series import SeriesFacts

SPEC = ImageSpec(image_px=32)


def facts_of(**attributes) -> SeriesFacts:
    return decode(dicom(**attributes), SPEC, excluding=EXCLUSION_REASONS).facts


def excluded(content: bytes) -> str:
    with pytest.raises(Excluded) as found:
        decode(content, SPEC, excluding=EXCLUSION_REASONS)
    return found.value.reason


def kind(*terms: str) -> dict[str, list[str]]:
    return {"ImageType": ["ORIGINAL", "PRIMARY", *terms]}


@each(
    ("attributes", "reason"),
    [
        ({"Modality": "CT"}, "not_mr"),
        ({"Modality": "SMITH"}, "not_mr"),
        (kind("LOCALIZER"), "localizer"),
        (kind("M", "ND", "LOCALIZER"), "localizer"),
        (kind("DIFFUSION", "NONE", "ND"), "diffusion"),
        (kind("DIFFUSION", "ADC"), "map"),
        (kind("ADC", "UNSPECIFIED"), "map"),
        (kind("P", "ND"), "map"),
        (kind("T2_STAR_UNKNOWN", "T1 MAP"), "map"),
        (kind("PROJECTION IMAGE", "MIP"), "projection"),
        (kind("M", "SWI"), "susceptibility"),
        (kind("M", "ND", "MOSAIC"), "functional"),
        (kind("M", "SUB"), "derived"),
        ({"DiffusionBValue": 1000.0}, "diffusion"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7", "BurnedInAnnotation": "YES"}, "screen_save"),
    ],
)
def test_what_a_coded_attribute_says_for_certain_excludes(attributes, reason):
    content = dicom(**attributes)
    assert excluded(content) == reason
    assert decode(content, SPEC).facts.likely == reason, "--all-series scores it and says what it is"


@each(
    "attributes",
    [
        {},
        kind("M", "ND", "NORM"),
        kind("M_FFE", "M", "FFE"),
        kind("OTHER"),
        {"ImageType": ["DERIVED", "SECONDARY", "MPR"]},
        {"ImageType": None},
        {"Modality": None},
        {"DiffusionBValue": 0.0},
        {"ImageComments": "LOCALIZER", "SeriesDescription": "ax T2 localizer DWI ADC"},
    ],
)
def test_what_is_not_certain_is_scored(attributes):
    assert facts_of(**attributes) is not None


@each(
    ("attributes", "likely"),
    [
        ({"SeriesDescription": "AAHead_Scout"}, "localizer"),
        ({"SeriesDescription": "ep2d_diff_b1000"}, "diffusion"),
        ({"ProtocolName": "gre_field_mapping"}, "map"),
        ({"SeriesDescription": "TOF 3D"}, "projection"),
        ({"BodyPartExamined": "KNEE"}, "other_body_part"),
        ({"BodyPartExamined": "BRAIN"}, None),
        ({"ImageType": ["DERIVED", "SECONDARY", "OTHER"]}, "derived"),
        ({"SeriesDescription": "t1_mprage_sag"}, None),
    ],
)
def test_what_a_description_suggests_is_told(attributes, likely):
    assert facts_of(**attributes).likely == likely


@each(
    ("orientation", "plane"),
    [
        ([1, 0, 0, 0, 1, 0], "axial"),
        ([1, 0, 0, 0, 0, -1], "coronal"),
        ([0, 1, 0, 0, 0, -1], "sagittal"),
        ([1, 0, 0, 0, np.cos(0.5), np.sin(0.5)], "axial"),
        ([1, 0, 0, 0, np.cos(0.78), np.sin(0.78)], "oblique"),
        ([0, 0, 0, 0, 0, 0], None),
        ([1, 0, 0], None),
        (None, None),
    ],
)
def test_the_plane_is_that_of_rows_and_columns(orientation, plane):
    assert (
        facts_of(ImageOrientationPatient=None if orientation is None else list(map(float, orientation))).plane == plane
    )


@each(("field", "tesla"), [(1.5, 1.5), (2.89362, 3.0), (30000, 3.0), (0.35, 0.35), (7, 7.0), (0, None), (1e9, None)])
def test_the_field_is_the_nominal_one(field, tesla):
    assert facts_of(MagneticFieldStrength=field).field_t == (None if tesla is None else pytest.approx(tesla, abs=0.06))


@each(
    ("manufacturer", "vendor"),
    [
        ("SIEMENS", "Siemens"),
        ("GE MEDICAL SYSTEMS", "GE"),
        ("Philips Healthcare", "Philips"),
        ("Jane Doe", "other"),
        (None, None),
    ],
)
def test_the_vendor_is_one_of_a_list(manufacturer, vendor):
    made = data_set(slice_pixels())
    if manufacturer:
        made.Manufacturer = manufacturer
    assert decode(written(made), SPEC).facts.vendor == vendor


@each(
    ("description", "sequence"),
    [("t1_mprage", "T1"), ("Ax T2 FLAIR", "FLAIR"), ("AX T2 FSE", "T2"), ("PD ax", "PD"), ("John Smith", None)],
)
def test_the_weighting_is_one_of_a_list(description, sequence):
    assert facts_of(SeriesDescription=description).sequence == sequence


def test_frames_of_enhanced_mr_tell_by_their_groups():
    groups = items({"MRImageFrameTypeSequence": items({"FrameType": ["ORIGINAL", "PRIMARY", "DIFFUSION", "NONE"]})})
    assert excluded(dicom(PerFrameFunctionalGroupsSequence=groups)) == "diffusion"


@each("sop_class", ["1.2.840.10008.5.1.4.1.1.88.33", "1.2.840.10008.5.1.4.1.1.104.1", "1.2.840.10008.5.1.4.1.1.481.5"])
def test_objects_without_pixels_are_told_from_truncated_images(sop_class):
    made = data_set(slice_pixels(), SOPClassUID=sop_class, PixelData=None)
    assert excluded(written(made)) == "no_pixels"


@each(
    ("sop_class", "attributes", "reason"),
    [
        ("1.3.12.2.1107.5.9.1", {"Rows": None}, "no_pixels"),  # CSA Non-Image Storage of Siemens
        ("1.3.12.2.1107.5.9.1", {}, "truncated"),
        ("1.3.46.670589.11.0.0.12.2", {"Rows": None, "PerformedProcedureStepID": None}, "truncated"),  # it may be cut
        ("1.2.840.10008.5.1.4.1.1.4", {"Rows": None}, "truncated"),
    ],
)
def test_what_a_scanner_keeps_for_itself_is_no_truncated_image(sop_class, attributes, reason):
    made = data_set(slice_pixels(), SOPClassUID=sop_class, PixelData=None, PerformedProcedureStepID="1")
    for name in attributes:
        delattr(made, name)
    if reason == "no_pixels":
        assert excluded(written(made)) == reason
        return
    with pytest.raises(ImageError, match=f"^{reason}"):
        decode(written(made), SPEC, excluding=EXCLUSION_REASONS)
