"""Exact class-activation maps, and where their cells look."""

import numpy as np
import pytest
import torch
from torch import nn

from brainray.config import ImageSpec, ModelSpec
from brainray.errors import BadRequest
from brainray.models.maps import ClassMaps
from brainray.models.networks import build_model

CLASSES = ("glioma", "meningioma", "notumor", "pituitary")
STEP = 16


def network(name="compact", channels=1, seed=0):
    torch.manual_seed(seed)
    return build_model(ModelSpec(name=name, classes=CLASSES, channels=channels))


def noise(spec, images=3):
    shape = (images, spec.image_px, spec.image_px) + ((3,) if spec.channels == 3 else ())
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


class Shifted(nn.Module):
    """A grid of steps of 16 pixels whose cells look `shift` pixels up and left of where they are drawn."""

    def __init__(self, shift, classes=3):
        super().__init__()
        torch.manual_seed(0)
        self.pad = nn.ZeroPad2d((shift, -shift, shift, -shift))
        self.cells = nn.Conv2d(1, 8, STEP, STEP, bias=False)
        nn.init.constant_(self.cells.weight, 1 / STEP**2)
        self.last = nn.Linear(8, classes)

    def forward(self, x):
        return self.last(self.cells(self.pad(x)).relu().mean((2, 3)))


@pytest.mark.parametrize(
    ("name", "channels"),
    [("compact", 1), ("lite0", 1), ("resnet18", 1), ("mobilenet_v2", 3), ("shufflenet_v2_x0_5", 1)],
)
def test_the_mean_of_a_map_plus_the_bias_is_the_logit(name, channels):
    spec, model = ImageSpec(image_px=64, channels=channels), network(name, channels)
    images = noise(spec)
    maps = ClassMaps.of_network(model, spec)
    values, logits = maps(images)
    assert np.abs(values.mean((2, 3)) + maps.biases - logits).max() < 1e-4
    scaled = torch.from_numpy(images).float().reshape(3, 64, 64, channels).permute(0, 3, 1, 2) / 255
    with torch.inference_mode():
        own = model((scaled - spec.mean) / spec.std).numpy()
    assert np.abs(own - logits).max() < 1e-3 * max(1, np.abs(own).max())


def test_the_same_map_twice_and_another_one_after_the_last_layer_is_drawn_anew():
    spec, model = ImageSpec(image_px=64), network()
    images = noise(spec)
    first, _ = ClassMaps.of_network(model, spec)(images)
    again, _ = ClassMaps.of_network(model, spec)(images)
    np.testing.assert_array_equal(first, again)
    model.head[-1].reset_parameters()
    anew, _ = ClassMaps.of_network(model, spec)(images)
    alike = np.corrcoef(first.ravel(), anew.ravel())[0, 1]
    assert abs(alike) < 0.5


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "squeezenet1_1"])
def test_a_network_without_an_exact_map_is_refused(name):
    spec = ImageSpec(image_px=64)
    with pytest.raises(BadRequest, match="no exact map"):
        ClassMaps.of_network(network(name), spec, name)(noise(spec, 1))


@pytest.mark.parametrize("shift", [0, 5, 14, -7])
def test_cells_are_drawn_where_they_look(shift):
    grid = ClassMaps.of_network(Shifted(shift), ImageSpec(image_px=96)).grid
    assert (grid.rows, grid.columns, grid.step_px) == (6, 6, STEP)
    assert abs(grid.left_px + shift) < STEP / 4
    assert abs(grid.top_px + shift) < STEP / 4


def test_the_step_is_that_of_the_network_where_the_grid_does_not_fill_the_image():
    model, spec = Shifted(0), ImageSpec(image_px=104)
    grid = ClassMaps.of_network(model, spec).grid
    assert (grid.columns, grid.step_px) == (6, STEP)
    assert abs(grid.left_px) < STEP / 4


def test_a_network_that_answers_nothing_has_its_grid_in_the_middle():
    model = Shifted(0)
    nn.init.zeros_(model.last.weight)
    grid = ClassMaps.of_network(model, ImageSpec(image_px=96)).grid
    assert grid.box == pytest.approx((0, 0, 96, 96))


def test_paddings_of_strides_move_the_grid_by_half_a_cell():
    """Each 3x3 convolution with stride 2 and padding 1 looks at pixel 2 i from cell i, and so do four: at 16 i."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 1, 3, 2, 1, bias=False) for _ in range(4)]
    for layer in layers:
        nn.init.constant_(layer.weight, 1 / 9)
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 2))
    grid = ClassMaps.of_network(model, ImageSpec(image_px=96)).grid
    assert (grid.columns, grid.step_px) == (6, 16)
    drawn = 16 * 0.5 + grid.left_px, 16 * 0.5 + grid.top_px
    assert drawn == pytest.approx((0.5, 0.5), abs=16 / 4)
