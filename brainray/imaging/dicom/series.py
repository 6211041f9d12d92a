"""What the header tells of the series that a picture belongs to, and whether a model that knows single anatomical
slices can score it.

Archives are mostly localisers, diffusion, maps, projections and screen saves. What is certain by a coded attribute
excludes a picture; what its description suggests is told and excludes nothing, for descriptions are free text. All
values come from lists of this file, are numbers, or are UIDs of digits: no text of the header leaves it.
"""

import math
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from brainray.errors import ExclusionReason

from .header import NO_PIXELS, frame_view, has, is_no_image, number_of, texts_of, value_of

if TYPE_CHECKING:
    from pydicom import Dataset


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesFacts:
    """The columns of a row that a medical header gives; None for unknown."""

    modality: str | None = None  # a defined term of PS3.3, C.7.3.1.1.1, or OTHER
    likely: str | None = None  # what the picture seems to be, where that is no anatomical slice
    plane: str | None = None  # axial, coronal, sagittal or oblique
    sequence: str | None = None  # weighting: T1, T2, FLAIR ...
    field_t: float | None = None  # tesla
    vendor: str | None = None
    # They lead to a person through any archive that holds the image: rows have them on request only.
    study_uid: str | None = None
    series_uid: str | None = None
    instance_uid: str | None = None
    position_mm: float | None = None  # of the slice along the normal of its plane
    number: int | None = None  # of the slice in its series


@dataclass(frozen=True, slots=True)
class Exclusion:
    """Why a picture is none that the model knows."""

    reason: ExclusionReason
    detail: str


def _terms(*texts: str) -> frozenset[str]:
    """Terms that stand in texts, separated by blanks; `_` stands for a blank, too."""
    found = frozenset(term for text in texts for term in text.split())
    return found | {term.replace("_", " ") for term in found}


