import json
import shutil

import pytest
from support.models.bundles import CLASSES

from brainray.config import Calibration, ImageSpec, ModelSpec
from brainray.errors import BadRequest
from brainray.models.bundle import fingerprint, load_bundle, load_model


@pytest.fixture
def copy(bundle, tmp_path):
    return shutil.copytree(bundle.uri, tmp_path / "copy")


def edit(folder, **changes):
    path = folder / "bundle.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_bundle_survives_a_move(bundle, copy):
    moved = load_bundle(str(copy))
    assert moved.fingerprint == bundle.fingerprint
    assert moved.classes == CLASSES
    assert moved.image == bundle.image
    assert moved.calibration.temperature == 1.5


def test_reading_a_bundle_needs_no_torch(bundle):
    import subprocess
    import sys

    load = f"from brainray.models.bundle import load_bundle; load_bundle({bundle.uri!r})"
    code = f"import sys; {load}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=250, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize(
    "change",
    [
        {"temperature": 1.0},
        {"class_bias": [1.0, 0.0, 0.0, 0.0]},
        {"classes": None, "model": {"name": "compact", "classes": list(CLASSES[::-1]), "channels": 1}},
    ],
)
def test_an_edited_bundle_is_refused(copy, change):
    edit(copy, **change)
    with pytest.raises(BadRequest, match="do not match the fingerprint"):
        load_bundle(str(copy))


def test_damaged_weights_are_refused(copy):
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "model.safetensors").write_bytes(bytes(weights))
    with pytest.raises(BadRequest, match="do not match the fingerprint"):
        load_bundle(str(copy))


def test_what_is_no_bundle_is_named(tmp_path, copy):
    with pytest.raises(BadRequest, match=r"no such model.*wrote$"):
        load_bundle(str(tmp_path / "none"))
    with pytest.raises(BadRequest, match=r"no such model.*did you mean shipped-fast, which is in the package\?"):
        load_bundle(str(tmp_path / "shipped-fats"))
    with pytest.raises(BadRequest, match="is no model"):
        load_bundle(str(tmp_path))
    (copy / "bundle.json").write_text("{}")
    with pytest.raises(BadRequest, match="bundle format None is not 4"):
        load_bundle(str(copy))
    (copy / "bundle.json").write_text('{"format_version": 4}')
    with pytest.raises(BadRequest, match="lacks or garbles 'fingerprint'"):
        load_bundle(str(copy))


def test_all_that_changes_a_prediction_changes_the_fingerprint():
    base = {
        "weights": b"w",
        "image": ImageSpec(),
        "model": ModelSpec(classes=CLASSES),
        "calibration": Calibration(),
    }
    others = [
        base | {"weights": b"v"},
        base | {"image": ImageSpec(image_px=96)},
        base | {"image": ImageSpec(resize="stretch")},
        base | {"model": ModelSpec(classes=CLASSES[::-1])},
        base | {"calibration": Calibration(temperature=2.0)},
        base | {"calibration": Calibration(class_bias=(0.5, 0.0, 0.0, -0.5))},
        base | {"calibration": Calibration(review_below=0.5)},
    ]
    assert len({fingerprint(**values) for values in [base, *others]}) == 8


def test_the_weights_come_back(bundle):
    model = load_model(bundle)
    assert not model.training
