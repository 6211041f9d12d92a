"""Maps from the forward pass that scores: they change no probability, and hold what the network computed."""

import numpy as np
import pytest
from support.models.bundles import untrained

from brainray.errors import BadRequest
from brainray.models.map_values import class_order
from brainray.models.maps import ClassMaps
from brainray.models.predictor import Predictor
from brainray.models.scored_maps import MappingPredictor


def noise(bundle, images=5):
    shape = (images, bundle.image.image_px, bundle.image.image_px)
    return np.random.default_rng(0).integers(0, 255, shape).astype(np.uint8)


@pytest.mark.parametrize("precision", ["fp32", "auto"])
@pytest.mark.parametrize("name", ["compact", "lite0"])
def test_probabilities_are_the_same_to_the_last_digit(tmp_path, name, precision):
    bundle = untrained(tmp_path, model=name, image_px=64)
    predictor = Predictor(bundle, batch_size=2, precision=precision)
    images = noise(bundle)
    probs_NK, maps = MappingPredictor(predictor, name)(images)
    np.testing.assert_array_equal(probs_NK, predictor(images))
    assert len(maps) == len(images)
    np.testing.assert_array_equal(maps.order_NC, class_order(probs_NK))


@pytest.mark.parametrize(("precision", "atol"), [("fp32", 2e-3), ("auto", 0.05)])
def test_maps_are_those_that_are_computed_alone(tmp_path, precision, atol):
    bundle = untrained(tmp_path, model="lite0", image_px=64)
    images = noise(bundle)
    _, maps = MappingPredictor(Predictor(bundle, precision=precision), "lite0")(images)
    means = maps.values_NChw.astype(np.float32).mean((2, 3)) + maps.biases_NC
    np.testing.assert_allclose(means, maps.logits_NC, atol=2e-3)  # values are stored in half precision
    values_NKhw, logits_NK = ClassMaps(bundle)(images)
    order = maps.order_NC[:, :, None, None]
    np.testing.assert_allclose(maps.values_NChw, np.take_along_axis(values_NKhw, order, axis=1), atol=atol)
    np.testing.assert_allclose(maps.logits_NC, np.take_along_axis(logits_NK, maps.order_NC, axis=1), atol=atol)


def test_no_image_has_no_map(tmp_path):
    bundle = untrained(tmp_path)
    probs_NK, maps = MappingPredictor(Predictor(bundle), "compact")(noise(bundle, 0))
    assert probs_NK.shape == (0, 4)
    assert maps is None


def test_a_network_without_exact_maps_is_refused(tmp_path):
    bundle = untrained(tmp_path, model="squeezenet1_1", image_px=64)
    with pytest.raises(BadRequest, match="squeezenet1_1 does not end in an average"):
        MappingPredictor(Predictor(bundle, precision="fp32"), "squeezenet1_1")
