"""Nothing of a DICOM header gets into a run: a file whose every text is a canary is scored, and every file searched."""

import logging
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pydicom
import pytest
from pydicom.datadict import DicomDictionary
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEG2000Lossless, RLELossless
from support.dicoms import data_set, dicom, items, slice_pixels, written
from support.runs import brightness, engine_of, request_for, rows, score_here

from brainray.config import MaxFailed
from brainray.scoring.summary.build import build_summary

CANARY = "CANARY"
# Attributes that decide how a file is read stay sound, so that it is scored.
KEPT = ("SOPClassUID", "Modality", "ImageType", "PhotometricInterpretation", "TransferSyntaxUID")
TEXTS = {"AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT", "UI", "AS", "DA", "DT", "TM"}
NUMBERS = {"DS": "1", "IS": "1"}


def poisoned(**attributes) -> pydicom.Dataset:
    """A slice with a canary in each text attribute of the standard, in private and nested ones."""
    made = data_set(slice_pixels(), WindowCenter=1000, WindowWidth=2000, **attributes)
    for tag, (kind, _, _, retired, keyword) in DicomDictionary.items():
        wanted = kind in TEXTS and keyword and keyword not in KEPT and keyword not in made and tag >> 16 > 2
        if wanted and not retired and tag >> 16 < 0x7FE0:
            made.add_new(tag, kind, f"{CANARY}1" if kind not in ("UI",) else f"1.2.{CANARY}")
    made.PatientName, made.SeriesDescription, made.Manufacturer = f"{CANARY}^JANE", f"t1 {CANARY}", CANARY
    made.SOPInstanceUID = made.SeriesInstanceUID = f"1.2.{CANARY}"
    block = made.private_block(0x0011, CANARY, create=True)
    block.add_new(1, "LO", CANARY)
    made.OtherPatientIDsSequence = items({"PatientID": CANARY, "IssuerOfPatientID": CANARY})
    return made


def surrounded(content: bytes) -> bytes:
    """With canaries in the preamble and after the end."""
    return (CANARY.encode() * 30)[:128] + content[128:] + CANARY.encode() * 9


def content_of(path: Path) -> str:
    """Everything that a file says: of Parquet, which is compressed, the rows and the metadata."""
    if path.suffix != ".parquet":
        return path.read_bytes().decode("latin-1")
    table = pq.read_table(path)
    return f"{table.to_pylist()} {table.schema.metadata}"


@pytest.fixture
def corpus(tmp_path) -> Path:
    """Poisoned files of every kind: scored, excluded, damaged in header and pixels, of unknown syntaxes."""
    root = tmp_path / "in"
    root.mkdir()
    good = {syntax.name: surrounded(written(poisoned(), syntax)) for syntax in (
        ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless, JPEG2000Lossless
    )}  # fmt: skip
    files = dict(good)
    whole = good[ExplicitVRLittleEndian.name]
    files |= {f"cut {share}": whole[: len(whole) * share // 10] for share in range(1, 10)}
    rng = np.random.default_rng(0)
    for number in range(20):
        damaged = bytearray(whole)
        for at in rng.integers(132, len(damaged), 40):
            damaged[at] = rng.integers(256)
        files[f"damaged {number}"] = bytes(damaged)
    files["not mr"] = surrounded(written(poisoned(Modality=CANARY)))
    files["localizer"] = surrounded(written(poisoned(ImageType=[CANARY, CANARY, "LOCALIZER", CANARY])))
    files["photometric"] = surrounded(written(poisoned(PhotometricInterpretation=CANARY)))
    files["report"] = surrounded(written(poisoned(SOPClassUID="1.2.840.10008.5.1.4.1.1.88.33", PixelData=None)))
    frames = poisoned(NumberOfFrames=3)
    frames.PixelData = frames.PixelData * 3
    files["frames"] = surrounded(written(frames))
    files["syntax"] = files["rows"] = whole
    files["syntax"] = whole.replace(b"1.2.840.10008.1.2.1\0", b"1.2.CANARY.CANARY.1\0", 1)
    files["rows"] = whole.replace(b"\x28\0\x10\0US", b"\x28\0\x10\0LO", 1)
    for name, content in files.items():
        (root / f"{name}.dcm").write_bytes(content)
    (root / "nameless").write_bytes(surrounded(dicom(PatientName=CANARY)))
    return root


@pytest.mark.filterwarnings("ignore::UserWarning")  # of pydicom, about the values that are written here
def test_no_output_holds_a_value_of_a_header(corpus, tmp_path, bundle, caplog, capfd):
    assert sum(CANARY.encode() in path.read_bytes() for path in corpus.iterdir()) == len(list(corpus.iterdir()))
    output = tmp_path / "run"
    request = request_for(corpus, output, bundle, report=True, thumbnails=True, max_failed=MaxFailed(share=1.0))
    with caplog.at_level(logging.DEBUG):
        score_here(request, engine_of(bundle, predict=brightness))
        build_summary(str(output))
    found = rows(output)
    statuses = {row["status"] for row in found}
    assert statuses == {"ok", "error", "excluded"}
    assert len({row["error"] for row in found}) >= 5
    files = [path for path in output.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} >= {".parquet", ".json", ".html", ".csv"}
    assert [path for path in files if CANARY in content_of(path) or "JANE" in content_of(path)] == []
    captured = capfd.readouterr()
    assert not any(CANARY in text for text in (caplog.text, captured.out, captured.err))
