"""One epoch and one evaluation over any iterable of batches, the schedule between them, and when to stop.

Knows no Ray and no file.

Axes: N images, K classes, H height, W width. A batch is (uint8 images [N, H, W] or [N, H, W, 3], int64 labels [N]).
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel

from brainray.config import ImageSpec, TrainOptions
from brainray.evaluation import metrics
from brainray.evaluation.calibration import cross_entropy
from brainray.evaluation.counts import count_confusion
from brainray.models.predictor import normalise, planes, standardise

from .augment import augment
from .outliers import outliers

_OUTLIER_WEIGHT = 0.5  # as Hendrycks et al. (2019) have it

Batch = tuple[Tensor, Tensor]
Labels = npt.NDArray[np.int64]


class Pixels(Protocol):
    """Images [N, H, W] or [N, H, W, 3] of which some are asked for: an array, or what reads from a file."""

    def __getitem__(self, places: Any, /) -> Any: ...  # noqa: ANN401


@dataclass(frozen=True, kw_only=True)
class StepConfig:
    """What every step needs and no step changes."""

    spec: ImageSpec
    device: torch.device
    bf16: bool
    class_weights_K: Tensor
    label_smoothing: float
    augment: float = 1.0  # strength
    outliers: float = 0.0  # pictures of no head for each image

    def autocast(self) -> AbstractContextManager[None]:
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bf16)

    def prepare(self, images: Tensor) -> Tensor:
        return normalise(images.to(self.device, non_blocking=True), self.spec)

    def prepare_changed(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """The same with random changes, and after the images some pictures of no head."""
        shown = planes(images).to(torch.float32).div(255)
        strange = outliers(shown, round(self.outliers * len(images)), generator)
        shown = torch.cat([augment(shown, generator, strength=self.augment), strange])
        return standardise(shown.to(self.device, non_blocking=True), self.spec)

    def loss(self, logits_MK: Tensor, labels_N: Tensor) -> Tensor:
        """Cross entropy of the first N; of what comes after them, with all classes being as likely."""
        count = len(labels_N)
        own = functional.cross_entropy(
            logits_MK[:count],
            labels_N.to(self.device),
            weight=self.class_weights_K.to(self.device),
            label_smoothing=self.label_smoothing,
        )
        if len(logits_MK) == count:
            return own
        return own - _OUTLIER_WEIGHT * functional.log_softmax(logits_MK[count:], dim=1).mean()


def class_weights(counts_K: Labels) -> Tensor:
    """Inverse to the square root of the class's share, mean 1 over the images: rare classes count somewhat more."""
    weights = 1 / np.sqrt(np.maximum(counts_K, 1))
    weights = weights * counts_K.sum() / (weights * counts_K).sum()
    return torch.tensor(weights, dtype=torch.float32)


def seed_epoch(*, seed: int, epoch: int, rank: int) -> torch.Generator:
    """Seed all that an epoch draws from: the generator that is given back, and torch's own, which dropout draws from.

    So an epoch draws the same whatever was drawn before it, and whichever process began the training: there is no
    random state to keep.
    """
    own, torchs = np.random.SeedSequence((seed, epoch, rank)).generate_state(2, np.uint64).tolist()
    torch.manual_seed(torchs)
    return torch.Generator().manual_seed(own)


def make_optimizer(
    model: nn.Module, options: TrainOptions, *, moments: dict[int, Any] | None = None
) -> torch.optim.AdamW:
    """AdamW; no decay for biases and normalisation, whose scale is no complexity.

    `moments` is the "state" of an earlier one's state dict; everything else is as the options say.
    """
    decayed = [p for p in model.parameters() if p.ndim > 1]
    free = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": options.weight_decay}, {"params": free, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=options.lr)
    if moments is not None:
        optimizer.load_state_dict({**optimizer.state_dict(), "state": moments})
    return optimizer


def learning_rate_factor(step: int, *, total: int, warmup_fraction: float) -> float:
    """Linear warm-up, then a cosine down to 1 % (Loshchilov and Hutter 2017)."""
    warmup = max(1, round(total * warmup_fraction))
    if step < warmup:
        return (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, total - warmup))
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress))