# PS3.3, C.7.3.1.1.1
_MODALITIES = _terms(
    "ANN AR ASMT AU BDUS BI BMD CFM CR CT CTPROTOCOL DG DMS DOC DX ECG EEG EMG EOG EPS ES FID GM HC HD IO IOL IVOCT",
    "IVUS KER KO LEN LS M3D MG MR NM OAM OCT OP OPM OPT OPTBSV OPTENF OPV OSS OT PA PLAN POS PR PT PX REG RESP RF RG",
    "RTDOSE RTIMAGE RTINTENT RTPLAN RTRAD RTRECORD RTSEGANN RTSTRUCT RWV SEG SM SMR SR SRF STAIN TEXTUREMAP TG US VA",
    "XA XAPROTOCOL XC",
)
_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"  # and its multi-frame kinds, which begin with it
# Terms of Image Type and Frame Type, from the third value on (PS3.3, C.8.3.1.1.1 and C.8.13.3.1.1; vendors add their
# own), that tell for certain what a picture is, in the order in which they are looked for.
_TYPES: tuple[tuple[ExclusionReason, frozenset[str], str], ...] = (
    ("localizer", _terms("LOCALIZER SCOUT"), "its image type says localizer"),
    (
        "map",
        _terms(
            "ADC AVERAGE_DC FA EADC EXP_ADC CBF CBV CBV_CORR RCBF RCBV MTT TTP PBP KTRANS VE VP T1_MAP T2_MAP T2*_MAP",
            "T2STAR_MAP R2_MAP R2*_MAP R2STAR_MAP B0_MAP B1_MAP FIELD_MAP PHASE_MAP PHASE P REAL R IMAGINARY I",
            "VELOCITY_MAP VELOCITY QSM SPECTROSCOPY TEMPERATURE RELATIVE_ANISOTROPY FRACTIONAL_ANISOTROPY STDDEV",
            "TENSOR TENSOR_B0",
        ),
        "its image type is that of a parametric map, a phase or a part of a complex image",
    ),
    (
        "diffusion",
        _terms("DIFFUSION DIFFUSION_ANISO TRACEW ISOTROPIC"),
        "it is diffusion-weighted by its image type or b-value",
    ),
    (
        "projection",
        _terms("MIP MINIP MNIP MPR_THICK PROJECTION_IMAGE MAX_IP MIN_IP"),
        "its image type is that of a projection, which shows many slices at once",
    ),
    ("susceptibility", _terms("SWI SWI_MAG SWI_PHASE"), "its image type says susceptibility-weighted"),
    (
        "functional",
        _terms("MOSAIC FMRI BOLD PERFUSION ASL MOCO_FMRI"),
        "its image type is that of functional or perfusion imaging, or of a mosaic of many slices",
    ),
    (
        "derived",
        _terms("SUBTRACTION SUBTRACT SUB CSA_REPORT CSA_RESULT"),
        "its image type is that of a subtraction or a report",
    ),
)
# Words of descriptions, which people write: they make a picture likely to be something, and exclude nothing.
_WORDS = {
    "localizer": r"local|loc\b|scout|survey|3[ -]?plane|three[ -]?plane|aahead|topogram",
    "diffusion": r"dwi|dti|diff|adc|trace[w]?|b1000|b-?value|hardi",
    "map": r"\bmap|\bfa\b|\bcb[fv]\b|\brcb[fv]\b|\bmtt\b|\bttp\b|qsm|field.?map|phase|b0map",
    "projection": r"\bmip|\bminip|\bmnip|tof|angio|\bmra\b",
    "susceptibility": r"\bswi|\bswan|suscept|venobold|hemo",
    "functional": r"bold|fmri|perf|\basl\b|dsc\b|dce\b|resting|rest.?state|\bmosaic",
    "screen_save": r"screen|capture|report|snapshot|\bkey.?image|dose.?info|annotat",
    "other_body_part": r"spine|cerv|thorac|lumb|knee|should|abdom|pelvi|prostat|breast|cardi|liver|neck|orbit",
}
_LIKELY = {name: re.compile(pattern, re.IGNORECASE) for name, pattern in _WORDS.items()}
_DESCRIPTIONS = ("SeriesDescription", "ProtocolName", "SequenceName", "AcquisitionProtocolName")
_HEAD = re.compile(r"BRAIN|HEAD|SKULL|CRAN|CEREB|NEURO|PITUIT|SELLA|IAC|ORBIT")
_WEIGHTINGS = {
    "FLAIR": r"flair|dark.?fluid|tirm|fluid_attenuated",
    "T2*": r"t2\*|t2.?star|\bgre\b|hemo|swi|swan",
    "T1": r"t1|mp.?rage|spgr|bravo|vibe|tfl|fspgr",
    "T2": r"t2|\bfiesta|\bciss|\bspace",
    "PD": r"\bpd|proton",
}
_SEQUENCES = {name: re.compile(pattern, re.IGNORECASE) for name, pattern in _WEIGHTINGS.items()}
_VENDORS = {
    "Siemens": r"siemens",
    "GE": r"\bge\b|general electric",
    "Philips": r"philips",
    "Canon": r"canon|toshiba",
    "Fujifilm": r"hitachi|fuji",
    "United Imaging": r"uih|united imaging",
    "Bruker": r"bruker",
    "Hyperfine": r"hyperfine",
    "Neusoft": r"neusoft",
}
_MANUFACTURERS = {name: re.compile(pattern, re.IGNORECASE) for name, pattern in _VENDORS.items()}
_PLANES = ("sagittal", "coronal", "axial")  # by the axis of the patient that the picture is square to: x, y, z
_OBLIQUE = math.cos(math.radians(35))  # head scans are tilted by up to 30 degrees along the skull base
_UID = re.compile(r"(?=.{3,64}$)[0-9]+(?:\.[0-9]+)+")  # PS3.5, 9.1; zeros before a digit occur
_GAUSS = 100.0  # a field above this is in gauss, which some scanners write
_MOST_TESLA = 30.0
_FARTHEST_MM = 1e5
_HIGHEST_NUMBER = 2**31


def describe(dataset: "Dataset") -> tuple[SeriesFacts, Exclusion | None]:
    """What the header tells of a picture, and why it is excluded; None where it is not."""
    view = frame_view(dataset)
    modality = _modality(view)
    excluded = _certain(view, modality)
    facts = SeriesFacts(
        modality=modality,
        likely=excluded.reason if excluded else _likely(view),
        plane=_plane(view),
        sequence=sequence_of((*_described(view), *texts_of(view, "AcquisitionContrast"))),
        field_t=nominal_field(number_of(view, "MagneticFieldStrength")),
        vendor=vendor_of(texts_of(view, "Manufacturer")),
        study_uid=_uid(dataset, "StudyInstanceUID"),
        series_uid=_uid(dataset, "SeriesInstanceUID"),
        instance_uid=_uid(dataset, "SOPInstanceUID"),
        position_mm=_position(view),
        number=_number(view),
    )
    return facts, excluded


def _certain(view: "Dataset", modality: str | None) -> Exclusion | None:
    """What coded attributes say for certain."""
    if is_no_image(view):
        return Exclusion("no_pixels", NO_PIXELS)
    if modality not in (None, "MR"):
        return Exclusion("not_mr", f"its modality is {modality}, and the model knows MR")
    kinds = {*texts_of(view, "ImageType")[2:], *texts_of(view, "FrameType")[2:]}
    found = type_exclusion(kinds, b_value=number_of(view, "DiffusionBValue") or 0)
    if found is not None:
        return found
    captured = (*texts_of(view, "SOPClassUID"), "")[0].startswith(_SECONDARY_CAPTURE)
    if captured and ("YES" in texts_of(view, "BurnedInAnnotation") or number_of(view, "SamplesPerPixel") == 3):
        return Exclusion("screen_save", "it is a secondary capture in colour, or with text in its pixels")
    if has(view, "FloatPixelData") or has(view, "DoubleFloatPixelData"):
        return Exclusion("map", "its pixels are real numbers, as those of parametric maps")
    return None


