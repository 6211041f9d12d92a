import numpy as np
import pytest
import torch
from support.training.steps import plain_fitting

from brainray.config import ModelSpec, TrainOptions
from brainray.models.networks import build_model
from brainray.training import loop
from brainray.training.augment import augment_with_regions
from brainray.training.decoded import NO_BOX
from brainray.training.loop import Batch
from brainray.training.regions import WithMaps, region_loss, region_masks, without_slivers


def test_a_mask_is_one_inside_its_box_and_nothing_without_one():
    masks = region_masks(np.array([[0, 0.5, 0.25, 1], NO_BOX, [0.5, 0.5, 0.501, 0.501]], np.float32), 8)
    assert masks.sum((1, 2, 3)).tolist() == [8, 0, 1]  # a box smaller than a pixel is one
    assert masks[0, 0, 4:, :2].all()


def test_regions_move_with_the_images():
    """A flipped and turned image keeps its tumour inside its box."""
    generator = torch.Generator().manual_seed(3)
    regions = region_masks(np.array([[0.3, 0.2, 0.5, 0.45]] * 12, np.float32), 64)
    images, moved = augment_with_regions(regions.clone(), regions, generator, strength=0.3)
    for image, region in zip(images, moved, strict=True):
        bright = image > image.max() / 2
        assert (bright & (region > 0.5)).sum() > 0.6 * (bright | (region > 0.5)).sum()


def test_a_map_that_lies_in_the_box_costs_less_than_one_beside_it():
    labels, regions = torch.tensor([1, 0]), region_masks(np.array([[0, 0, 0.5, 0.5], NO_BOX], np.float32), 8)
    inside, outside = torch.zeros(2, 2, 4, 4), torch.zeros(2, 2, 4, 4)
    inside[0, 1, 0, 0], outside[0, 1, 3, 3] = 5, 5
    assert region_loss(inside, labels, regions) < 0.2 < 3 < region_loss(outside, labels, regions)
    assert region_loss(inside[1:], labels[1:], regions[1:]) == 0  # no box: nothing to learn from


@pytest.mark.parametrize("name", ["compact", "lite0"])
def test_the_mean_of_a_map_is_the_logit(name):
    network = build_model(ModelSpec(name=name, classes=("a", "b", "c"))).eval()
    logits, maps = WithMaps(network)(torch.rand(2, 1, 64, 64))
    assert torch.allclose(maps.mean((2, 3)), logits, atol=1e-4)
    assert loop.unwrap(WithMaps(network)) is network


def test_a_box_that_lies_outside_the_crop_teaches_nothing():
    boxes = np.array([[-0.5, 0.2, -0.1, 0.6], [1.2, 0.2, 1.6, 0.6], [-0.1, 0.2, 0.3, 0.6]], np.float32)
    assert region_masks(boxes, 20).sum((1, 2, 3)).tolist() == [0, 0, 6 * 8]
    before, moved = torch.ones(2, 1, 4, 4), torch.ones(2, 1, 4, 4)
    moved[0, 0, :, 1:] = 0
    assert without_slivers(moved, before).sum((1, 2, 3)).tolist() == [0, 16]


def peaks_in_boxes(region_weight):
    """The share of images whose map has its peak in the box, after a short training."""
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.full((32, 64, 64), 20, dtype=torch.uint8), torch.arange(32) % 2
    boxes = np.full((32, 4), NO_BOX, np.float32)
    for place in range(32):
        left, top = (4 * torch.randint(1, 11, (2,), generator=generator)).tolist()
        images[place, top : top + 16, left : left + 16] = 120 + 120 * int(labels[place])
        boxes[place] = np.array([left, top, left + 16, top + 16]) / 64
    torch.manual_seed(0)
    model = WithMaps(build_model(ModelSpec(name="compact", classes=("a", "b"), width=0.25)))
    step_config = plain_fitting(classes=2, image_px=64, region_weight=region_weight, augment=0.0)
    optimizer = loop.make_optimizer(model, TrainOptions())
    schedule = loop.make_schedule(optimizer, total_steps=60, warmup_fraction=0.1)
    for _ in range(20):
        loop.train_epoch(
            model,
            [Batch(images, labels, boxes)],
            step_config=step_config,
            optimizer=optimizer,
            schedule=schedule,
            generator=generator,
        )
    model.eval()
    _, maps = model(step_config.prepare(images))
    side = maps.shape[-1]
    peak = maps[torch.arange(32), labels].flatten(1).argmax(1)
    y, x = ((peak // side + 0.5) / side).numpy(), ((peak % side + 0.5) / side).numpy()
    reach = 0.5 / side  # the cell touches the box
    left, top, right, bottom = boxes.T
    return ((x > left - reach) & (x < right + reach) & (y > top - reach) & (y < bottom + reach)).mean()


def test_boxes_teach_where_to_look():
    """Two classes that differ by how bright a spot is: with boxes the peak of the map lies on it."""
    assert peaks_in_boxes(1.0) > max(0.9, peaks_in_boxes(0.0))