def make_schedule(
    optimizer: torch.optim.Optimizer, *, total_steps: int, warmup_fraction: float, done_steps: int = 0
) -> torch.optim.lr_scheduler.LambdaLR:
    """The schedule for an optimizer that has the highest rate, and of whose steps the first were taken elsewhere."""

    def factor(step: int) -> float:
        return learning_rate_factor(done_steps + step, total=total_steps, warmup_fraction=warmup_fraction)

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def shuffled_batches(
    images: Pixels, labels: Labels, pictures: Labels, *, batch_size: int, steps: int, generator: torch.Generator
) -> Iterator[Batch]:
    """`steps` full batches in a fresh order, each time any one of the images that show a picture.

    So what was copied often counts no more than the rest, and copies serve as changes of their picture. Pictures that
    run out begin anew: workers must take equally many steps.
    """
    members = np.argsort(pictures, kind="stable")
    _, starts, counts = np.unique(pictures[members], return_index=True, return_counts=True)
    order = torch.randperm(len(counts), generator=generator).numpy()
    needed = np.resize(order, steps * batch_size)
    which = (torch.rand(len(needed), generator=generator, dtype=torch.float64).numpy() * counts[needed]).astype(
        np.int64
    )
    needed = members[starts[needed] + which]
    for start in range(0, len(needed), batch_size):
        chosen = needed[start : start + batch_size]
        yield torch.from_numpy(images[chosen]), torch.from_numpy(labels[chosen])


def ordered_batches(images: Pixels, labels: Labels, *, batch_size: int) -> Iterator[Batch]:
    """Every image once, in order."""
    for start in range(0, len(labels), batch_size):
        stop = start + batch_size
        yield torch.from_numpy(images[start:stop]), torch.from_numpy(labels[start:stop])


def train_epoch(
    model: nn.Module,
    batches: Iterable[Batch],
    *,
    fitting: StepConfig,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    generator: torch.Generator,
    average: AveragedModel | None = None,
) -> float:
    """One pass. Returns the mean loss of its steps. `average` follows the model."""
    model.train()
    losses: list[Tensor] = []
    for images, labels in batches:
        optimizer.zero_grad(set_to_none=True)
        with fitting.autocast():
            logits_NK = model(fitting.prepare_changed(images, generator))
        loss = fitting.loss(logits_NK.float(), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        schedule.step()
        if average is not None:
            average.update_parameters(unwrap(model))
        losses.append(loss.detach())
    return float(torch.stack(losses).mean()) if losses else math.nan


def make_average(model: nn.Module, *, decay: float, device: torch.device) -> AveragedModel:
    """The exponential moving average of weights and statistics (Polyak and Juditsky 1992); it begins as `model` is.

    In its first steps it moves faster: the average of n states keeps no more than (1 + n) / (10 + n) at the next.
    """
    average = AveragedModel(model, device, multi_avg_fn=partial(_follow, decay), use_buffers=True)
    average.n_averaged.fill_(1)  # the first weights; with none, torch would leave them out
    return average


def _follow(decay: float, means: Sequence[Tensor], values: Sequence[Tensor], averaged: Tensor | int) -> None:
    """Move the averages in place, all of one type."""
    keep = min(decay, (1 + int(averaged)) / (10 + int(averaged)))
    for mean, value in zip(means, values, strict=True):
        if mean.is_floating_point():
            mean.lerp_(value, 1 - keep)
        else:
            mean.copy_(value)


def unwrap(model: nn.Module) -> nn.Module:
    """The network itself: with two workers or more it is wrapped."""
    inner: nn.Module = getattr(model, "module", model)
    return inner


@torch.inference_mode()
def evaluate(model: nn.Module, batches: Iterable[Batch], *, fitting: StepConfig) -> npt.NDArray[np.float32]:
    """Logits [N, K] of every image, in order."""
    model.eval()
    outputs = []
    for images, _ in batches:
        with fitting.autocast():
            outputs.append(model(fitting.prepare(images)).float().cpu())
    return torch.cat(outputs).numpy() if outputs else np.empty((0, len(fitting.class_weights_K)), np.float32)


def validation_figures(logits_NK: npt.NDArray[np.float32], labels_N: Labels, classes: int) -> dict[str, float | None]:
    """Loss, accuracy and mean recall over the classes that occur; None where there is no image to measure on."""
    confusion_KK = count_confusion(labels_N, logits_NK.argmax(1), classes)
    images = len(labels_N)
    return {
        "val_loss": cross_entropy(logits_NK, labels_N) if images else None,
        "val_accuracy": metrics.share_right(confusion_KK),
        "val_balanced_accuracy": metrics.mean_recall(confusion_KK),
        "val_images": images,
    }


def best_of(history: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """The best epoch so far."""
    return next((row for row in reversed(history) if row["best"]), None)


def is_better(row: dict[str, Any], best: dict[str, Any] | None, options: TrainOptions) -> bool:
    """By mean recall over classes, then by loss: what is rare counts as much as what is common.

    With folds the last epoch is the best one: who chooses by figures may not quote them.
    """
    return best is None or options.folds > 0 or _score(row) > _score(best)


def _score(row: dict[str, Any]) -> tuple[float, float]:
    return row["val_balanced_accuracy"], -row["val_loss"]


def is_finished(history: Sequence[dict[str, Any]], options: TrainOptions) -> bool:
    """Whether all epochs are done, or too many went by since the best one."""
    best = best_of(history)
    stale = len(history) - best["epoch"] if best else 0
    return len(history) >= options.epochs or stale >= options.patience
