"""The checkpoint file, from which training resumes after any epoch. Imports no Ray.

The file is a line with the SHA-256 of the rest, then the output of `torch.save` for tensors, dicts and plain values.
It must not hold anything that follows from the rest: every epoch seeds its own random state (`loop.seed_epoch`), the
place in the schedule follows from the number of epochs, and early stopping from the history.
"""

import hashlib
import io
import pickle
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from brainray import storage
from brainray.errors import StorageError

State = dict[str, Tensor]

# The format number changes with the meaning of the fields, so that an older file is not taken for a new one.
_MARK = b"brainray checkpoint 3 "
_MARK_2 = b"brainray checkpoint 2 "  # there the average was the state dict of the network itself
_HEADER_BYTES = len(_MARK) + hashlib.sha256().digest_size * 2 + 1


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Training after `len(history)` epochs. Tensors lie on the CPU."""

    model: State
    average: State | None  # state dict of `loop.make_average`
    moments: dict[int, Any]  # optimizer state by parameter; learning rates come from the options
    history: list[dict[str, Any]]  # one row an epoch
    best: State  # weights of the best epoch
    logits_NK: Tensor  # output of the best epoch for the validation images
    labels_N: Tensor  # labels of the validation images
    data: dict[str, Any]  # description of the images, for the bundle's provenance
    positions_N: Tensor | None = None  # of the validation images in the training set; earlier versions kept none

    @property
    def epoch(self) -> int:
        """Number of finished epochs."""
        return len(self.history)


def to_bytes(checkpoint: Checkpoint) -> bytes:
    """Encode a checkpoint as the content of its file."""
    buffer = io.BytesIO(bytes(_HEADER_BYTES))
    buffer.seek(_HEADER_BYTES)
    torch.save({field.name: getattr(checkpoint, field.name) for field in fields(checkpoint)}, buffer)
    with buffer.getbuffer() as content:
        content[:_HEADER_BYTES] = _header(content[_HEADER_BYTES:])
    return buffer.getvalue()


def from_bytes(content: bytes) -> Checkpoint:
    """Decode the content of a checkpoint file. Raises `StorageError` for any other content.

    The digest is checked first: torch does not check those of its archive, and would read a flipped bit as a weight.
    """
    body, mark = memoryview(content)[_HEADER_BYTES:], content[: len(_MARK)]
    if mark not in (_MARK, _MARK_2):
        raise StorageError("read_failed", "it is no checkpoint of this version of brainray")
    if content[:_HEADER_BYTES] != _header(body, mark):
        raise StorageError("read_failed", "it is damaged")
    try:
        checkpoint = Checkpoint(**torch.load(io.BytesIO(body), map_location="cpu", weights_only=True))
    except (RuntimeError, pickle.UnpicklingError, TypeError) as exc:  # the file is intact, but of another torch
        raise StorageError("read_failed", f"this torch cannot read it ({exc})".splitlines()[0]) from exc
    return _of_version_2(checkpoint) if mark == _MARK_2 else checkpoint


def _of_version_2(checkpoint: Checkpoint) -> Checkpoint:
    """Rename the keys of the average to those of format 3. Format 2 does not hold the number of averaged steps."""
    average = checkpoint.average and {f"module.{name}": tensor for name, tensor in checkpoint.average.items()}
    return replace(checkpoint, average=average)


def _header(body: memoryview, mark: bytes = _MARK) -> bytes:
    return mark + hashlib.sha256(body).hexdigest().encode() + b"\n"


def read(uri: str) -> Checkpoint | None:
    """Read a checkpoint; None where there is no file. Raises `StorageError` for a file that cannot be used."""
    return from_bytes(storage.read_bytes(uri)) if storage.exists(uri) else None
