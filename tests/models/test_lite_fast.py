import copy
import warnings

import pytest
import torch

from brainray.config import ImageSpec, ModelSpec
from brainray.models.fusion import prepare_for_inference
from brainray.models.lite_fast import plain_stem, stem_weights
from brainray.models.networks import build_model, cost_of

SPEC = ModelSpec(name="lite0-fast", classes=("a", "b", "c"))


@pytest.mark.parametrize(("px", "cells"), [(96, 6), (100, 7), (176, 11)])
def test_any_size_of_image_has_a_grid_of_16_pixels(px, cells):
    """The two grids that are joined have sizes that do not divide each other."""
    network = build_model(SPEC).eval()
    images = torch.rand(2, 1, px, px)
    assert network.features(images).shape == (2, 384, cells, cells)
    assert network(images).shape == (2, 3)


def test_it_is_traced_and_fused_for_inference():
    """Unfused it scores a third slower, and nobody would notice."""
    network = build_model(SPEC).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fused = prepare_for_inference(copy.deepcopy(network), torch.device("cpu"), bf16=False)
    images = torch.rand(3, 1, 96, 96).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        assert torch.allclose(fused(images).float(), network(images), atol=1e-3)
    assert not [node for node in fused.graph.nodes if "norm" in str(node.target).lower()]


def test_the_stem_of_the_package_fits_its_network():
    plain_stem(1).load_state_dict(stem_weights(1))
    three = plain_stem(3)
    three.load_state_dict(stem_weights(3))
    one = plain_stem(1)
    one.load_state_dict(stem_weights(1))
    images = torch.rand(2, 1, 64, 64)
    assert torch.allclose(one.eval()(images), three.eval()(images.expand(-1, 3, -1, -1)), atol=1e-4)


def test_its_cost_is_what_its_docstring_says():
    fast = cost_of(SPEC, ImageSpec(image_px=192))
    assert round(fast.parameters / 1e6, 1) == 3.3 and round(fast.gmac, 2) == 0.33
