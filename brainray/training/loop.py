"""The training loop: one epoch and one evaluation over any iterable of batches, learning rates, early stopping.

Imports no Ray, opens no file, starts no process: `Trainer` builds what the loop needs.

Axes: N images, K classes, H height, W width, M images and outliers.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol

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
from brainray.machine.ahead import map_ahead
from brainray.models.predictor import normalise, planes, standardise

from .augment import augment_with_regions
from .outliers import outliers
from .regions import Boxes, region_loss, region_masks, without_slivers
from .teaching import Teachers, taught_loss

_OUTLIER_WEIGHT = 0.5  # of the loss on outliers (Hendrycks et al. 2019)


class Batch(NamedTuple):
    """Images with what they teach."""

    images: Tensor  # uint8 [N, H, W] or [N, H, W, 3]
    labels: Tensor  # int64 [N]
    boxes: Boxes | None = None  # where the finding is; None: not taught
    folds: npt.NDArray[np.int8] | None = None  # the teacher's network that has not seen the image; None: no teacher


Labels = npt.NDArray[np.int64]


class Pixels(Protocol):
    """Images [N, H, W] or [N, H, W, 3] that can be indexed: an array, or `DecodedRows.pixels`."""

    def __getitem__(self, places: Any, /) -> Any: ...  # noqa: ANN401


@dataclass(frozen=True, kw_only=True)
class StepConfig:
    """Constant settings of all training and evaluation steps."""

    spec: ImageSpec
    device: torch.device
    bf16: bool
    class_weights_K: Tensor
    label_smoothing: float
    augment: float = 1.0  # strength of augmentation, 0 to 1
    outliers: float = 0.0  # synthetic outliers for each image of a batch
    region_weight: float = 0.0  # of the loss on where the finding is

    def autocast(self) -> AbstractContextManager[None]:
        """Compute in bf16 where the settings say so."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bf16)

    def prepare(self, images: Tensor) -> Tensor:
        """Convert uint8 images to the network's input [N, C, H, W] on the device."""
        return normalise(images.to(self.device, non_blocking=True), self.spec)

    def prepare_changed(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Convert a batch to augmented input [M, C, H, W] and regions [N, R, H, W], R = 0 for a batch without boxes.

        Outliers follow the N images, so that M >= N.
        """
        images_NCHW = planes(batch.images).to(torch.float32).div(255)
        regions = images_NCHW[:, :0] if batch.boxes is None else region_masks(batch.boxes, images_NCHW.shape[-1])
        outlier_images = outliers(images_NCHW, round(self.outliers * len(images_NCHW)), generator)
        changed, moved = augment_with_regions(images_NCHW, regions, generator, strength=self.augment)
        regions = without_slivers(moved, regions) if batch.boxes is not None else moved
        images_MCHW = torch.cat([changed, outlier_images]).to(self.device, non_blocking=True)
        return standardise(images_MCHW, self.spec), regions.to(self.device, non_blocking=True)

    def loss(self, logits_MK: Tensor, labels_N: Tensor, teacher_NK: Tensor | None = None) -> Tensor:
        """Cross entropy of the first N rows, plus that of the outliers after them against a uniform distribution.

        `teacher_NK` are the teacher's logits of the first N rows.
        """
        count = len(labels_N)
        own = functional.cross_entropy(
            logits_MK[:count],
            labels_N.to(self.device),
            weight=self.class_weights_K.to(self.device),
            label_smoothing=self.label_smoothing,
        )
        if teacher_NK is not None:
            own = taught_loss(own, logits_MK[:count], teacher_NK)
        if len(logits_MK) == count:
            return own
        return own - _OUTLIER_WEIGHT * functional.log_softmax(logits_MK[count:], dim=1).mean()


def class_weights(counts_K: Labels) -> Tensor:
    """Weights [K] inverse to the square root of a class's images, with mean 1 over the images."""
    weights = 1 / np.sqrt(np.maximum(counts_K, 1))
    weights = weights * counts_K.sum() / (weights * counts_K).sum()
    return torch.tensor(weights, dtype=torch.float32)


def seed_epoch(*, seed: int, epoch: int, rank: int) -> torch.Generator:
    """Seed an epoch: returns its generator, and seeds torch's global one, which dropout uses.

    An epoch draws the same numbers whatever was drawn before it and whichever process began the training, so no random
    state is stored.
    """
    own_seed, torch_seed = np.random.SeedSequence((seed, epoch, rank)).generate_state(2, np.uint64).tolist()
    torch.manual_seed(torch_seed)
    return torch.Generator().manual_seed(own_seed)


def make_optimizer(
    model: nn.Module, options: TrainOptions, *, moments: dict[int, Any] | None = None
) -> torch.optim.AdamW:
    """Make AdamW without weight decay for biases and normalisation layers.

    `moments` is the "state" of an earlier optimizer's state dict; everything else comes from the options.
    """
    decayed = [p for p in model.parameters() if p.ndim > 1]
    free = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": options.weight_decay}, {"params": free, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=options.lr)
    if moments is not None:
        optimizer.load_state_dict({**optimizer.state_dict(), "state": moments})
    return optimizer


def learning_rate_factor(step: int, *, total: int, warmup_fraction: float) -> float:
    """Factor of the highest rate: linear warm-up, then a cosine down to 1 % (Loshchilov and Hutter 2017)."""
    warmup = max(1, round(total * warmup_fraction))
    if step < warmup:
        return (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, total - warmup))
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress))


