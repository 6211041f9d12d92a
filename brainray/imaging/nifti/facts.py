"""What is known of a slice of a NIfTI volume, and whether a model that knows single anatomical slices can score it.

A NIfTI header says little of what was imaged. What its intent code, the name by BIDS, the JSON file beside it and the
voxels say for certain excludes a slice; what other words of the name suggest is told and excludes nothing. All values
come from lists or are numbers: no text of a header, a name or a side file leaves this file.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

from brainray.errors import ExclusionReason
from brainray.imaging.dicom.series import (
    Exclusion,
    SeriesFacts,
    likely_of,
    modality_of,
    nominal_field,
    sequence_of,
    type_exclusion,
    vendor_of,
)

_PLANES = ("axial", "coronal", "sagittal", "oblique")
# NIFTI_INTENT of nifti1.h: statistics, estimates and the like; labels; vectors, matrices, time series, shapes.
_STATISTICS, _LABELS, _OTHERS = range(2, 25), (1002, 1003), (1001, *range(1004, 1012), *range(2001, 2006))
# Voxels of a mask or a segmentation: few whole numbers, or whole numbers of which most neighbours are equal. Measured:
# neighbours inside the head are equal for 0 to 2 % of the voxels of 16 bits, and 18 % of those of 8 bits.
_FEW, _FLAT, _MOST_LABELS = 16, 0.8, 4096
_MAGNITUDE = 0.2  # a share of negative voxels above this is of no magnitude image
_HOUNSFIELD = -900.0  # below this, whole numbers are those of computed tomography: air is -1000
_MANY_VOLUMES = 10
# Suffixes of BIDS 1.10 by what the model knows of them: the weighting of those that it does, else the reason.
_SEQUENCES = {
    "T1w": "T1", "inplaneT1": "T1", "UNIT1": "T1", "T2w": "T2", "inplaneT2": "T2", "FLAIR": "FLAIR", "PDw": "PD",
    "PDT2": "PD", "T2starw": "T2*",
}  # fmt: skip
_UNKNOWN: tuple[tuple[ExclusionReason, str, str], ...] = (
    ("diffusion", "dwi", "of diffusion imaging"),
    ("functional", "bold cbv boldref asl aslref m0scan epi perf", "of functional or perfusion imaging"),
    (
        "map",
        "T1map T2map T2starmap R1map R2map R2starmap PDmap MTRmap MTsat MTVmap MWFmap TB1map RB1map Chimap S0map M0map "
        "phase phase1 phase2 phasediff fieldmap probseg statmap xfm cbf att FA MD ADC adcmap famap mdmap",
        "of a map, a phase or a field",
    ),
    ("susceptibility", "swi", "of susceptibility-weighted imaging"),
    ("projection", "minIP MIP", "of a projection"),
    ("label_map", "dseg mask defacemask aseg aparcaseg", "of a mask or a segmentation"),
    ("not_mr", "pet ct", "of another modality than MR"),
)
_SUFFIXES = {
    suffix: Exclusion(reason, f"its BIDS suffix is that {words}")
    for reason, suffixes, words in _UNKNOWN
    for suffix in suffixes.split()
}
_NO_MR = {"pet": "PT", "ct": "CT"}
_PARTS = ("phase", "real", "imag")  # of a complex image, by the entity `part`
_ENTITY = re.compile(r"([a-zA-Z0-9]+)-([a-zA-Z0-9+.]+)")
_NAMES_OF_OTHERS = ("sub-", "ses-", "space-")  # entities whose words say nothing of the sequence
_STATISTIC = re.compile(r"stat", re.IGNORECASE)
_FOLDED = {suffix.lower(): suffix for suffix in (*_SUFFIXES, *_SEQUENCES)}


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceFacts:
    """What the reader of a file has found out, see `inputs.frames.nifti.file`."""

    window: tuple[float, float] | None
    spacing: tuple[float, float]
    plane: str | None
    intent: int
    volumes: int
    values: int
    whole_numbers: bool
    flat: float
    below_zero: float
    lowest: float | None
    name: str
    sidecar: dict[str, Any]
    cut: bool  # whether the gzip stream of the file ends before its checksum

    @classmethod
    def of(cls, known: dict[str, Any]) -> Self:
        """Raises nearly anything where something is missing, as in bytes that only begin like a slice."""
        values = {name: known[name] for name in cls.__slots__}
        window, (height, width) = known["window"], known["spacing"]
        values["window"] = None if window is None else (float(window[0]), float(window[1]))
        return cls(**values | {"spacing": (float(height), float(width))})


def describe(known: SliceFacts) -> tuple[SeriesFacts, Exclusion | None]:
    """What is known of a slice, and why it is excluded; None where it is not."""
    name = _Name(known.name)
    excluded = _certain(known, name)
    words = (name.words, *_texts(known.sidecar, "SeriesDescription", "ProtocolName", "SequenceName"))
    facts = SeriesFacts(
        modality=_modality(known, name),
        likely=excluded.reason if excluded else _likely(known, words),
        plane=known.plane if known.plane in _PLANES else None,
        sequence=_SEQUENCES.get(name.suffix) or sequence_of(words),
        field_t=_field(known.sidecar),
        vendor=vendor_of(_texts(known.sidecar, "Manufacturer")),
    )
    return facts, excluded


class _Name:
    """The name of a file by BIDS: `sub-1_ses-2_desc-preproc_T1w`; of any other only the words."""

    def __init__(self, name: str) -> None:
        *entities, last = name.split("_")
        self.entities = {found[1]: found[2] for entity in entities if (found := _ENTITY.fullmatch(entity))}
        self.suffix = _FOLDED.get(last.lower(), "") if "sub" in self.entities else ""
        told = [entity for entity in entities if not entity.startswith(_NAMES_OF_OTHERS)]
        self.words = re.sub(r"[_.-]+", " ", "_".join([*told, last]))


def _modality(known: SliceFacts, name: _Name) -> str | None:
    texts = _texts(known.sidecar, "Modality")
    if texts:
        return modality_of(texts[0].upper())
    return _NO_MR.get(name.suffix, "MR") if name.suffix else None


def _certain(known: SliceFacts, name: _Name) -> Exclusion | None:
    """What is certain: by name and side file, by the intent code, then by the voxels."""
    modality = _modality(known, name)
    if modality not in (None, "MR"):
        return Exclusion("not_mr", f"its modality is {modality}, and the model knows MR")
    if name.suffix in _SUFFIXES:
        return _SUFFIXES[name.suffix]
    if "sub" in name.entities and name.entities.get("part") in _PARTS:
        return Exclusion("map", "it is a part of a complex image by its BIDS name")
    if "stat" in name.entities or _STATISTIC.search(name.entities.get("desc", "")):
        return Exclusion("map", "it is a statistical map by its BIDS name")
    if known.intent in _LABELS:
        return Exclusion("label_map", "its intent code is that of labels")
    if known.intent in _STATISTICS or known.intent in _OTHERS:
        return Exclusion("map", "its intent code is that of a statistic, or of other values than brightness")
    types = known.sidecar.get("ImageType")
    kinds = {str(kind).upper() for kind in types[2:]} if isinstance(types, list) else set()
    return type_exclusion(kinds) or _by_voxels(known)


def _by_voxels(known: SliceFacts) -> Exclusion | None:
    if known.window is None or known.window[0] == known.window[1]:
        return None  # an error of its own
    is_flat = known.values <= _FEW or (known.flat >= _FLAT and known.values <= _MOST_LABELS)
    if known.whole_numbers and is_flat:
        return Exclusion(
            "label_map", f"its voxels are those of a mask or a segmentation: {known.values:,} whole numbers"
        )
    return None


def _likely(known: SliceFacts, words: tuple[str, ...]) -> str | None:
    """What a slice seems to be, where that is no anatomical one."""
    if known.whole_numbers and known.lowest is not None and known.lowest <= _HOUNSFIELD:
        return "not_mr"
    if known.below_zero >= _MAGNITUDE:
        return "map"
    return likely_of(words) or ("functional" if known.volumes >= _MANY_VOLUMES else None)


def _field(sidecar: dict[str, Any]) -> float | None:
    try:
        return nominal_field(float(sidecar["MagneticFieldStrength"]))
    except (KeyError, TypeError, ValueError, OverflowError):
        return None


def _texts(sidecar: dict[str, Any], *fields: str) -> tuple[str, ...]:
    return tuple(_each_text(sidecar, fields))


def _each_text(sidecar: dict[str, Any], fields: tuple[str, ...]) -> Iterator[str]:
    for field in fields:
        value = sidecar.get(field)
        if isinstance(value, str) and value.strip():
            yield value.strip()
