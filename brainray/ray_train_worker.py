"""What each Ray Train worker does: gather its images, then the epochs that are still to be done.

The validation images go to every worker whole and each takes every n-th of them; counts and logits are gathered, so
every decision rests on all of them. After each epoch the first worker writes the checkpoint, from which workers go on.
"""

import copy
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import ray.train
import ray.train.torch
import torch

from . import checkpoint, fit, storage
from .bundle import Bundle, load_model
from .checkpoint import Checkpoint
from .config import ModelSpec, TrainOptions
from .errors import StorageError
from .model import begin_with, build_model, go_on_from
from .predict import pick_device, use_bf16
from .rows import KeptRows, share_rows
from .training_request import WorkFolder

Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class TrainJob:
    """What every worker needs to know."""

    options: TrainOptions
    model: ModelSpec
    class_counts: tuple[int, ...]  # of the training images
    data: dict[str, Any]  # what the bundle's provenance will say of the images
    init: Bundle | None  # whose weights are begun with
    threads: int
    work: WorkFolder
    writer: storage.Writer


def train_worker(config: dict[str, Any]) -> None:
    """One Ray Train worker: gather this worker's images, then the epochs that are still to be done."""
    job: TrainJob = config["job"]
    context = ray.train.get_context()
    torch.set_num_threads(job.threads)
    begun = _begun(job, rank=context.get_world_rank())
    state = _State(job, begun, rank=context.get_world_rank(), workers=context.get_world_size())
    while not fit.is_finished(state.history, job.options):
        state.epoch()
        state.report()


def _begun(job: TrainJob, *, rank: int) -> Checkpoint | None:
    """The checkpoint, which the first worker reads for all: another's view of a network folder may be out of date."""
    content: list[bytes | None] = [None]
    if rank == 0 and storage.exists(job.work.checkpoint):
        content = [storage.read_bytes(job.work.checkpoint)]
    if torch.distributed.is_initialized():
        torch.distributed.broadcast_object_list(content, 0)
    try:
        return checkpoint.from_bytes(content[0]) if content[0] is not None else None
    except StorageError:  # damaged since the command looked at it: the next epoch replaces it
        return None


