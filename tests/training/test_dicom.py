"""Training and audit read DICOM by the decoder that scores it."""

import numpy as np
import pyarrow as pa
from support.imaging.dicoms import dicom, slice_pixels

from brainray.config import ImageSpec
from brainray.imaging.decode import decode
from brainray.training.decoded import decode_rows

SPEC = ImageSpec(image_px=32)


def test_a_dicom_file_is_an_example_like_any_other(tmp_path):
    contents = {"a.dcm": dicom(WindowCenter=900, WindowWidth=1800), "b": dicom(slice_pixels(seed=2), preamble=False)}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "report.dcm").write_bytes(dicom(SOPClassUID="1.2.840.10008.5.1.4.1.1.88.33", PixelData=None))
    uris = [str(tmp_path / name) for name in (*contents, "report.dcm")]
    rows = pa.table({"position": [0, 1, 2], "uri": uris, "label": [0, 1, 0]})
    made = decode_rows(rows, SPEC)
    assert list(made["error"]) == ["", "", "no_pixels"]
    for pixels, content in zip(made["pixels"], contents.values(), strict=False):
        assert np.array_equal(pixels, decode(content, SPEC).pixels)
    assert made["points"].any(axis=(1, 2))[:2].all(), "audit has points to find copies by"
