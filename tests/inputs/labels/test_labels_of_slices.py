"""Rows that name a NIfTI file hold for its slices, in label and group files and in what is read for the page."""

import numpy as np
import pyarrow as pa
from support.imaging.niftis import SHAPE, head, nifti
from support.models.bundles import CLASSES

from brainray.inputs.archives.index import ArchiveIndexes
from brainray.inputs.frames.listing import files_of_frames
from brainray.inputs.labels.answer_file import read_label_file
from brainray.inputs.listed_image import tables_in
from brainray.inputs.listing import Lister, scan


def test_the_row_of_a_volume_labels_those_of_its_slices_that_have_none(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.nii.gz").write_bytes(nifti())
    (tmp_path / "in/b.nii.gz").write_bytes(nifti(np.stack([head(), head() // 2], axis=3)))
    (tmp_path / "l.csv").write_text("uri,label\na.nii.gz,glioma\nb.nii.gz,notumor\na.nii.gz#z=3,notumor\n")
    labels = read_label_file(str(tmp_path / "l.csv"), CLASSES)
    with ArchiveIndexes(str(tmp_path / "indexes")) as indexes:
        lister = Lister([str(tmp_path / "in")], indexes, classes=CLASSES, label_file=labels)
        listing = scan(lister, str(tmp_path / "listing.parquet"))
    rows = pa.concat_tables(tables_in(listing.path))
    wanted = ["glioma"] * 3 + ["notumor"] + ["glioma"] * (SHAPE[2] - 4) + ["notumor"] * SHAPE[2]
    assert rows["label"].to_pylist() == wanted
    assert files_of_frames(rows).to_pylist() == rows["container"].to_pylist()
    labels.check_all_used_once(may_miss=False, listed=[rows])
