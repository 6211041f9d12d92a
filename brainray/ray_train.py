"""Training with Ray: Ray Data decodes every image once, Ray Train fits the network across workers.

The validation images go to every worker whole and each takes every n-th of them; counts and logits are gathered, so
every decision rests on all of them.
"""

import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import ray
import ray.train
import torch
from ray.data import Dataset
from ray.train import CheckpointConfig, DataConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from . import fit, storage
from .bundle import weights_bytes
from .config import ImageSpec, ModelSpec, TrainOptions
from .errors import BrainrayError, StorageError
from .model import build_model
from .predict import pick_device, use_bf16
from .ray_session import TrainPool, own_error, quiet_data
from .training_set import decode_rows, share_rows, take_rows

_IMAGES_A_TASK = 256
BEST = "best.safetensors"
STATE = "state.json"
LOGITS = "validation.npz"
PROGRESS = "progress.json"

Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class TrainJob:
    """What every worker needs to know."""

    options: TrainOptions
    model: ModelSpec
    class_counts: tuple[int, ...]  # of the training images
    threads: int
    progress_uri: str


def decoded_dataset(table: pa.Table, spec: ImageSpec, *, cpus: float) -> Dataset:
    """Every image of (position, uri, label) decoded once and held in Ray's object store, which spills to disk."""
    quiet_data()
    slices = [table.slice(start, _IMAGES_A_TASK) for start in range(0, len(table), _IMAGES_A_TASK)]
    dataset: Dataset = ray.data.from_arrow(slices)
    return dataset.map_batches(  # type: ignore[no-any-return]
        decode_rows,  # type: ignore[arg-type]
        fn_kwargs={"spec": spec},
        batch_size=None,
        batch_format="pyarrow",
        num_cpus=cpus,
    ).materialize()


def digests_of(dataset: Dataset) -> tuple[Array, Array]:
    """(digests, errors) by position: the only columns that come to the driver."""
    parts = list(dataset.select_columns(["position", "digest", "error"]).iter_batches(batch_size=None))
    position = np.concatenate([part["position"] for part in parts])
    order = np.argsort(position)
    return tuple(np.concatenate([part[name].astype(str) for part in parts])[order] for name in ("digest", "error"))  # type: ignore[return-value]


