"""What an epoch leaves for the next one, in one file that is there whole or not at all. Knows no Ray.

The file is a line with the SHA-256 of the rest, then what `torch.save` makes of tensors, dicts and plain values.
There is no random state in it: every epoch seeds its own (`fit.seed_epoch`). Nor is the place in the schedule, which
follows from the number of epochs, and whether to stop, which follows from the history.
"""

import hashlib
import io
import pickle
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from . import fit, storage
from .bundle import weights_bytes
from .errors import StorageError

State = dict[str, Tensor]

# The number changes with the meaning of the fields, so that an older file is not taken for a new one.
_MARK = b"brainray checkpoint 1 "
_HEADER_BYTES = len(_MARK) + hashlib.sha256().digest_size * 2 + 1


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Training after `len(history)` epochs. Tensors lie on the CPU."""

    model: State
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
    temperature: float
    probs_NK: npt.NDArray[np.float64]
    labels_N: npt.NDArray[np.int64]


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
    body = memoryview(content)[_HEADER_BYTES:]
    if content[: len(_MARK)] != _MARK:
        raise StorageError("read_failed", "it is no checkpoint of this version of brainray")
    if content[:_HEADER_BYTES] != _header(body):
        raise StorageError("read_failed", "it is damaged")
    try:
        return Checkpoint(**torch.load(io.BytesIO(body), map_location="cpu", weights_only=True))
    except (RuntimeError, pickle.UnpicklingError, TypeError) as exc:  # intact, and of another torch
        raise StorageError("read_failed", f"this torch cannot read it ({exc})".splitlines()[0]) from exc


def _header(body: memoryview) -> bytes:
    return _MARK + hashlib.sha256(body).hexdigest().encode() + b"\n"


def read(uri: str) -> Checkpoint | None:
    """None where there is none. Raises `StorageError` for one that cannot be read."""
    return from_bytes(storage.read_bytes(uri)) if storage.exists(uri) else None


def fitted(checkpoint: Checkpoint) -> Fitted:
    """The model of the best epoch so far."""
    logits, labels = checkpoint.logits_NK.numpy(), checkpoint.labels_N.numpy()
    temperature = fit.fit_temperature(logits, labels)
    return Fitted(
        weights=weights_bytes(checkpoint.best),
        temperature=temperature,
        probs_NK=fit.softmax(logits, temperature),
        labels_N=labels,
    )