def make_schedule(
    optimizer: torch.optim.Optimizer, *, total_steps: int, warmup_fraction: float, done_steps: int = 0
) -> torch.optim.lr_scheduler.LambdaLR:
    """Make the learning-rate schedule; `done_steps` were taken before this process resumed the training."""

    def factor(step: int) -> float:
        return learning_rate_factor(done_steps + step, total=total_steps, warmup_fraction=warmup_fraction)

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def shuffled_batches(
    images: Pixels,
    labels: Labels,
    pictures: Labels,
    boxes: Boxes | None = None,
    folds: npt.NDArray[np.int8] | None = None,
    *,
    batch_size: int,
    steps: int,
    generator: torch.Generator,
) -> Iterator[Batch]:
    """Yield `steps` full batches of pictures in random order, each picture by a random one of its copies.

    So a picture counts once however often it was copied, and copies serve as augmentation. Pictures are repeated when
    they run out, because all workers must take equally many steps.
    """
    members = np.argsort(pictures, kind="stable")
    _, starts, counts = np.unique(pictures[members], return_index=True, return_counts=True)
    order = torch.randperm(len(counts), generator=generator).numpy()
    order_of_use = np.resize(order, steps * batch_size)
    share = torch.rand(len(order_of_use), generator=generator, dtype=torch.float64).numpy()
    copy = (share * counts[order_of_use]).astype(np.int64)
    order_of_use = members[starts[order_of_use] + copy]
    for start in range(0, len(order_of_use), batch_size):
        selected = order_of_use[start : start + batch_size]
        of_selected = (None if values is None else values[selected] for values in (boxes, folds))
        yield Batch(torch.from_numpy(images[selected]), torch.from_numpy(labels[selected]), *of_selected)


def ordered_batches(images: Pixels, labels: Labels, *, batch_size: int) -> Iterator[Batch]:
    """Yield every image once, in order."""
    for start in range(0, len(labels), batch_size):
        stop = start + batch_size
        yield Batch(torch.from_numpy(images[start:stop]), torch.from_numpy(labels[start:stop]))


def prepared_ahead(
    batches: Iterable[Batch], *, step_config: StepConfig, generator: torch.Generator, threads: int
) -> Iterator[tuple[Batch, Tensor, Tensor]]:
    """Yield batches with what `prepare_changed` makes of them, in order, some of them while earlier ones are used.

    Without threads, each is made when it is wanted. Each batch has a generator of its own, so that what is drawn does
    not depend on the number of threads.
    """
    with_own = ((batch, _own_generator(generator)) for batch in batches)

    def prepare(item: tuple[Batch, torch.Generator]) -> tuple[Batch, Tensor, Tensor]:
        return item[0], *step_config.prepare_changed(*item)

    def in_thread(item: tuple[Batch, torch.Generator]) -> tuple[Batch, Tensor, Tensor]:
        torch.set_num_threads(1)  # of the thread that calls this
        return prepare(item)

    return map_ahead(in_thread, with_own, threads=threads) if threads else map(prepare, with_own)


def _own_generator(generator: torch.Generator) -> torch.Generator:
    return torch.Generator().manual_seed(int(torch.randint(2**62, (), generator=generator)))


