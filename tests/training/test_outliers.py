import torch
from support.training.steps import plain_fitting

from brainray.training.loop import Batch
from brainray.training.outliers import outliers


def heads(channels=1):
    return torch.rand(6, channels, 40, 40, generator=torch.Generator().manual_seed(0))


def test_outliers_have_the_images_size_and_repeat_with_their_seed():
    first, again, other = (outliers(heads(), 30, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert first.shape == (30, 1, 40, 40)
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert first.min() >= 0 and first.max() <= 1
    assert outliers(heads(3), 5, torch.Generator()).shape == (5, 3, 40, 40)
    assert outliers(heads(), 0, torch.Generator()).shape == (0, 1, 40, 40)


def test_being_sure_of_an_outlier_costs_and_being_unsure_costs_least():
    step_config = plain_fitting(classes=3, image_px=40, outliers=0.5)
    image, unsure, sure = torch.tensor([5.0, 0, 0]), torch.zeros(3), torch.tensor([0.0, 9, 0])
    label = torch.tensor([0])
    alone = step_config.loss(image[None], label)
    assert (
        alone
        < step_config.loss(torch.stack([image, unsure]), label)
        < step_config.loss(torch.stack([image, sure]), label)
    )
    batch = torch.randint(0, 255, (6, 40, 40), dtype=torch.uint8)
    images, regions = step_config.prepare_changed(Batch(batch, label.expand(6)), torch.Generator())
    assert images.shape == (9, 1, 40, 40) and regions.shape == (6, 0, 40, 40)
