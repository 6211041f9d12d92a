"""`brainray train` on DICOM series without `--groups`, with no Ray: what it promises for so few series."""

import io
from functools import partial

import numpy as np
import pytest
from PIL import Image
from support.imaging.dicoms import LEVELS, dicom
from support.imaging.images import image_bytes
from support.training.fitting import fit_here, says_the_truth

from brainray.cli.app import run
from brainray.commands import train as train_job
from brainray.models.bundle import load_bundle

FRAMES = 20


def drawn(seed):
    with Image.open(io.BytesIO(image_bytes(seed))) as image:
        return np.asarray(image, np.uint16) * LEVELS


@pytest.fixture
def data(tmp_path):
    """Two files of 20 slices in each of two classes, each a series."""
    for file in range(4):
        pixels = np.stack([drawn(100 * file + frame) for frame in range(FRAMES)])
        path = tmp_path / "data" / "ab"[file % 2] / f"{file}.dcm"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(dicom(pixels, SeriesInstanceUID=f"1.2.{file}"))
    return tmp_path / "data"


def test_eighty_right_slices_of_four_series_promise_nothing(data, tmp_path, monkeypatch, capfd):
    """By picture 95 % would be promised, and a reader would trust slices of a fifth series that much."""
    monkeypatch.setattr(train_job, "_fit", partial(fit_here, says=says_the_truth))
    small = ("--epochs", "1", "--image-px", "32", "--width", "0.25", "--folds", "2")
    assert run(["train", "--data", str(data), "--output", str(tmp_path / "model"), *small]) == 0
    metrics = load_bundle(str(tmp_path / "model")).metrics
    assert metrics["images"] == 4 * FRAMES and metrics["accuracy"]["value"] == 1
    assert metrics["resampled"] == {"groups": 0, "units": 4}
    assert metrics["review"]["promise"] is None and metrics["accuracy"]["low"] < 0.6
    card = (tmp_path / "model" / "training" / "model-card.md").read_text()
    assert "**No promise.**" in card and "from 80 pictures of 4 series, files or single pictures" in card
    assert "The images of each of 4 DICOM series or files of several frames stay on one side of every split." in card
    assert "2,000 draws of 4 units, each a series, a file or a picture of neither." in card
    assert "no copy of it and no image of the same series or file" in card
    assert "Nothing tells which images are" not in card and "worst groups" not in card and "by picture" not in card
    assert not (tmp_path / "model" / "training" / "groups.csv").exists()
    assert ", by series) on 80 pictures" in capfd.readouterr().out
