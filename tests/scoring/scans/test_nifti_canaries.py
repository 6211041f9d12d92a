"""Nothing of a NIfTI header, of the name in a gzip header or of a side file gets into a run; every file is searched."""

import gzip
import json
import logging
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from support.imaging.niftis import head, nifti
from support.scoring.runs import brightness, engine_of, request_for, rows, score_here

from brainray.config import MaxFailed
from brainray.scoring.summary.build import build_summary

CANARY = "CANARY"
TEXTS = {"descrip": 80, "aux_file": 24, "intent_name": 16, "db_name": 18, "data_type": 10}
PLACES = {1: {"descrip": 148, "aux_file": 228, "intent_name": 328, "db_name": 14, "data_type": 4},
          2: {"descrip": 240, "aux_file": 320, "intent_name": 508}}  # fmt: skip
EXTENSION = b"\1\0\0\0" + (48).to_bytes(4, "little") + (6).to_bytes(4, "little") + (CANARY * 7).encode()[:40]


def poisoned(voxels=None, version: int = 1) -> bytes:
    """A file with a canary in each text of its header, in an extension and after its end."""
    content = bytearray(nifti(voxels, packed=False, version=version))
    for name, at in PLACES[version].items():
        content[at : at + TEXTS[name]] = (CANARY * 20).encode()[: TEXTS[name]]
    start = 352 if version == 1 else 544
    return bytes(content[: start - 4]) + EXTENSION[:4] + bytes(content[start:]) + CANARY.encode() * 9


def packed(content: bytes) -> bytes:
    """With canaries in the name and the comment of the gzip header."""
    plain = gzip.compress(content, 1, mtime=0)
    return plain[:3] + b"\x18" + plain[4:10] + CANARY.encode() + b"\0" + CANARY.encode() + b"\0" + plain[10:]


def content_of(path: Path) -> str:
    """Everything that a file says: of Parquet, which is compressed, the rows and the metadata."""
    if path.suffix != ".parquet":
        return path.read_bytes().decode("latin-1")
    table = pq.read_table(path)
    return f"{table.to_pylist()} {table.schema.metadata}"


@pytest.fixture
def corpus(tmp_path) -> Path:
    """Poisoned files of every kind: scored, left out, damaged in header and voxels."""
    root = tmp_path / "in"
    root.mkdir()
    thin = np.ascontiguousarray(head()[:, :, 8:11])
    whole = poisoned(thin)
    files = {
        "plain.nii": whole,
        "packed.nii.gz": packed(whole),
        "second.nii.gz": packed(poisoned(thin, version=2)),
        "mask.nii.gz": packed(poisoned((thin > 0).astype(np.uint8))),
        "colours.nii": whole[:70] + b"\x80\0" + whole[72:],
        "magic.nii": whole[:344] + b"CANA" + whole[348:],
        "scale.nii": whole[:112] + b"CANARYCA" + whole[120:],
        "side.nii.gz": packed(whole),
    }
    files |= {f"cut{share}.nii.gz": packed(whole)[: len(packed(whole)) * share // 6] for share in range(1, 6)}
    files |= {f"cut{share}.nii": whole[: len(whole) * share // 6] for share in range(1, 6)}
    rng = np.random.default_rng(0)
    for number in range(12):
        damaged = bytearray(whole)
        for at in rng.integers(0, 348, 20):
            damaged[at] = rng.integers(256)
        files[f"damaged{number}.nii"] = bytes(damaged)
    for name, content in files.items():
        (root / name).write_bytes(content)
    fields = ("Manufacturer", "Modality", "SeriesDescription", "ProtocolName", "PatientName", "InstitutionName")
    said = dict.fromkeys(fields, f"MR {CANARY}^JANE") | {"ImageType": ["ORIGINAL", CANARY, CANARY], "Modality": "MR"}
    (root / "side.json").write_text(json.dumps(said | {"MagneticFieldStrength": CANARY}))
    return root


def test_no_output_holds_a_text_of_a_header(corpus, tmp_path, bundle, caplog, capfd):
    output = tmp_path / "run"
    request = request_for(
        corpus, output, bundle, shard_size=40, report=True, thumbnails=True, max_failed=MaxFailed(share=1.0)
    )
    with caplog.at_level(logging.DEBUG):
        score_here(request, engine_of(bundle, predict=brightness))
        build_summary(str(output))
    found = rows(output)
    assert {row["status"] for row in found} == {"ok", "error", "excluded"}
    assert len({row["error"] for row in found}) >= 4
    files = [path for path in output.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} >= {".parquet", ".json", ".html", ".csv"}
    assert [path for path in files if CANARY in content_of(path) or "JANE" in content_of(path)] == []
    captured = capfd.readouterr()
    assert not any(CANARY in text for text in (caplog.text, captured.out, captured.err))
