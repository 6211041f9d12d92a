import numpy as np
import pytest
from support.each import each

from brainray.evaluation.calibration import fit_temperature, rare_class_bias, softmax


def test_rare_classes_are_raised_and_equal_ones_left_alone():
    assert rare_class_bias(np.array([50, 50])) == (0.0, 0.0)
    common, rare = rare_class_bias(np.array([900, 100]))
    assert rare - common == pytest.approx(0.5 * np.log(9), abs=1e-3)
    assert rare_class_bias(np.array([5, 0]))[1] > 0, "a class of which nothing was learned divides by no zero"


def test_temperature_cools_what_is_too_sure():
    rng = np.random.default_rng(0)
    honest = (2 * np.eye(4)[rng.integers(0, 4, 4000)]).astype(np.float32)
    labels = (honest + rng.gumbel(size=honest.shape)).argmax(1)  # drawn from the softmax of `honest`
    assert fit_temperature(honest, labels) == pytest.approx(1.0, rel=0.1)
    assert fit_temperature(3 * honest, labels) == pytest.approx(3.0, rel=0.1)
    assert softmax(3 * honest, 3.0) == pytest.approx(softmax(honest, 1.0), abs=1e-6)


@each(
    ("spread", "classes", "images", "temperature", "first"),
    [
        (6, 4, 500, 1.8987, [0.66377597, 0.0026459, 0.02044783, 0.3131303]),
        (0.5, 3, 300, 1.0534, [0.40421452, 0.33320942, 0.26257606]),
        (2.5, 4, 2000, 2.0, [0.59029621, 0.29292217, 0.06295591, 0.05382571]),
    ],
)
def test_temperatures_and_probabilities_are_those_that_torch_gave(spread, classes, images, temperature, first):
    """The figures of models that are there were computed by torch in fp32 and fp64; the numbers here were, too."""
    rng = np.random.default_rng(images)
    logits = (spread * rng.normal(size=(images, classes))).astype(np.float32)
    labels = (logits / 2 + rng.gumbel(size=logits.shape)).argmax(1)
    assert fit_temperature(logits, labels) == pytest.approx(temperature, abs=1e-4)
    assert softmax(logits[:1], 1.7, (0.3,) * (classes - 1) + (-0.2,))[0] == pytest.approx(first, abs=1e-8)