def train_epoch(
    model: nn.Module,
    batches: Iterable[Batch],
    *,
    step_config: StepConfig,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    generator: torch.Generator,
    average: AveragedModel | None = None,
    teachers: Teachers | None = None,
    preparing: int = 0,
) -> float:
    """Train on the batches once; returns the mean loss of the steps, NaN where there is no batch.

    `average`, a moving average of the weights, is updated after each step. With `teachers`, batches have folds.
    `preparing`: threads that augment the next batches meanwhile; 0: none.
    """
    model.train()
    losses: list[Tensor] = []
    prepared = prepared_ahead(batches, step_config=step_config, generator=generator, threads=preparing)
    for batch, images_MCHW, regions in prepared:
        optimizer.zero_grad(set_to_none=True)
        with step_config.autocast():
            outputs = model(images_MCHW)
        logits_MK, maps = outputs if isinstance(outputs, tuple) else (outputs, None)
        taught_NK = None
        if teachers is not None and batch.folds is not None:
            taught_NK = teachers.logits(images_MCHW[: len(batch.labels)], batch.folds)
        loss = step_config.loss(logits_MK.float(), batch.labels, taught_NK)
        if maps is not None and regions.shape[1]:
            labels_N = batch.labels.to(maps.device)
            loss = loss + step_config.region_weight * region_loss(maps[: len(labels_N)], labels_N, regions)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        schedule.step()
        if average is not None:
            average.update_parameters(unwrap(model))
        losses.append(loss.detach())
    return float(torch.stack(losses).mean()) if losses else math.nan


def make_average(model: nn.Module, *, decay: float, device: torch.device) -> AveragedModel:
    """Make an exponential moving average of weights and statistics (Polyak and Juditsky 1992), at first a copy.

    The decay of the first steps is smaller: after n states it is at most (1 + n) / (10 + n).
    """
    average = AveragedModel(model, device, multi_avg_fn=partial(_follow, decay), use_buffers=True)
    average.n_averaged.fill_(1)  # counts the first weights; at 0 torch would overwrite them
    return average


def _follow(decay: float, means: Sequence[Tensor], values: Sequence[Tensor], averaged: Tensor | int) -> None:
    """Update averages in place; integers, such as counters, are copied."""
    keep = min(decay, (1 + int(averaged)) / (10 + int(averaged)))
    for mean, value in zip(means, values, strict=True):
        if mean.is_floating_point():
            mean.lerp_(value, 1 - keep)
        else:
            mean.copy_(value)


def unwrap(model: nn.Module) -> nn.Module:
    """Return the network inside the wrappers of distributed training, averaging and maps."""
    while hasattr(model, "module"):
        model = model.get_submodule("module")
    return model


@torch.inference_mode()
def evaluate(model: nn.Module, batches: Iterable[Batch], *, step_config: StepConfig) -> npt.NDArray[np.float32]:
    """Compute logits [N, K] of all images, in order."""
    model.eval()
    outputs = []
    for batch in batches:
        with step_config.autocast():
            outputs.append(model(step_config.prepare(batch.images)).float().cpu())
    return torch.cat(outputs).numpy() if outputs else np.empty((0, len(step_config.class_weights_K)), np.float32)


def validation_figures(logits_NK: npt.NDArray[np.float32], labels_N: Labels, classes: int) -> dict[str, float | None]:
    """Loss, accuracy and mean recall over the classes that occur; each None where there is no image."""
    confusion_KK = count_confusion(labels_N, logits_NK.argmax(1), classes)
    images = len(labels_N)
    return {
        "val_loss": cross_entropy(logits_NK, labels_N) if images else None,
        "val_accuracy": metrics.share_right(confusion_KK),
        "val_balanced_accuracy": metrics.mean_recall(confusion_KK),
        "val_images": images,
    }


def best_of(history: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """Return the row of the best epoch so far; None before the first."""
    return next((row for row in reversed(history) if row["best"]), None)


def is_better(row: dict[str, Any], best: dict[str, Any] | None, options: TrainOptions) -> bool:
    """Compare epochs by mean recall over classes, in which a rare class counts as much as a common one, then by loss.

    With folds the last epoch is kept: choosing an epoch by the folds' figures would bias them.
    """
    return best is None or options.folds > 0 or _score(row) > _score(best)


def _score(row: dict[str, Any]) -> tuple[float, float]:
    return row["val_balanced_accuracy"], -row["val_loss"]


def is_finished(history: Sequence[dict[str, Any]], options: TrainOptions) -> bool:
    """Whether all epochs are done, or `patience` epochs went by without a better one."""
    best = best_of(history)
    stale = len(history) - best["epoch"] if best else 0
    return len(history) >= options.epochs or stale >= options.patience