class _State:
    """The state of one worker between epochs."""

    def __init__(self, job: TrainJob, begun: Checkpoint | None, *, rank: int, workers: int) -> None:
        self._job, self._rank, self._workers = job, rank, workers
        self.history = list(begun.history) if begun else []
        self._best = (begun.best, begun.logits_NK, begun.labels_N) if begun else None
        pictures = sum(job.class_counts)
        shares = min(workers, pictures)
        self._learn = _gather("train", by="picture", share=(rank % shares, shares))
        self._validate_on = _gather("validation", by="position", share=(rank, workers))
        self._batch = max(1, job.options.batch_size // workers)
        self._steps = -(-pictures // (shares * self._batch))
        self._build(job.options, begun)

    def _build(self, options: TrainOptions, begun: Checkpoint | None) -> None:
        """Network, optimizer and schedule as they were after the last epoch; with other workers, steps are others."""
        device = ray.train.torch.get_device() if torch.cuda.is_available() else pick_device()
        self._fitting = fit.Fitting(
            spec=options.image_spec,
            device=device,
            bf16=use_bf16(options.precision, device),
            class_weights_K=fit.class_weights(np.array(self._job.class_counts)),
            label_smoothing=options.label_smoothing,
            augment=options.augment,
            outliers=options.outliers,
        )
        model = self._first_weights(options)
        if begun:
            model.load_state_dict(begun.model)
        self._average = self._begin_average(model, begun) if options.averaging else None
        self._model = ray.train.torch.prepare_model(model, move_to_device=device)
        self._optimizer = fit.make_optimizer(self._model, options, moments=begun.moments if begun else None)
        self._schedule = fit.make_schedule(
            self._optimizer,
            total_steps=self._steps * options.epochs,
            warmup_fraction=options.warmup_fraction,
            done_steps=self._steps * len(self.history),
        )

    def _first_weights(self, options: TrainOptions) -> torch.nn.Module:
        torch.manual_seed(options.seed)
        model, init = build_model(self._job.model), self._job.init
        if init:
            same = init.classes == self._job.model.classes
            go_on_from(model, load_model(init).state_dict(), same_classes=same)
        else:
            begin_with(model, self._job.model, options.weights)
        return model.to(memory_format=torch.channels_last)

    def _begin_average(self, model: torch.nn.Module, begun: Checkpoint | None) -> fit.Average:
        average = copy.deepcopy(model).to(self._fitting.device)
        if begun and begun.average:
            average.load_state_dict(begun.average)
        return fit.Average(average, decay=self._job.options.averaging, steps=self._steps * len(self.history))

    @property
    def _judged(self) -> torch.nn.Module:
        """The network that is validated and kept."""
        return self._average.model if self._average else fit.bare(self._model)

    def epoch(self) -> None:
        number = len(self.history) + 1
        began = time.perf_counter()
        generator = fit.seed_epoch(seed=self._job.options.seed, epoch=number, rank=self._rank)
        learn = self._learn
        batches = fit.shuffled_batches(
            learn.pixels, learn.label, learn.picture, batch_size=self._batch, steps=self._steps, generator=generator
        )
        loss = fit.train_epoch(
            self._model,
            batches,
            fitting=self._fitting,
            optimizer=self._optimizer,
            schedule=self._schedule,
            generator=generator,
            average=self._average,
            side_px=fit.side_px(self._job.options, number),
        )
        trained = time.perf_counter()
        logits_NK, labels_N = self._validate()
        row = {
            "epoch": number,
            "train_loss": float(np.mean(_all_gather(loss))),
            **fit.validation_figures(logits_NK, labels_N, len(self._job.model.classes)),
            "lr": self._schedule.get_last_lr()[0],
            "images_per_s": self._steps * self._batch * self._workers / (trained - began),
            "seconds": time.perf_counter() - began,
        }
        row["best"] = fit.is_better(row, fit.best_of(self.history), self._job.options)
        if row["best"]:
            # A copy, which further steps leave alone.
            best = {name: tensor.to("cpu", copy=True) for name, tensor in self._judged.state_dict().items()}
            self._best = (best, torch.from_numpy(logits_NK), torch.from_numpy(labels_N))
        self.history.append(row)

    def _validate(self) -> tuple[Array, Array]:
        """Logits and labels of all validation images, in one order on every worker."""
        for buffer in self._judged.buffers():  # each worker's batch statistics differ; the first one's are saved
            if torch.distributed.is_initialized():
                torch.distributed.broadcast(buffer, 0)
        images, labels = self._validate_on.pixels, self._validate_on.label
        mine = fit.evaluate(self._judged, fit.ordered_batches(images, labels, batch_size=128), fitting=self._fitting)
        shares = _all_gather((mine, labels))
        return np.concatenate([s[0] for s in shares]), np.concatenate([s[1] for s in shares])

    def report(self) -> None:
        """Keep the epoch, and hand its figures to Ray Train. What is written is the same on every worker."""
        if self._rank == 0 and self._best:
            best, logits_NK, labels_N = self._best
            state = Checkpoint(
                model=fit.bare(self._model).state_dict(),
                average=self._average.model.state_dict() if self._average else None,
                moments=self._optimizer.state_dict()["state"],
                history=self.history,
                best=best,
                logits_NK=logits_NK,
                labels_N=labels_N,
                data=self._job.data,
            )
            self._job.writer.write_bytes(self._job.work.checkpoint, checkpoint.to_bytes(state))
            self._job.writer.write_json(self._job.work.progress, {"history": self.history})
        ray.train.report(self.history[-1])


def _gather(name: str, *, by: str, share: tuple[int, int]) -> KeptRows:
    """This worker's images; maybe none, for the model of all images is measured on none."""
    batches = ray.train.get_dataset_shard(name).iter_batches(batch_size=None)
    return KeptRows(share_rows(batch, by, share) for batch in batches)


def _all_gather(value: object) -> list[Any]:
    if not torch.distributed.is_initialized():
        return [value]
    values: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(values, value)
    return values
