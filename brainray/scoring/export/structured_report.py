"""A series as a DICOM structured report: TID 1500, Measurement Report (PS3.16), made by highdicom.

It says what the rule says of the series, by which algorithm (the model's fingerprint is its version) and of which
images. Patient and study are those of the images, as in every object of a study. Classes are codes of the scheme
99BRAINRAY, for they are whatever folders a model was trained on. Imports highdicom, an extra.
"""

import hashlib
import io
import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.util import find_spec
from types import ModuleType
from typing import TYPE_CHECKING, Any

from brainray import __version__
from brainray.errors import INSTALL, BadRequest, BrainrayError
from brainray.inputs.frames.library import pydicom_library

if TYPE_CHECKING:
    from highdicom.sr import ComprehensiveSR
    from pydicom import Dataset

_SCHEME = "99BRAINRAY"
_NAMESPACE = uuid.UUID("5d1f7a0c-6a53-4b0e-9d0c-7f3a2f5e9b11")  # of the UIDs that are made here
_SERIES_NUMBER = 9_900  # above those of scanners
_NEEDED = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID")
# What must be the same in all slices: a report of two patients would be filed under one of them.
_OF_PATIENT = ("PatientID", "IssuerOfPatientID", "PatientName", "PatientBirthDate")
_UTF8 = "ISO_IR 192"  # of reports: names of classes may be in another script than the headers
# Attributes that a report must have, if without a value, and takes over from its images.
_MAY_BE_EMPTY = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyID", "StudyDate", "StudyTime"),
    *("AccessionNumber", "ReferringPhysicianName"),
)
_SAID = ("predicted", "confidence", "reason", "review", "suspicion", "finding_slices", "scored")


class NoReport(Exception):
    """Why a series gets no report, in words that quote nothing of its headers."""


def check_installed() -> None:
    """Raise `BadRequest` with the command that installs what is missing."""
    if find_spec("highdicom") is None:
        raise BadRequest(f"--to sr needs highdicom: {INSTALL.format('export')}")


@dataclass(frozen=True, kw_only=True)
class ReportedSeries:
    """What a report says, and of what."""

    generation: str  # of the run
    fingerprint: str
    said: dict[str, Any]  # the row of `series/*.parquet`
    slices: frozenset[str]  # hashes of the bytes of its scored slices, whose headers name the patient
    scored_at: datetime  # of its last slice

    @property
    def digest(self) -> str:
        """Tells reports of one series apart that say something else, or of other slices or headers."""
        values = [self.generation, self.said["series"], *(str(self.said[name]) for name in _SAID), *sorted(self.slices)]
        return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:12]

    def uid(self, what: str) -> str:
        """A UID that is the same whenever this report is made again (PS3.5, B.2)."""
        name = "/".join((what, self.generation, self.said["series"], self.digest))
        return f"2.25.{uuid.uuid5(_NAMESPACE, name).int}"


def report_of(series: ReportedSeries, headers: Sequence["Dataset"]) -> bytes:
    """The bytes of the report; the same for the same series. Raises `NoReport`."""
    pydicom_library()
    import highdicom

    try:
        images = _evidence(headers)
        report = _made(highdicom, series, images)
        _date(report, series.scored_at)
        sink = io.BytesIO()
        report.save_as(sink)
    except NoReport:
        raise
    except Exception as exc:  # odd headers raise nearly every type there is, and may be quoted
        raise NoReport(f"its headers make no report ({type(exc).__name__})") from exc
    content = sink.getvalue()
    _check(highdicom, content, series, images)
    return content


def _evidence(headers: Sequence["Dataset"]) -> list["Dataset"]:
    """The headers of the images, each instance once; frames are of one. Raises `NoReport`."""
    found: dict[str, Dataset] = {}
    for header in headers:
        if not all(header.get(name) for name in _NEEDED):
            raise NoReport("a slice has no UIDs to refer to")
        for name in _MAY_BE_EMPTY:
            if name not in header:
                setattr(header, name, "")
        found.setdefault(str(header.SOPInstanceUID), header)
    if len({str(header.StudyInstanceUID) for header in headers}) != 1:
        raise NoReport("its slices are of several studies")
    if len({tuple(str(header.get(name) or "") for name in _OF_PATIENT) for header in headers}) != 1:
        raise NoReport("its slices are of several patients")
    return list(found.values())