def select(dataset: Dataset, positions: Array, *, cpus: float, even_for: int = 1) -> Dataset:
    """The rows at these positions. Some come twice where `even_for` workers could not share them out evenly:

    Ray Train drops the rows that are left over, and no image may be dropped.
    """
    rounded = np.resize(positions, -(-len(positions) // even_for) * even_for)
    return dataset.map_batches(  # type: ignore[no-any-return]
        take_rows,  # type: ignore[arg-type]
        fn_kwargs={"wanted": np.sort(rounded)},
        batch_size=None,
        num_cpus=cpus,
    ).materialize()


def train(job: TrainJob, *, train_set: Dataset, validation_set: Dataset, pool: TrainPool, storage_uri: str) -> "Fitted":
    """Run Ray Train to its end. Its last checkpoint holds the best weights and the whole history."""
    resources = {"CPU": pool.cpus_per_worker} | ({"GPU": 1.0} if pool.use_gpu else {})
    trainer = TorchTrainer(
        _worker,
        train_loop_config={"job": job},
        torch_config=TorchConfig(backend="nccl" if pool.use_gpu else "gloo", timeout_s=600),
        scaling_config=ScalingConfig(num_workers=pool.workers, use_gpu=pool.use_gpu, resources_per_worker=resources),
        datasets={"train": train_set, "validation": validation_set},
        # Ray Train splits all data sets unless told otherwise; the validation images are shared out by the workers.
        dataset_config=DataConfig(datasets_to_split=["train"]),
        run_config=RunConfig(
            name="train",
            storage_path=storage_uri,
            failure_config=FailureConfig(max_failures=2),
            checkpoint_config=CheckpointConfig(num_to_keep=1),
        ),
    )
    try:
        result = trainer.fit()
    except ray.train.TrainingFailedError as exc:
        raise own_error(exc) or BrainrayError(f"training failed: {_cause(exc)}") from exc
    if result.checkpoint is None:
        raise BrainrayError("training ended without a checkpoint")
    return _read(result.checkpoint)


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """What training leaves: the best epoch's weights, and what it says of every validation image."""

    weights: bytes  # a safetensors file
    history: list[dict[str, Any]]
    best_epoch: int
    temperature: float
    probs_NK: npt.NDArray[np.float64]
    labels_N: npt.NDArray[np.int64]


def _read(checkpoint: ray.train.Checkpoint) -> Fitted:
    with checkpoint.as_directory() as folder:
        arrays = np.load(os.path.join(folder, LOGITS))
        logits, labels = arrays["logits"], arrays["labels"]
        state = storage.read_json(os.path.join(folder, STATE))
        temperature = fit.fit_temperature(logits, labels)
        return Fitted(
            weights=storage.read_bytes(os.path.join(folder, BEST)),
            history=state["history"],
            best_epoch=state["best"],
            temperature=temperature,
            probs_NK=fit.softmax(logits, temperature),
            labels_N=labels,
        )


def _cause(exc: BaseException) -> str:
    lines = [line.strip() for line in str(exc).splitlines() if line.strip()]
    return lines[-1] if lines else type(exc).__name__


def _worker(config: dict[str, Any]) -> None:
    """One Ray Train worker: gather this worker's images, then epochs of training and validation."""
    job: TrainJob = config["job"]
    context = ray.train.get_context()
    rank, workers = context.get_world_rank(), context.get_world_size()
    torch.set_num_threads(job.threads)
    torch.manual_seed(job.options.seed)
    trainer = _Trainer(job, rank=rank, workers=workers)
    for epoch in range(1, job.options.epochs + 1):
        trainer.epoch(epoch)
        trainer.report()
        if trainer.stale >= job.options.patience:
            break


class _Trainer:
    """The state of one worker between epochs."""

    def __init__(self, job: TrainJob, *, rank: int, workers: int) -> None:
        self._job, self._rank, self._workers = job, rank, workers
        options = job.options
        self._images, self._labels = _gather("train", share=None)
        self._val_images, self._val_labels = _gather("validation", share=(rank, workers))
        device = ray.train.torch.get_device() if torch.cuda.is_available() else pick_device()
        self._fitting = fit.Fitting(
            spec=options.image_spec,
            device=device,
            bf16=use_bf16(options.precision, device),
            class_weights_K=fit.class_weights(np.array(job.class_counts)),
            label_smoothing=options.label_smoothing,
        )
        model = build_model(job.model).to(memory_format=torch.channels_last)
        self._model = ray.train.torch.prepare_model(model, move_to_device=device)
        self._batch = max(1, options.batch_size // workers)
        largest = max(_all_gather(len(self._labels)))
        self._steps = -(-largest // self._batch)
        self._optimizer = fit.make_optimizer(self._model, options)
        self._schedule = fit.make_schedule(
            self._optimizer, total_steps=self._steps * options.epochs, warmup_fraction=options.warmup_fraction
        )
        self.history: list[dict[str, Any]] = []
        self._best: dict[str, Any] = {"score": (-1.0, 0.0), "epoch": 0}
        self.stale = 0

    def epoch(self, number: int) -> None:
        began = time.perf_counter()
        # A generator of its own for each epoch and worker: an epoch draws the same whatever was drawn before it.
        generator = torch.Generator().manual_seed(hash((self._job.options.seed, number, self._rank)) % 2**62)
        batches = fit.shuffled_batches(
            self._images, self._labels, batch_size=self._batch, steps=self._steps, generator=generator
        )
        loss = fit.train_epoch(
            self._model,
            batches,
            fitting=self._fitting,
            optimizer=self._optimizer,
            schedule=self._schedule,
            generator=generator,
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
        self._keep_best(row, logits_NK, labels_N)
        self.history.append(row)

    def _validate(self) -> tuple[Array, Array]:
        """Logits and labels of all validation images, in one order on every worker."""
        for buffer in _bare(self._model).buffers():  # each worker's batch statistics differ; the first one's are saved
            if torch.distributed.is_initialized():
                torch.distributed.broadcast(buffer, 0)
        batches = fit.ordered_batches(self._val_images, self._val_labels, batch_size=128)
        mine = fit.evaluate(_bare(self._model), batches, fitting=self._fitting)
        shares = _all_gather((mine, self._val_labels))
        return np.concatenate([s[0] for s in shares]), np.concatenate([s[1] for s in shares])

    def _keep_best(self, row: dict[str, Any], logits_NK: Array, labels_N: Array) -> None:
        """Best by mean recall over classes, then by loss: what is rare counts as much as what is common."""
        score = (row["val_balanced_accuracy"], -row["val_loss"])
        row["best"] = score > self._best["score"]
        if row["best"]:
            state = {name: tensor.clone() for name, tensor in _bare(self._model).state_dict().items()}
            self._best = {
                "score": score,
                "epoch": row["epoch"],
                "state": state,
                "logits": logits_NK,
                "labels": labels_N,
            }
        self.stale = row["epoch"] - self._best["epoch"]

    def report(self) -> None:
        """Hand the epoch to Ray Train, with a checkpoint from the first worker."""
        row = self.history[-1]
        if self._rank != 0:
            ray.train.report(row)
            return
        storage.write_json(self._job.progress_uri, {"history": self.history})
        with tempfile.TemporaryDirectory() as folder:
            storage.write_bytes(os.path.join(folder, BEST), weights_bytes(self._best["state"]))
            storage.write_json(os.path.join(folder, STATE), {"history": self.history, "best": self._best["epoch"]})
            np.savez(os.path.join(folder, LOGITS), logits=self._best["logits"], labels=self._best["labels"])
            ray.train.report(row, checkpoint=ray.train.Checkpoint.from_directory(folder))


def _gather(name: str, share: tuple[int, int] | None) -> tuple[Array, Array]:
    """This worker's images as one array, in order of position: the order in which blocks arrive is not repeatable."""
    parts = [share_rows(batch, share) for batch in ray.train.get_dataset_shard(name).iter_batches(batch_size=None)]
    position = np.concatenate([part["position"] for part in parts])
    order = np.argsort(position, kind="stable")
    pixels = np.concatenate([part["pixels"] for part in parts])[order]
    return pixels, np.concatenate([part["label"] for part in parts])[order]


def _bare(model: torch.nn.Module) -> torch.nn.Module:
    """The network itself: with two workers or more it is wrapped."""
    module: torch.nn.Module = getattr(model, "module", model)
    return module


def _all_gather(value: object) -> list[Any]:
    if not torch.distributed.is_initialized():
        return [value]
    values: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(values, value)
    return values


def read_progress(uri: str) -> Iterator[dict[str, Any]]:
    """Epochs finished so far; none where the file is not there (yet, or on this machine)."""
    try:
        yield from storage.read_json(uri)["history"]
    except StorageError:
        return
