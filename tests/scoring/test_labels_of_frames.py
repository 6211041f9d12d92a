"""Labels that a run gets after the fact name frames of DICOM files as its inputs do."""

import numpy as np
from support.bundles import CLASSES
from support.dicoms import dicom, slice_pixels
from support.images import image_bytes
from support.runs import brightness, engine_of, request_for, rows, score_here

from brainray.commands.report import report
from brainray.config import PageOptions


def test_the_number_of_a_frame_is_no_file_name(tmp_path, bundle):
    root, output = tmp_path / "in", tmp_path / "run"
    root.mkdir()
    (root / "f.dcm").write_bytes(dicom(np.stack([slice_pixels(seed=k) for k in (1, 2, 3)])))
    (root / "3.png").write_bytes(image_bytes())
    score_here(request_for(root, output, bundle), engine_of(bundle, predict=brightness))
    answers = tmp_path / "answers.csv"
    answers.write_text(f"image,label\n3,{CLASSES[0]}\nf.dcm#2,{CLASSES[1]}\n")
    report(str(output), say=str, labels=str(answers), page=PageOptions(report=False))
    labels = {row["uri"].rpartition("/")[2]: row["label"] for row in rows(output)}
    assert labels == {"f.dcm#1": None, "f.dcm#2": CLASSES[1], "f.dcm#3": None, "3.png": CLASSES[0]}
