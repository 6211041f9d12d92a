"""One epoch and one evaluation over any iterable of batches, the schedule between them, and when to stop.

Knows no Ray and no file.

Axes: N images, K classes, H height, W width. A batch is (uint8 images [N, H, W] or [N, H, W, 3], int64 labels [N]).
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from .augment import augment
from .config import ImageSpec, TrainOptions
from .predict import normalise

Batch = tuple[Tensor, Tensor]
Pixels = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Fitting:
    """What every step needs and no step changes."""

    spec: ImageSpec
    device: torch.device
    bf16: bool
    class_weights_K: Tensor
    label_smoothing: float

    def autocast(self) -> AbstractContextManager[None]:
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bf16)

    def prepare(self, images: Tensor) -> Tensor:
        return normalise(images.to(self.device, non_blocking=True), self.spec)


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
    torch.manual_seed(hash((seed, epoch, rank, 0)) % 2**62)  # hashes of integers are the same in every process
    return torch.Generator().manual_seed(hash((seed, epoch, rank, 1)) % 2**62)


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
    images: Pixels, labels: Labels, *, batch_size: int, steps: int, generator: torch.Generator
) -> Iterator[Batch]:
    """`steps` full batches in a fresh order. Images that run out begin anew: workers must take equally many steps."""
    order = torch.randperm(len(labels), generator=generator).numpy()
    needed = np.resize(order, steps * batch_size)
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
    fitting: Fitting,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    generator: torch.Generator,
) -> float:
    """One pass. Returns the mean loss of its steps."""
    model.train()
    weights = fitting.class_weights_K.to(fitting.device)
    losses: list[Tensor] = []
    for images, labels in batches:
        optimizer.zero_grad(set_to_none=True)
        with fitting.autocast():
            logits_NK = model(augment(fitting.prepare(images), generator))
        loss = functional.cross_entropy(
            logits_NK.float(), labels.to(fitting.device), weight=weights, label_smoothing=fitting.label_smoothing
        )
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.detach())
    return float(torch.stack(losses).mean()) if losses else math.nan


@torch.inference_mode()
def evaluate(model: nn.Module, batches: Iterable[Batch], *, fitting: Fitting) -> npt.NDArray[np.float32]:
    """Logits [N, K] of every image, in order."""
    model.eval()
    outputs = []
    for images, _ in batches:
        with fitting.autocast():
            outputs.append(model(fitting.prepare(images)).float().cpu())
    return torch.cat(outputs).numpy() if outputs else np.empty((0, len(fitting.class_weights_K)), np.float32)


def fit_temperature(logits_NK: npt.NDArray[np.float32], labels_N: Labels) -> float:
    """The one number that, dividing the logits, makes their likelihood greatest (Guo et al. 2017). From 0.25 to 4."""
    logits, labels = torch.from_numpy(logits_NK), torch.from_numpy(labels_N)
    candidates = torch.logspace(math.log10(0.25), math.log10(4), 161)
    losses = torch.stack([functional.cross_entropy(logits / t, labels) for t in candidates])
    return round(float(candidates[losses.argmin()]), 4)


def softmax(logits_NK: npt.NDArray[np.float32], temperature: float) -> npt.NDArray[np.float64]:
    probs: npt.NDArray[np.float64] = torch.softmax(torch.from_numpy(logits_NK).double() / temperature, dim=1).numpy()
    return probs


def validation_figures(logits_NK: npt.NDArray[np.float32], labels_N: Labels, classes: int) -> dict[str, float]:
    """Loss, accuracy and mean recall over the classes that occur."""
    predicted = logits_NK.argmax(1)
    counts_KK = np.bincount(labels_N * classes + predicted, minlength=classes**2).reshape(classes, classes)
    support = counts_KK.sum(1)
    recall = np.diag(counts_KK)[support > 0] / support[support > 0]
    loss = functional.cross_entropy(torch.from_numpy(logits_NK), torch.from_numpy(labels_N))
    return {
        "val_loss": float(loss),
        "val_accuracy": float(np.diag(counts_KK).sum() / counts_KK.sum()),
        "val_balanced_accuracy": float(recall.mean()),
        "val_images": int(counts_KK.sum()),
    }


def best_of(history: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """The best epoch so far."""
    return next((row for row in reversed(history) if row["best"]), None)


def is_better(row: dict[str, Any], best: dict[str, Any] | None) -> bool:
    """By mean recall over classes, then by loss: what is rare counts as much as what is common."""
    return best is None or _score(row) > _score(best)


def _score(row: dict[str, Any]) -> tuple[float, float]:
    return row["val_balanced_accuracy"], -row["val_loss"]


def is_finished(history: Sequence[dict[str, Any]], options: TrainOptions) -> bool:
    """Whether all epochs are done, or too many went by since the best one."""
    best = best_of(history)
    stale = len(history) - best["epoch"] if best else 0
    return len(history) >= options.epochs or stale >= options.patience
