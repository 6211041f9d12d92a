"""A network in training, on one worker: weights, optimizer, schedule and average, epoch by epoch. Knows no Ray.

Axes: N images, K classes.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from brainray.config import ModelSpec, TrainOptions
from brainray.hardware import keep_freed_memory
from brainray.models.bundle import Bundle, load_model
from brainray.models.networks import begin_with, build_model, go_on_from
from brainray.models.predictor import use_bf16

from . import loop
from .checkpoint import Checkpoint
from .decoded import DecodedRows

_VALIDATION_BATCH = 128


@dataclass(frozen=True, kw_only=True)
class FitSpec:
    """What is to be learned and how; the same on every worker and from the first epoch to the last."""

    options: TrainOptions
    model: ModelSpec
    class_counts: tuple[int, ...]  # of the pictures that are learned from
    init: Bundle | None  # whose weights are begun with

    @property
    def pictures(self) -> int:
        return sum(self.class_counts)


class Trainer:
    """Begins with the first weights, or goes on from a checkpoint."""

    def __init__(
        self,
        lesson: FitSpec,
        *,
        begun: Checkpoint | None,
        device: torch.device,
        shares: int = 1,
        workers: int = 1,
        wrap: Callable[[nn.Module], nn.Module] | None = None,
    ) -> None:
        """`shares`: of the pictures, of which this worker has one; `wrap` joins the gradients of `workers`."""
        if device.type == "cpu":
            keep_freed_memory()
        options = lesson.options
        self._options = options
        self._epochs = begun.epoch if begun else 0
        self.batch = max(1, options.batch_size // workers)
        self.steps = -(-lesson.pictures // (shares * self.batch))  # in an epoch
        self._fitting = loop.StepConfig(
            spec=options.image_spec,
            device=device,
            bf16=use_bf16(options.precision, device),
            class_weights_K=loop.class_weights(np.array(lesson.class_counts)),
            label_smoothing=options.label_smoothing,
            augment=options.augment,
            outliers=options.outliers,
        )
        model = _first_weights(lesson)
        if begun:
            model.load_state_dict(begun.model)
        self.average = self._average_of(model, begun) if options.averaging else None
        self.model = (wrap or (lambda module: module.to(device)))(model)
        self.optimizer = loop.make_optimizer(self.model, options, moments=begun.moments if begun else None)
        self.schedule = loop.make_schedule(
            self.optimizer,
            total_steps=self.steps * options.epochs,
            warmup_fraction=options.warmup_fraction,
            done_steps=self.steps * self._epochs,
        )

    def _average_of(self, model: nn.Module, begun: Checkpoint | None) -> AveragedModel:
        average = loop.make_average(model, decay=self._options.averaging, device=self._fitting.device)
        if begun and begun.average:
            steps = torch.tensor(1 + self.steps * self._epochs)  # for checkpoints that were written without
            average.load_state_dict({"n_averaged": steps, **begun.average})
        return average

    @property
    def eval_model(self) -> nn.Module:
        """The network that is validated and kept."""
        return loop.unwrap(self.average or self.model)

    def epoch(self, rows: DecodedRows, *, rank: int = 0) -> float:
        """The next pass over this worker's images. Returns the mean loss."""
        self._epochs += 1
        generator = loop.seed_epoch(seed=self._options.seed, epoch=self._epochs, rank=rank)
        return loop.train_epoch(
            self.model,
            loop.shuffled_batches(
                rows.pixels, rows.label, rows.picture, batch_size=self.batch, steps=self.steps, generator=generator
            ),
            fitting=self._fitting,
            optimizer=self.optimizer,
            schedule=self.schedule,
            generator=generator,
            average=self.average,
        )

    def evaluate(self, rows: DecodedRows) -> npt.NDArray[np.float32]:
        """Logits [N, K] of a worker's images."""
        batches = loop.ordered_batches(rows.pixels, rows.label, batch_size=_VALIDATION_BATCH)
        return loop.evaluate(self.eval_model, batches, fitting=self._fitting)


def _first_weights(lesson: FitSpec) -> nn.Module:
    torch.manual_seed(lesson.options.seed)
    model = build_model(lesson.model)
    if lesson.init:
        same = lesson.init.classes == lesson.model.classes
        go_on_from(model, load_model(lesson.init).state_dict(), same_classes=same)
    else:
        begin_with(model, lesson.model, lesson.options.weights)
    return model.to(memory_format=torch.channels_last)
