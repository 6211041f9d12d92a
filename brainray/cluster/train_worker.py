"""The function that each Ray Train worker runs: it takes its rows, then trains epoch after epoch.

Each of n workers validates every n-th image; logits and labels are gathered, so that all workers take the same
decisions from all images. After each epoch the first worker writes the checkpoint, from which workers resume. Decodes
no image and handles no failure: see `train_data` and `train`.
"""

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray.train
import ray.train.torch
import torch
from torch import nn

from brainray import storage
from brainray.errors import StorageError
from brainray.models.predictor import pick_device
from brainray.training import checkpoint, loop
from brainray.training.checkpoint import Checkpoint
from brainray.training.decoded import Array, DecodedRows
from brainray.training.state import WorkFolder
from brainray.training.trainer import FitSpec, Trainer

from .train_shares import Shares


@dataclass(frozen=True, kw_only=True)
class TrainJob:
    """Settings of a fit that every worker needs."""

    fit_spec: FitSpec
    data: dict[str, Any]  # description of the images, for the bundle's provenance
    threads: int  # that each worker computes with
    work: WorkFolder
    writer: storage.Writer


def train_worker(config: dict[str, Any]) -> None:
    """Run one Ray Train worker: resume from the checkpoint, and train the remaining epochs."""
    job: TrainJob = config["job"]
    context = ray.train.get_context()
    rank, workers = context.get_world_rank(), context.get_world_size()
    torch.set_num_threads(job.threads)
    resume_from = _read_checkpoint(job, rank=rank)
    shares: Shares = config["shares"]
    rows = {name: DecodedRows(shares.rows(name, rank=rank, workers=workers)) for name in shares.sides}
    state = _WorkerState(job, rows, resume_from, rank=rank, workers=workers)
    while not loop.is_finished(state.history, job.fit_spec.options):
        state.epoch()
        state.report()


def _read_checkpoint(job: TrainJob, *, rank: int) -> Checkpoint | None:
    """Read the checkpoint in the first worker and send it to all, because a network folder may be stale on others.

    Returns None where there is none or it is damaged.
    """
    content: list[bytes | None] = [None]
    if rank == 0 and storage.exists(job.work.checkpoint):
        content = [storage.read_bytes(job.work.checkpoint)]
    if torch.distributed.is_initialized():
        torch.distributed.broadcast_object_list(content, 0)
    try:
        return checkpoint.from_bytes(content[0]) if content[0] is not None else None
    except StorageError:  # damaged since the command read it; the next epoch replaces it
        return None


class _WorkerState:
    """The state of one worker between epochs."""

    def __init__(
        self,
        job: TrainJob,
        rows: dict[str, DecodedRows],
        resume_from: Checkpoint | None,
        *,
        rank: int,
        workers: int,
    ) -> None:
        self._job, self._rank, self._workers = job, rank, workers
        self.history = list(resume_from.history) if resume_from else []
        self._best = _best_of(resume_from) if resume_from else None
        shares = min(workers, job.fit_spec.pictures)
        self._train_rows, self._validation_rows = rows["train"], rows["validation"]
        device = ray.train.torch.get_device() if torch.cuda.is_available() else pick_device()

        def wrap(model: nn.Module) -> nn.Module:
            wrapped: nn.Module = ray.train.torch.prepare_model(model, move_to_device=device)
            return wrapped

        self._trainer = Trainer(
            job.fit_spec,
            resume_from=resume_from,
            device=device,
            shares=shares,
            workers=workers,
            threads=job.threads,
            wrap=wrap,
        )

    def epoch(self) -> None:
        """Train and validate one epoch, and add its row to the history."""
        started = time.perf_counter()
        trainer, options = self._trainer, self._job.fit_spec.options
        loss = trainer.epoch(self._train_rows, rank=self._rank)
        train_ended = time.perf_counter()
        logits_NK, labels_N, positions_N = self._validate()
        row = {
            "epoch": len(self.history) + 1,
            "train_loss": float(np.mean(_all_gather(loss))),
            **loop.validation_figures(logits_NK, labels_N, len(self._job.fit_spec.model.classes)),
            "lr": trainer.schedule.get_last_lr()[0],
            "images_per_s": trainer.steps * trainer.batch * self._workers / (train_ended - started),
            "seconds": time.perf_counter() - started,
            "workers": self._workers,
        }
        row["best"] = loop.is_better(row, loop.best_of(self.history), options)
        if row["best"]:
            # A copy, because further steps change the weights in place.
            best = {name: tensor.to("cpu", copy=True) for name, tensor in trainer.eval_model.state_dict().items()}
            self._best = (best, *map(torch.from_numpy, (logits_NK, labels_N, positions_N)))
        self.history.append(row)

    def _validate(self) -> tuple[Array, ...]:
        """Return logits [N, K], labels and positions [N] of all validation images, in one order on every worker."""
        # Batch statistics differ between workers; the checkpoint has the first one's, so all validate with those.
        for buffer in self._trainer.eval_model.buffers():
            if torch.distributed.is_initialized():
                torch.distributed.broadcast(buffer, 0)
        rows = self._validation_rows
        shares = _all_gather((self._trainer.evaluate(rows), rows.label, rows.position))
        return tuple(np.concatenate(parts) for parts in zip(*shares, strict=True))

    def report(self) -> None:
        """Write the checkpoint in the first worker, and report the epoch to Ray Train."""
        if self._rank == 0 and self._best:
            best, logits_NK, labels_N, positions_N = self._best
            trainer = self._trainer
            state = Checkpoint(
                model=loop.unwrap(trainer.model).state_dict(),
                average=trainer.average.state_dict() if trainer.average else None,
                moments=trainer.optimizer.state_dict()["state"],
                history=self.history,
                best=best,
                logits_NK=logits_NK,
                labels_N=labels_N,
                data=self._job.data,
                positions_N=positions_N,
            )
            self._job.writer.write_bytes(self._job.work.checkpoint, checkpoint.to_bytes(state))
            self._job.writer.write_json(self._job.work.progress, {"history": self.history})
        ray.train.report(self.history[-1])


def _best_of(saved: Checkpoint) -> tuple[Any, ...]:
    return saved.best, saved.logits_NK, saved.labels_N, saved.positions_N


def _all_gather(value: object) -> list[Any]:
    """Collect a value from every worker, by rank."""
    if not torch.distributed.is_initialized():
        return [value]
    values: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(values, value)
    return values
