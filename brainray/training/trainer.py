"""Trains one network on one worker: builds weights, optimizer, schedule and average, and runs epoch after epoch.

Imports no Ray, writes no checkpoint and does not decide when to stop. Axes: N images, K classes.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from brainray.config import ModelSpec, TrainOptions
from brainray.errors import BadRequest
from brainray.machine.hardware import keep_freed_memory
from brainray.models.bundle import Bundle, load_model
from brainray.models.networks import begin_with, build_model, go_on_from
from brainray.models.predictor import use_bf16

from . import loop
from .checkpoint import Checkpoint
from .decoded import DecodedRows
from .regions import WithMaps
from .teaching import Teachers, Teaching

_VALIDATION_BATCH = 128


@dataclass(frozen=True, kw_only=True)
class FitSpec:
    """Settings of one fit; the same on every worker and in every epoch."""

    options: TrainOptions
    model: ModelSpec
    class_counts: tuple[int, ...]  # training pictures of each class
    init: Bundle | None  # model whose weights training starts from
    has_boxes: bool = False  # whether some images have a box, so that maps are trained
    teaching: Teaching | None = None  # the model that teaches

    @property
    def pictures(self) -> int:
        """Number of training pictures."""
        return sum(self.class_counts)


class Trainer:
    """A network in training; starts from initial weights or resumes from a checkpoint."""

    def __init__(
        self,
        fit_spec: FitSpec,
        *,
        resume_from: Checkpoint | None,
        device: torch.device,
        shares: int = 1,
        workers: int = 1,
        threads: int = 1,
        wrap: Callable[[nn.Module], nn.Module] | None = None,
    ) -> None:
        """Build network and optimizer. Raises what loading the weights of `init` raises.

        `shares`: number of parts the pictures are divided into, one of which this worker has. `workers`: processes
        that train together. `threads` are those that this worker may use; beside a GPU they augment. `wrap` returns the
        network on its device with their gradients synchronised.
        """
        if device.type == "cpu":
            keep_freed_memory()
        options = fit_spec.options
        self._options = options
        self._epochs = resume_from.epoch if resume_from else 0
        self.batch = max(1, options.batch_size // workers)
        self.steps = -(-fit_spec.pictures // (shares * self.batch))  # steps of an epoch
        self._step_config = loop.StepConfig(
            spec=options.image_spec,
            device=device,
            bf16=use_bf16(options.precision, device),
            class_weights_K=loop.class_weights(np.array(fit_spec.class_counts)),
            label_smoothing=options.label_smoothing,
            augment=options.augment,
            outliers=options.outliers,
            region_weight=options.region_weight,
        )
        self._has_boxes, self._teaching = fit_spec.has_boxes, fit_spec.teaching
        # A CPU has enough to do with the network: with a thread it is 7 % slower (2 cores, lite0).
        self._preparing = 0 if device.type == "cpu" else threads
        self._teachers = self._load_teachers()
        model = _first_weights(fit_spec)
        if resume_from:
            model.load_state_dict(resume_from.model)
        self.average = self._average_of(model, resume_from) if options.averaging else None
        self.model = (wrap or (lambda module: module.to(device)))(WithMaps(model) if self._has_boxes else model)
        self.optimizer = loop.make_optimizer(self.model, options, moments=resume_from.moments if resume_from else None)
        self.schedule = loop.make_schedule(
            self.optimizer,
            total_steps=self.steps * options.epochs,
            warmup_fraction=options.warmup_fraction,
            done_steps=self.steps * self._epochs,
        )

    def _average_of(self, model: nn.Module, resume_from: Checkpoint | None) -> AveragedModel:
        average = loop.make_average(model, decay=self._options.averaging, device=self._step_config.device)
        if resume_from and resume_from.average:
            steps = torch.tensor(1 + self.steps * self._epochs)  # for checkpoints of format 2, which lack it
            average.load_state_dict({"n_averaged": steps, **resume_from.average})
        return average

    def _load_teachers(self) -> Teachers | None:
        device, bf16 = self._step_config.device, self._step_config.bf16
        return Teachers(self._teaching.bundle, device, bf16=bf16) if self._teaching else None

    @property
    def eval_model(self) -> nn.Module:
        """The network that is validated and stored: the average where there is one."""
        return loop.unwrap(self.average or self.model)

    def epoch(self, rows: DecodedRows, *, rank: int = 0) -> float:
        """Train an epoch on this worker's images; returns the mean loss. Raises `BadRequest` where it diverges."""
        self._epochs += 1
        generator = loop.seed_epoch(seed=self._options.seed, epoch=self._epochs, rank=rank)
        loss = loop.train_epoch(
            self.model,
            loop.shuffled_batches(
                rows.pixels,
                rows.label,
                rows.picture,
                rows.finding if self._has_boxes else None,
                self._teaching.fold_N[rows.position] if self._teaching else None,
                batch_size=self.batch,
                steps=self.steps,
                generator=generator,
            ),
            step_config=self._step_config,
            optimizer=self.optimizer,
            schedule=self.schedule,
            generator=generator,
            average=self.average,
            teachers=self._teachers,
            preparing=self._preparing,
        )
        self._check_finite(math.isfinite(loss) and all(bool(p.isfinite().all()) for p in self.model.parameters()))
        return loss

    def evaluate(self, rows: DecodedRows) -> npt.NDArray[np.float32]:
        """Compute logits [N, K] of a worker's images. Raises `BadRequest` where training has diverged."""
        batches = loop.ordered_batches(rows.pixels, rows.label, batch_size=_VALIDATION_BATCH)
        logits_NK = loop.evaluate(self.eval_model, batches, step_config=self._step_config)
        self._check_finite(bool(np.isfinite(logits_NK).all()))
        return logits_NK

    def _check_finite(self, is_finite: bool) -> None:
        if not is_finite:
            raise BadRequest(
                f"training has diverged in epoch {self._epochs}: its loss or its weights are no numbers any more; "
                f"give a lower learning rate than --lr {self._options.lr:g}, and a new --output"
            )


def _first_weights(fit_spec: FitSpec) -> nn.Module:
    torch.manual_seed(fit_spec.options.seed)
    model = build_model(fit_spec.model)
    if fit_spec.init:
        same = fit_spec.init.classes == fit_spec.model.classes
        go_on_from(model, load_model(fit_spec.init).state_dict(), same_classes=same)
    else:
        begin_with(model, fit_spec.model, fit_spec.options.weights)
    return model.to(memory_format=torch.channels_last)
