"""The frozen encoder: the same features everywhere, from weights that no training changes."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from support.each import each
from support.imaging.pictures import head

from brainray.models.efficientnet_lite import LiteCNN, load_imagenet
from brainray.models.encoder import FILE, TAPS, FrozenEncoder, frozen_encoder
from brainray.models.reference import COUNT


@pytest.fixture(scope="module")
def slices():
    import cv2

    return np.stack([cv2.resize(head(index), (160, 160), interpolation=cv2.INTER_AREA) for index in range(24)])


def test_its_weights_are_those_of_the_package_in_fp16():
    theirs = LiteCNN("lite0", channels=1, classes=1)
    load_imagenet(theirs, "lite0")
    stored = load_file(FILE)
    known = theirs.features.state_dict()
    names = [name for name in stored if name.startswith("features.")]
    assert len(names) == len([n for n in theirs.features[: max(TAPS) + 1].state_dict() if "num_batches" not in n])
    assert all(torch.equal(stored[name], known[name.removeprefix("features.")].half()) for name in names)
    assert FILE.stat().st_size < 800_000


def test_features_do_not_depend_on_the_batch_or_on_threads(slices):
    whole = frozen_encoder()(slices)
    alone = np.concatenate([FrozenEncoder(load_file(FILE))(slices[i : i + 1]) for i in range(3)])
    assert whole.shape == (24, COUNT) and np.abs(whole[:3] - alone).max() < 1e-3
    assert frozen_encoder()(slices[:0]).shape == (0, COUNT)


def test_drawn_slices_have_features_of_mean_0_and_spread_1(slices):
    features = frozen_encoder()(slices)
    assert np.abs(features.mean(0)).mean() < 0.5 and 0.5 < features.std(0).mean() < 1.5


@each("shape", [(2, 32, 32), (2, 224, 224, 3), (1, 129, 129)])
def test_images_of_any_size_and_colour_have_features(shape):
    images = np.random.default_rng(0).integers(0, 255, shape, dtype=np.uint8)
    assert np.isfinite(frozen_encoder()(images)).all()


def test_blurred_and_equalised_pictures_are_told_from_more_of_the_same(slices):
    import cv2

    encoder, half = frozen_encoder(), slices[12:]
    reference = encoder(slices[:12])
    mean, spread = reference.mean(0), reference.std(0)

    def distance(pictures):
        return np.abs((encoder(pictures).mean(0) - mean) / spread).mean()

    blurred = np.stack([cv2.GaussianBlur(each, (0, 0), 1.5) for each in half])
    equalised = np.stack([cv2.createCLAHE(2.0, (8, 8)).apply(each) for each in half])
    assert min(distance(blurred), distance(equalised)) > 1.5 * distance(half)
