"""An image that kills its decoder: an audit and a training go on without it, and say why."""

import sys

import numpy as np
import pyarrow as pa
import pytest
from support.imaging.images import image_bytes

from brainray.config import ImageSpec
from brainray.duplicates.groups import READABLE, REASONS, describe_rows, describe_rows_apart
from brainray.training.decoded import decode_rows, decode_rows_apart

SPEC = ImageSpec(image_px=32)
POISON = b"poison: this picture kills who unpacks it"
# Every Python imports `sitecustomize` as it starts: so the children die of the picture, and this process does not.
DEADLY = f"""
import os, signal
from PIL.ImageFile import ImageFile

def load(image, unpack=ImageFile.load):
    if image.fp is not None and {POISON!r} in image.fp.getvalue():
        os.kill(os.getpid(), signal.SIGSEGV)
    return unpack(image)

ImageFile.load = load
"""


@pytest.fixture
def rows(tmp_path, monkeypatch):
    """Four images, the third of which kills who unpacks it; a fifth is no image."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(DEADLY)
    monkeypatch.syspath_prepend(tmp_path / "site")
    contents = [image_bytes(number) for number in range(4)] + [b"no image"]
    contents[2] += POISON
    uris = [str(tmp_path / f"{number}.jpg") for number in range(5)]
    for uri, content in zip(uris, contents, strict=True):
        with open(uri, "wb") as file:
            file.write(content)
    return pa.table({"position": range(5), "uri": uris, "label": [0] * 5})


def test_a_training_goes_on_without_the_image_that_kills_its_decoder(rows):
    found, here = decode_rows_apart(rows, SPEC), decode_rows(rows, SPEC)
    assert found["error"].tolist() == ["", "", "unsupported", "", "not_an_image"]
    well = found["error"] == ""
    assert all(np.array_equal(found[name][well], here[name][well]) for name in ("pixels", "digest", "content"))


def test_an_audit_goes_on_without_the_image_that_kills_its_decoder(rows):
    found, here = describe_rows_apart(rows), describe_rows(rows)
    well = found["error"] == READABLE
    assert [REASONS[code] for code in found["error"][~well]] == ["unsupported", "not_an_image"]
    assert all(np.array_equal(found[name][well], here[name][well]) for name in ("digest", "thumbnail", "features"))


def test_a_child_that_describes_imports_no_heavy_library():
    import subprocess

    code = "import sys, brainray.duplicates.sandbox; print({'ray', 'torch', 'pyarrow.dataset'} & set(sys.modules))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "set()", "each of many children would take seconds to start"
