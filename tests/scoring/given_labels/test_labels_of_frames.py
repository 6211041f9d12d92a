"""Labels that a run gets after the fact name frames of DICOM files as its inputs do."""

import numpy as np
import pyarrow as pa
from support.imaging.dicoms import dicom, slice_pixels
from support.imaging.images import image_bytes
from support.models.bundles import CLASSES
from support.scoring.runs import brightness, engine_of, request_for, rows, score_here

from brainray.commands.report import report
from brainray.config import PageOptions
from brainray.inputs.labels.answer_file import read_label_file
from brainray.inputs.labels.label_file import LabelFile


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


def test_the_row_of_a_file_labels_those_of_its_frames_that_have_none(tmp_path, bundle):
    root = tmp_path / "in"
    root.mkdir()
    for name in ("f.dcm", "IM2"):
        (root / name).write_bytes(dicom(np.stack([slice_pixels(seed=k) for k in (1, 2, 3)])))
    table = tmp_path / "labels.csv"
    table.write_text(f"image,label\nf.dcm,{CLASSES[0]}\nf.dcm#2,{CLASSES[1]}\nIM2,{CLASSES[2]}\n")
    options = {"label_file": read_label_file(str(table), bundle.classes), "any_suffix": True}
    score_here(request_for(root, tmp_path / "run", bundle, **options), engine_of(bundle, predict=brightness))
    labels = {row["uri"].rpartition("/")[2]: row["label"] for row in rows(tmp_path / "run")}
    first, second, third = CLASSES[:3]
    of_f = {"f.dcm#1": first, "f.dcm#2": second, "f.dcm#3": first}
    assert labels == of_f | {f"IM2#{number}": third for number in (1, 2, 3)}


def test_frames_of_one_file_in_two_chunks_use_its_row_once():
    rows_ = LabelFile(pa.array(["a.dcm", "b.dcm"]), pa.array(CLASSES[:2]), source="--labels")
    for numbers in ((1, 2), (3,)):
        names = pa.array([f"a.dcm#{number}" for number in numbers])
        found = rows_.labels_of(
            pa.array([f"/in/{name}" for name in names.to_pylist()]), names, names, pa.array(["/in/a.dcm"] * len(names))
        )
        assert set(found.to_pylist()) == {CLASSES[0]}
    assert (rows_.matched, rows_.without_image) == (3, 1)
    rows_.check_all_used_once(may_miss=True)
