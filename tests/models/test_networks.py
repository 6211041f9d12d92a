import numpy as np
import pytest
import torch
from support.each import each
from support.models.bundles import CLASSES, derived, untrained

from brainray.config import ImageSpec, ModelSpec
from brainray.errors import BadRequest
from brainray.models import fusion
from brainray.models.bundle import Bundle, load_model
from brainray.models.fusion import prepare_for_inference
from brainray.models.networks import COMPACT, ResidualBlock, build_model, check_network, cost_of, go_on_from
from brainray.models.predictor import Predictor, normalise


@each("channels", [1, 3])
@each("classes", [2, 4, 7])
def test_any_number_of_classes_and_both_channel_counts(channels, classes):
    spec = ModelSpec(classes=tuple(f"c{i}" for i in range(classes)), channels=channels)
    logits_NK = build_model(spec).eval()(torch.zeros(2, channels, 64, 64))
    assert logits_NK.shape == (2, classes)


def test_our_own_network_is_compact():
    assert cost_of(ModelSpec(classes=CLASSES), ImageSpec()).parameters < 2_000_000


def test_training_a_narrow_network_computes_right_gradients():
    """oneDNN's strided 1x1 convolution with less than 16 channels ends the process, which pytest tells with this test.

    That takes several threads, and up to 40 turns.
    """
    threads = torch.get_num_threads()
    torch.manual_seed(0)
    block = ResidualBlock(8, 16, stride=2).to(memory_format=torch.channels_last)
    exact = ResidualBlock(8, 16, stride=2).double()
    exact.load_state_dict(block.state_dict())
    torch.set_num_threads(2)
    try:
        for _ in range(40):
            block.zero_grad(), exact.zero_grad()
            x = torch.randn(5, 8, 16, 16).to(memory_format=torch.channels_last)
            block(x).square().mean().backward()
            exact(x.double().contiguous()).square().mean().backward()
            for ours, theirs in zip(block.parameters(), exact.parameters(), strict=True):
                torch.testing.assert_close(ours.grad.double(), theirs.grad, rtol=1e-3, atol=1e-5)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "resnet18"])
def test_a_torchvision_network_takes_grey_images(name):
    spec = ModelSpec(name=name, classes=CLASSES, channels=1)
    assert build_model(spec).eval()(torch.zeros(1, 1, 64, 64)).shape == (1, 4)


def test_an_unknown_network_is_named_with_a_hint():
    with pytest.raises(BadRequest, match=r"--model 'resnet19' is no network of ours .* near it: resnet101"):
        build_model(ModelSpec(name="resnet19", classes=CLASSES))
    with pytest.raises(BadRequest, match="try compact"):
        build_model(ModelSpec(name="zzz", classes=CLASSES))


@pytest.mark.parametrize(("name", "image_px"), [("vgg11", 16), ("vit_b_16", 160)])
def test_a_network_for_other_sizes_is_refused_before_anything_is_decoded(name, image_px):
    """Else three sets of workers would fail, one after the other, after minutes."""
    with pytest.raises(BadRequest, match=rf"^--image-px {image_px}: {name} takes no images of this size \(\w.*224$"):
        check_network(ModelSpec(name=name, classes=CLASSES), ImageSpec(image_px=image_px), "none")


CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("name", "bf16", "tolerance"),
    [
        ("compact", False, 1e-4),
        ("compact", True, 0.05),
        ("resnet18", False, 1e-4),
        ("mobilenet_v3_small", True, 0.05),
        ("mobilenet_v3_small", False, 1e-4),
        ("googlenet", False, 1e-4),
    ],
)
def test_a_prepared_network_gives_the_same_logits_but_for_rounding(name, bf16, tolerance):
    torch.manual_seed(0)
    model = build_model(ModelSpec(name=name, classes=CLASSES))
    for module in model.modules():  # as after training: no layer is neutral
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.uniform_(module.running_var, 0.5, 2.0)
            torch.nn.init.normal_(module.bias, std=0.1)
    images = torch.randn(4, 1, 64, 64)
    with torch.inference_mode():
        expected = model.eval()(images)
        prepared = prepare_for_inference(model, CPU, bf16=bf16)
        logits = prepared(images.bfloat16() if bf16 else images).float()
    scale = float(expected.abs().max())
    torch.testing.assert_close(logits / scale, expected / scale, rtol=0, atol=tolerance)


@pytest.mark.parametrize("bf16", [True, False])
@pytest.mark.parametrize(("name", "activations", "sums"), [("compact", 7, 6), ("lite0", 33, 9), ("resnet18", 9, 8)])
def test_batch_normalisation_activations_and_sums_are_fused_with_their_convolution(
    name, activations, sums, bf16, monkeypatch
):
    """A torch that fx or the fused operator no longer fits scores right, and 40 % slower: nothing else would tell."""
    monkeypatch.setattr(fusion, "fused_runs", lambda *, bf16: True)  # also where they would not run
    prepared = prepare_for_inference(build_model(ModelSpec(name=name, classes=CLASSES)), CPU, bf16=bf16)
    called = [prepared.get_submodule(node.target) for node in prepared.graph.nodes if node.op == "call_module"]
    kinds = [type(module).__name__ for module in called]
    assert kinds.count("_ConvActivation") == activations
    assert kinds.count("_ConvAdd") == sums
    assert not {"BatchNorm2d", "ReLU", "ReLU6"} & set(kinds)


