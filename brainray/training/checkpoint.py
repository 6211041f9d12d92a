"""What an epoch leaves for the next one, in one file that is there whole or not at all. Knows no Ray.

The file is a line with the SHA-256 of the rest, then what `torch.save` makes of tensors, dicts and plain values.
There is no random state in it: every epoch seeds its own (`fit.seed_epoch`). Nor is the place in the schedule, which
follows from the number of epochs, and whether to stop, which follows from the history.
"""

import hashlib
import io
import pickle
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from brainray import storage
from brainray.config import Calibration
from brainray.errors import StorageError
from brainray.evaluation.calibration import Labels, Review, cross_review, fit_temperature, rare_class_bias, softmax
from brainray.models.bundle import weights_bytes

State = dict[str, Tensor]

# The number changes with the meaning of the fields, so that an older file is not taken for a new one.
_MARK = b"brainray checkpoint 3 "
_MARK_2 = b"brainray checkpoint 2 "  # whose average was a bare network's state dict
_HEADER_BYTES = len(_MARK) + hashlib.sha256().digest_size * 2 + 1


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Training after `len(history)` epochs. Tensors lie on the CPU."""

    model: State
    average: State | None  # the state dict of `fit.make_average`
    moments: dict[int, Any]  # of the optimizer, by parameter; its rates are those of the options
    history: list[dict[str, Any]]
    best: State  # weights of the best epoch, and what it says of the validation images:
    logits_NK: Tensor
    labels_N: Tensor
    data: dict[str, Any]  # what was learned from and measured on, as the bundle's provenance tells it

    @property
    def epoch(self) -> int:
        return len(self.history)


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """What training leaves in the end: the best epoch's weights, and what it says of every validation image."""

    weights: bytes  # a safetensors file
    calibration: Calibration
    review: Review  # whose threshold the calibration has
    probs_NK: npt.NDArray[np.float64]
    labels_N: npt.NDArray[np.int64]
    fold_N: npt.NDArray[np.int64]


def to_bytes(checkpoint: Checkpoint) -> bytes:
    """The content of the file."""
    buffer = io.BytesIO(bytes(_HEADER_BYTES))
    buffer.seek(_HEADER_BYTES)
    torch.save({field.name: getattr(checkpoint, field.name) for field in fields(checkpoint)}, buffer)
    with buffer.getbuffer() as content:
        content[:_HEADER_BYTES] = _header(content[_HEADER_BYTES:])
    return buffer.getvalue()


def from_bytes(content: bytes) -> Checkpoint:
    """The checkpoint in a file. Raises `StorageError` for any other content.

    The digest is looked at first: torch does not check its archive's, and would read a flipped bit as a weight.
    """
    body, mark = memoryview(content)[_HEADER_BYTES:], content[: len(_MARK)]
    if mark not in (_MARK, _MARK_2):
        raise StorageError("read_failed", "it is no checkpoint of this version of brainray")
    if content[:_HEADER_BYTES] != _header(body, mark):
        raise StorageError("read_failed", "it is damaged")
    try:
        checkpoint = Checkpoint(**torch.load(io.BytesIO(body), map_location="cpu", weights_only=True))
    except (RuntimeError, pickle.UnpicklingError, TypeError) as exc:  # intact, and of another torch
        raise StorageError("read_failed", f"this torch cannot read it ({exc})".splitlines()[0]) from exc
    return _of_version_2(checkpoint) if mark == _MARK_2 else checkpoint


def _of_version_2(checkpoint: Checkpoint) -> Checkpoint:
    """With the keys of today; how many steps were averaged it does not say."""
    average = checkpoint.average and {f"module.{name}": tensor for name, tensor in checkpoint.average.items()}
    return replace(checkpoint, average=average)


def _header(body: memoryview, mark: bytes = _MARK) -> bytes:
    return mark + hashlib.sha256(body).hexdigest().encode() + b"\n"


def read(uri: str) -> Checkpoint | None:
    """None where there is none. Raises `StorageError` for one that cannot be read."""
    return from_bytes(storage.read_bytes(uri)) if storage.exists(uri) else None


def fitted(states: Sequence[Checkpoint]) -> Fitted:
    """The last one's model, and what it says of its validation images.

    Where others come before it, each has measured on a fold of its own: the figures are theirs. Each fold is then
    judged with the temperature of the other folds, which has not seen it either.
    """
    measured = list(states[:-1]) or list(states)
    logits = [state.logits_NK.numpy() for state in measured]
    labels = [state.labels_N.numpy() for state in measured]
    class_bias = rare_class_bias(np.array(list(states[-1].data["pictures_by_class"].values())))
    probs_NK = np.concatenate(
        [softmax(own, _temperature_without(fold, logits, labels), class_bias) for fold, own in enumerate(logits)]
    )
    labels_N = np.concatenate(labels)
    temperature = fit_temperature(np.concatenate(logits), labels_N)
    fold_N = np.repeat(np.arange(len(labels)), [len(each) for each in labels])
    review = cross_review(probs_NK.max(1), probs_NK.argmax(1) == labels_N, fold_N)
    return Fitted(
        weights=weights_bytes(states[-1].best),
        calibration=Calibration(temperature=temperature, class_bias=class_bias, review_below=review.below),
        review=review,
        probs_NK=probs_NK,
        labels_N=labels_N,
        fold_N=fold_N,
    )


def _temperature_without(fold: int, logits: list[npt.NDArray[np.float32]], labels: list[Labels]) -> float:
    others = [place for place in range(len(logits)) if place != fold] or [fold]
    return fit_temperature(np.concatenate([logits[p] for p in others]), np.concatenate([labels[p] for p in others]))
