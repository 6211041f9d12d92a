"""A training that diverges ends with one line, and leaves no model that gives no numbers."""

import numpy as np
import pytest
import torch

from brainray.config import TrainOptions
from brainray.errors import BadRequest
from brainray.training.decoded import DecodedRows
from brainray.training.trainer import FitSpec, Trainer


@pytest.fixture
def rows():
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 16)).astype(np.uint8)
    numbers = np.arange(16)
    finding = np.full((16, 4), np.nan, np.float32)
    batch = {"position": numbers, "label": numbers % 2, "picture": numbers, "finding": finding, "pixels": pixels}
    return DecodedRows([batch])


def trainer(**changes):
    options = TrainOptions(image_px=16, width=0.25, batch_size=8, augment=0, outliers=0, precision="fp32", **changes)
    model = options.model_spec(("a", "b"))
    fit_spec = FitSpec(options=options, model=model, class_counts=(8, 8), init=None)
    return Trainer(fit_spec, resume_from=None, device=torch.device("cpu"))


def test_a_learning_rate_that_is_too_high_ends_the_epoch_with_what_to_do(rows):
    with pytest.raises(BadRequest, match=r"^training has diverged in epoch 1: .* lower learning rate than --lr 1e\+30"):
        trainer(lr=1e30).epoch(rows)


def test_weights_without_numbers_measure_nothing(rows):
    diverged = trainer()
    with torch.no_grad():
        next(diverged.eval_model.parameters()).fill_(float("inf"))
    with pytest.raises(BadRequest, match="training has diverged"):
        diverged.evaluate(rows)


def test_a_training_that_goes_well_is_left_alone(rows):
    learner = trainer()
    assert np.isfinite(learner.epoch(rows)) and np.isfinite(learner.evaluate(rows)).all()