def _made(highdicom: ModuleType, series: ReportedSeries, images: Sequence["Dataset"]) -> "ComprehensiveSR":
    sr, said = highdicom.sr, series.said
    from pydicom.sr.codedict import codes

    device = sr.DeviceObserverIdentifyingAttributes(
        uid=series.uid("device"), name="brainray", model_name=f"brainray {__version__}", manufacturer_name="brainray"
    )
    observer = sr.ObserverContext(observer_type=codes.DCM.Device, observer_identifying_attributes=device)
    group = sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(uid=series.uid("tracking"), identifier=said["series"]),
        finding_type=_code(sr, "class", "Class of the series"),
        algorithm_id=sr.AlgorithmIdentification(
            name="brainray", version=series.fingerprint, family=codes.DCM.ArtificialIntelligence
        ),
        qualitative_evaluations=[
            sr.QualitativeEvaluation(
                name=_code(sr, "predicted", "Predicted class"),
                value=_code(sr, said["predicted"], said["predicted"]),
            ),
            sr.QualitativeEvaluation(
                name=_code(sr, "review", "A person should look"),
                value=_code(sr, "yes", "yes") if said["review"] else _code(sr, "no", "no"),
            ),
        ],
        measurements=[
            sr.Measurement(name=_code(sr, name, meaning), value=float(value), unit=codes.UCUM.NoUnits)
            for name, meaning, value in (
                ("confidence", "Confidence, not calibrated", said["confidence"]),
                ("scored", "Slices that were scored", said["scored"]),
                ("finding_slices", "Slices that show it", said["finding_slices"]),
            )
        ],
        source_images=[sr.SourceImageForMeasurementGroup.from_source_image(image) for image in images],
    )
    content = sr.MeasurementReport(
        observation_context=sr.ObservationContext(observer_device_context=observer),
        procedure_reported=sr.CodedConcept("24590-2", "LN", "MR Brain"),
        imaging_measurements=[group],
    )
    report: ComprehensiveSR = sr.ComprehensiveSR(
        evidence=list(images),
        content=content,
        series_instance_uid=series.uid("series"),
        series_number=_SERIES_NUMBER,
        sop_instance_uid=series.uid("instance"),
        instance_number=1,
        manufacturer="brainray",
        manufacturer_model_name="brainray",
        software_versions=__version__,
        series_description="brainray: not for clinical use",
        specific_character_set=_UTF8,
        is_complete=True,
    )
    scheme = pydicom_library().Dataset()
    scheme.CodingSchemeDesignator, scheme.CodingSchemeName = _SCHEME, "classes and figures of brainray"
    report.CodingSchemeIdentificationSequence = [scheme]
    return report


def _code(sr: ModuleType, value: str, meaning: str) -> Any:  # noqa: ANN401  highdicom's CodedConcept
    """A code of our own scheme; of long names the end is a digest."""
    short = value if len(value) <= 16 else f"{value[:7]}-{hashlib.sha256(value.encode()).hexdigest()[:8]}"
    return sr.CodedConcept(short, _SCHEME, meaning[:64])


def _date(report: "Dataset", at: datetime) -> None:
    """Date the report by when its slices were scored, in place of now: made again, it has the same bytes."""
    for what in ("Content", "InstanceCreation", "Series"):
        for keyword, value in ((f"{what}Date", f"{at:%Y%m%d}"), (f"{what}Time", f"{at:%H%M%S}")):
            if keyword in report:
                setattr(report, keyword, value)
    for equipment in report.get("ContributingEquipmentSequence", ()):
        equipment.ContributionDateTime = f"{at:%Y%m%d%H%M%S}"
    report.TimezoneOffsetFromUTC = "+0000"


def _check(highdicom: ModuleType, content: bytes, series: ReportedSeries, images: Sequence["Dataset"]) -> None:
    """Read the report back. Raises `BrainrayError` where it does not say what it was made of."""
    read = highdicom.sr.srread(io.BytesIO(content))
    (group,) = read.content.get_image_measurement_groups()
    (predicted,) = group.get_qualitative_evaluations(name=_code(highdicom.sr, "predicted", "Predicted class"))
    referenced = [
        str(image.ReferencedSOPInstanceUID)
        for study in read.CurrentRequestedProcedureEvidenceSequence
        for each in study.ReferencedSeriesSequence
        for image in each.ReferencedSOPSequence
    ]
    versions = [str(item.TextValue) for item in group[0].ContentSequence if _is_version(item)]
    expected = _code(highdicom.sr, series.said["predicted"], series.said["predicted"]).CodeValue
    if (
        predicted.value.CodeValue != expected
        or versions != [series.fingerprint]
        or sorted(referenced) != sorted(str(image.SOPInstanceUID) for image in images)
    ):
        raise BrainrayError(f"the report of series {series.said['series']} does not read back as it was made")


def _is_version(item: "Dataset") -> bool:
    return bool(item.ValueType == "TEXT" and item.ConceptNameCodeSequence[0].CodeValue == "111003")
