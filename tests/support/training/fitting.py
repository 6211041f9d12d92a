"""`brainray train` without Ray and without learning: a stand-in for the fits of the command."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import support.imaging.pictures  # noqa: F401 (describes each picture once a process, for 5 ms)
import torch

from brainray import storage
from brainray.commands import train as train_job
from brainray.commands.training_setup import TrainingJob
from brainray.models import encoder
from brainray.models.networks import build_model
from brainray.training import checkpoint, described, state
from brainray.training.checkpoint import Checkpoint
from brainray.training.dataset import SelectedImages, describe_data, select_images
from brainray.training.decoded import decode_rows

Ints = npt.NDArray[np.int64]


_encoder = encoder.frozen_encoder
_features: dict[bytes, npt.NDArray[np.float32]] = {}


def _features_once(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Features of pictures, computed once a process; they do not depend on the other pictures of a batch."""
    keys = [image.tobytes() for image in images]
    new = {key: place for place, key in enumerate(keys) if key not in _features}
    _features.update(zip(new, _encoder()(images[list(new.values())]), strict=True))
    return np.array([_features[key] for key in keys], np.float32).reshape(len(images), encoder.COUNT)


def says_b(labels_N: Ints) -> Ints:
    """A model that is right about the second class only."""
    return np.ones(len(labels_N), np.int64)


def says_the_truth(labels_N: Ints) -> Ints:
    """A model that is always right."""
    return labels_N


def fit_here(
    job: TrainingJob,
    parts: tuple[state.FitPart, ...],
    begun: state.Progress,
    writer: storage.Writer,
    *,
    describes: bool = True,
    says: Callable[[Ints], Ints] = says_b,
) -> None:
    """Decodes as tasks do, and writes a checkpoint for each part as workers do.

    `says` gives the class that is predicted for each label.
    """
    rows = decode_rows(job.training_set.table, job.options.image_spec)
    _, copies = np.unique(rows["digest"], return_inverse=True)
    barred = np.zeros(len(copies), bool)
    selected = select_images(
        job.training_set,
        copies,
        rows["digest"],
        rows["error"],
        excluded=barred,
        options=job.options,
        series=rows["series"],
    )
    data = describe_data(selected, job.model.classes)
    train_job._begin(job, begun, data, writer)
    state.write_groups(job.output, selected, writer=writer)
    if describes:
        halves = [{name: column[part] for name, column in rows.items()} for part in (slice(9, None), slice(9))]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(encoder, "frozen_encoder", lambda: _features_once)
            batches = [described.describe_rows(half, **described.sides(selected)) for half in halves]
        described.keep(job.work, selected, batches, writer=writer)
    write_checkpoints(job, parts, selected, data, writer, says=says)


def write_checkpoints(
    job: TrainingJob,
    parts: tuple[state.FitPart, ...],
    selected: SelectedImages,
    data: dict[str, Any],
    writer: storage.Writer,
    *,
    says: Callable[[Ints], Ints] = says_b,
) -> None:
    """Writes a checkpoint for each part after one epoch, with 3 as the logit of the class that is predicted."""
    for part, split in zip(parts, state.splits_of(selected), strict=True):
        measured = split.validation[::-1]  # in another order than the listing, as several workers would
        row = dict.fromkeys(("val_loss", "val_accuracy", "val_balanced_accuracy"), 0.5)
        weights = build_model(job.model).state_dict()
        labels_N = selected.labels[measured]
        done = Checkpoint(
            model=weights,
            average=None,
            moments={},
            history=[{"epoch": 1, "train_loss": 1.0, "seconds": 1.0, "best": True, **row}],
            best=weights,
            logits_NK=torch.from_numpy(3.0 * np.eye(len(job.model.classes), dtype=np.float32)[says(labels_N)]),
            labels_N=torch.from_numpy(labels_N),
            data=data,
            positions_N=torch.from_numpy(selected.positions[measured]),
        )
        writer.write_bytes(part.work.checkpoint, checkpoint.to_bytes(done))