def test_where_fused_operators_do_not_run_bf16_is_computed_without_them(bundle: Bundle, monkeypatch):
    """`--precision bf16` on a processor without AVX-512 ended in oneDNN's RuntimeError."""
    monkeypatch.setattr(fusion, "fused_runs", lambda *, bf16: not bf16)
    exact, slow = (Predictor(bundle, precision=precision)(images_of(4)) for precision in ("fp32", "bf16"))
    np.testing.assert_allclose(slow, exact, atol=0.03)


def test_a_network_that_torch_cannot_trace_is_scored_and_the_reason_is_told_once(bundle: Bundle, monkeypatch):
    def fail(model):
        raise TypeError("no\nproxy")

    monkeypatch.setattr(fusion.fx, "symbolic_trace", fail)
    said: list[str] = []
    probs_NK = Predictor(bundle, precision="fp32", say=said.append)(images_of(3))
    assert probs_NK.shape == (3, 4) and len(said) == 1
    assert "cannot trace" in said[0] and said[0].endswith("(TypeError: no proxy)")
    with pytest.warns(UserWarning, match="scores more slowly"):
        Predictor(bundle)


def test_logits_are_in_full_precision(bundle: Bundle):
    with torch.inference_mode():
        prepared = prepare_for_inference(load_model(bundle), CPU, bf16=True)
        assert prepared(torch.zeros(1, 1, 32, 32, dtype=torch.bfloat16)).dtype == torch.float64


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
@pytest.mark.parametrize("size", [1, 2, 5, 16])
def test_a_probability_does_not_depend_on_who_shares_the_batch(bundle: Bundle, precision: str, size: int):
    """An image scored later, alone, gets the very row that a whole run gives it."""
    images = images_of(18)
    predict = Predictor(bundle, precision=precision)
    whole = predict(images)
    parts = [predict(images[start : start + size]) for start in range(0, len(images), size)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


def images_of(count: int, px: int = 32) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, px, px), dtype=np.uint8)


def test_probabilities_are_the_networks_softmax_at_the_bundles_temperature(bundle: Bundle):
    images = images_of(5)
    probs_NK = Predictor(bundle, batch_size=2, precision="fp32")(images)
    with torch.inference_mode():
        logits = load_model(bundle)(normalise(torch.from_numpy(images), bundle.image))
    expected = torch.softmax(logits / 1.5, dim=1).numpy()
    np.testing.assert_allclose(probs_NK, expected, atol=1e-4)
    np.testing.assert_allclose(probs_NK.sum(1), 1, atol=1e-5)


def test_a_class_that_was_rare_is_raised_after_the_temperature(bundle: Bundle, tmp_path):
    images, bias = images_of(5), (0.0, 0.0, 1.2, -0.3)
    raised = derived(bundle, tmp_path / "raised", temperature=1.5, class_bias=bias)
    before = Predictor(bundle, precision="fp32")(images).astype(np.float64)
    expected = before * np.exp(bias)
    np.testing.assert_allclose(
        Predictor(raised, precision="fp32")(images), expected / expected.sum(1, keepdims=True), atol=1e-5
    )


def test_an_images_probabilities_do_not_depend_on_its_batch(bundle: Bundle):
    images = images_of(7)
    together = Predictor(bundle, batch_size=7, precision="fp32")(images)
    alone = Predictor(bundle, batch_size=1, precision="fp32")(images)
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_bf16_agrees_with_fp32_to_the_second_digit(bundle: Bundle):
    images = images_of(16)
    exact = Predictor(bundle, batch_size=16, precision="fp32")(images)
    fast = Predictor(bundle, batch_size=16, precision="bf16")(images)
    np.testing.assert_allclose(fast, exact, atol=0.03)


def test_no_images_give_no_rows(bundle: Bundle):
    assert Predictor(bundle, batch_size=4)(images_of(0)).shape == (0, 4)


def test_three_channel_images_keep_their_channels(tmp_path):
    made = untrained(tmp_path, channels=3, classes=("a", "b"))
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    assert Predictor(made, batch_size=2)(images).shape == (3, 2)
    pixels = normalise(torch.from_numpy(images), made.image)
    assert pixels.shape == (3, 3, 32, 32)
    assert float(pixels[1, 2, 3, 4]) == pytest.approx((images[1, 3, 4, 2] / 255 - 0.18) / 0.2, abs=1e-5)


@pytest.mark.parametrize("name", [COMPACT, "lite0"])
def test_a_model_for_other_classes_begins_with_all_but_the_last_layer(name):
    before = build_model(ModelSpec(name=name, classes=("a", "b", "c")))
    for classes, same in ((("a", "b", "c"), True), (("x", "y", "z"), False), (("x", "y"), False)):
        after = build_model(ModelSpec(name=name, classes=classes))
        go_on_from(after, before.state_dict(), same_classes=same)
        old, new = before.state_dict(), after.state_dict()
        equal = {key: torch.equal(old[key], new[key]) for key in old if old[key].shape == new[key].shape}
        other = {key for key in old if not equal.get(key)}
        assert other == (set() if same else {"head.3.weight", "head.3.bias"})