def type_exclusion(kinds: Collection[str], *, b_value: float = 0) -> Exclusion | None:
    """What the terms of an image type, from the third on, say for certain, and a b-value."""
    for reason, terms, detail in _TYPES:
        if not terms.isdisjoint(kinds) or (reason == "diffusion" and b_value > 0):
            return Exclusion(reason, detail)
    return None


def likely_of(texts: Iterable[str]) -> str | None:
    """What words of a description suggest that a picture is, where that is no anatomical slice of a head."""
    return _first(_LIKELY, texts)


def sequence_of(texts: Iterable[str]) -> str | None:
    """The weighting by words of a description: T1, T2, FLAIR ..."""
    return _first(_SEQUENCES, texts)


def vendor_of(texts: Iterable[str]) -> str | None:
    """The vendor of a scanner by what it calls itself; `other` for one that is not known."""
    return _first(_MANUFACTURERS, texts, otherwise="other")


def modality_of(text: str) -> str:
    """The modality, OTHER for a term that the standard does not have."""
    return text if text in _MODALITIES else "OTHER"


def _likely(view: "Dataset") -> str | None:
    """What the header suggests that a picture is, where that is no anatomical slice of a head."""
    found = likely_of(_described(view))
    if found is not None:
        return found
    parts = texts_of(view, "BodyPartExamined")
    if parts and not any(map(_HEAD.search, parts)):
        return "other_body_part"
    if "EP" in texts_of(view, "ScanningSequence"):
        return "functional"
    if (*texts_of(view, "SOPClassUID"), "")[0].startswith(_SECONDARY_CAPTURE):
        return "screen_save"
    return "derived" if texts_of(view, "ImageType")[:1] == ("DERIVED",) else None


def _described(view: "Dataset") -> tuple[str, ...]:
    return tuple(text for keyword in _DESCRIPTIONS for text in texts_of(view, keyword))


def _first(words: dict[str, re.Pattern[str]], texts: Iterable[str], *, otherwise: str | None = None) -> str | None:
    """The first name whose pattern a text has; `otherwise` where there are texts and none has any."""
    texts = tuple(texts)
    found = (name for name, pattern in words.items() if any(map(pattern.search, texts)))
    return next(found, otherwise if texts else None)


def _modality(view: "Dataset") -> str | None:
    texts = texts_of(view, "Modality")
    return modality_of(texts[0]) if texts else None


def _uid(dataset: "Dataset", keyword: str) -> str | None:
    """A UID that is one: whatever else stands in its place may name a person."""
    found = (*texts_of(dataset, keyword), "")[0].strip("\0")
    return found if _UID.fullmatch(found) else None


def _normal(view: "Dataset") -> tuple[float, ...] | None:
    """The unit vector square to rows and columns (PS3.3, C.7.6.2.1.1); None where they are no unit vectors."""
    try:
        rx, ry, rz, cx, cy, cz = (float(value) for value in value_of(view, "ImageOrientationPatient"))
    except (TypeError, ValueError):
        return None
    normal = (ry * cz - rz * cy, rz * cx - rx * cz, rx * cy - ry * cx)
    length = math.hypot(*normal)
    if not 0.9 < length < 1.1:  # not so for NaN, too
        return None
    return tuple(part / length for part in normal)


def _plane(view: "Dataset") -> str | None:
    normal = _normal(view)
    if normal is None:
        return None
    along = [abs(part) for part in normal]
    return _PLANES[along.index(max(along))] if max(along) >= _OBLIQUE else "oblique"


def _position(view: "Dataset") -> float | None:
    """Where the slice lies along its normal, in mm; without its place in the patient, the slice location."""
    normal = _normal(view)
    try:
        place = [float(value) for value in value_of(view, "ImagePositionPatient")]
        found = sum(a * b for a, b in zip(normal or (), place, strict=True))
    except (TypeError, ValueError):
        located = number_of(view, "SliceLocation")
        return None if located is None or abs(located) > _FARTHEST_MM else round(located, 2)
    return round(found, 2) if abs(found) <= _FARTHEST_MM else None


def _number(view: "Dataset") -> int | None:
    number = number_of(view, "InstanceNumber")
    return int(number) if number is not None and abs(number) < _HIGHEST_NUMBER else None


def nominal_field(field: float | None) -> float | None:
    """The nominal field: 2.89 is 3, as scanners are called. One decimal below 1.25 tesla, halves above."""
    if field is None:
        return None
    tesla = field / 10_000 if field > _GAUSS else field
    if not 0 < tesla <= _MOST_TESLA:
        return None
    return round(tesla, 1) if tesla < 1.25 else round(2 * tesla) / 2
