"""Training with Ray: Ray Data decodes every image once, Ray Train fits the network across workers.

The validation images go to every worker whole and each takes every n-th of them; counts and logits are gathered, so
every decision rests on all of them. After each epoch the first worker writes the checkpoint. Whatever starts the
workers, be it a lost one or the same command on another day, they go on from that file and from nothing of Ray's.
"""

import os
import secrets
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import ray
import ray.train
import torch
from ray.data import Dataset
from ray.train import DataConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from . import checkpoint, fit, storage
from .checkpoint import Checkpoint
from .config import ImageSpec, ModelSpec, TrainOptions
from .errors import BrainrayError, OutputHeld, StorageError
from .model import build_model
from .pools import TrainPool
from .predict import pick_device, use_bf16
from .ray_session import cluster_nodes, has_dashboard, own_error, quiet_data
from .training_request import WorkFolder
from .training_set import decode_rows, in_order, share_rows, take_rows

_IMAGES_A_TASK = 256
_MOST_FAILURES = 3  # one after another without an epoch between them
_LOOK_S = "0.5"  # an epoch ends with Ray Train's next look at its workers, of which there is one in 2 s by default
_STARTS = 10  # of the workers in one run of Ray Train, which waits a minute for them each time

Array = npt.NDArray[Any]
Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class TrainJob:
    """What every worker needs to know."""

    options: TrainOptions
    model: ModelSpec
    class_counts: tuple[int, ...]  # of the training images
    data: dict[str, Any]  # what the bundle's provenance will say of the images
    threads: int
    work: WorkFolder
    writer: storage.Writer


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
    batches: Any = dataset.select_columns(["position", "digest", "error"]).iter_batches(batch_size=None)
    digests, errors = in_order(list(batches), "digest", "error")
    return digests.astype(str), errors.astype(str)


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


def train(job: TrainJob, *, train_set: Dataset, validation_set: Dataset, pool: TrainPool, say: Say) -> None:
    """Run Ray Train until the checkpoint holds a finished training.

    However many workers are lost, training goes on as long as it gets on. Ray Train counts failures over a whole run
    and does not start again after an epoch (`FailureConfig`), so each run ends with its first and is followed by
    another. Nodes that say beforehand that they will be taken away are replaced within a run, and not counted.
    """
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", _LOOK_S)
    failures = 0
    while True:
        before = len(job.work.history())
        try:
            with _scratch(job) as scratch:
                _trainer(job, pool, scratch, train=train_set, validation=validation_set).fit()
            return
        except (ray.train.TrainingFailedError, ray.exceptions.RayError) as exc:
            epochs = len(job.work.history())
            failures = 1 if epochs > before else failures + 1
            own = own_error(exc)
            if own and own.exit_code == OutputHeld.exit_code:
                raise own from exc
            if failures == _MOST_FAILURES:
                times = f"{failures} times one after another without finishing an epoch"
                raise BrainrayError(f"training failed {times}: {own or _cause(exc)}") from exc
            say(f"a worker failed ({_cause(exc)}); going on after epoch {epochs} of {job.options.epochs}")


@contextmanager
def _scratch(job: TrainJob) -> Iterator[str]:
    """Where Ray Train keeps its own state, of which nothing is read. It insists on a place that all nodes see."""
    if len(cluster_nodes()) > 1:
        job.writer.delete_tree(job.work.ray)
        yield job.work.ray
        return
    with tempfile.TemporaryDirectory(prefix="brainray-", ignore_cleanup_errors=True) as folder:
        yield folder


def _trainer(job: TrainJob, pool: TrainPool, scratch: str, **datasets: Dataset) -> TorchTrainer:
    resources = {"CPU": pool.cpus_per_worker} | ({"GPU": 1.0} if pool.use_gpu else {})
    return _Trainer(
        _worker,
        train_loop_config={"job": job},
        torch_config=TorchConfig(backend="nccl" if pool.use_gpu else "gloo", timeout_s=600),
        scaling_config=ScalingConfig(num_workers=pool.workers, use_gpu=pool.use_gpu, resources_per_worker=resources),
        datasets={**datasets},
        # Ray Train splits all data sets unless told otherwise; the validation images are shared out by the workers.
        dataset_config=DataConfig(datasets_to_split=["train"]),
        run_config=RunConfig(
            # A name that never was: Ray Train goes on from what it finds under a name it knows, also if that is torn.
            name=secrets.token_hex(4),
            storage_path=scratch,
            failure_config=FailureConfig(max_failures=0, controller_failure_limit=_STARTS),  # type: ignore[call-arg]
        ),
    )


class _Trainer(TorchTrainer):
    """Leaves Ctrl-C alone: Ray Train's handler would end the process with code 0, and stay when training is over."""

    def _register_sigint_handler(self, controller: object) -> None:
        pass

    def _create_default_callbacks(self) -> list[Any]:
        """Without the one that frees what a dead controller held: it asks the dashboard, and where there is none every
        training waits 10 s for the answer in the end. A Ray without a dashboard is our own and ends with us.
        """
        callbacks: list[Any] = super()._create_default_callbacks()  # type: ignore[misc]
        if has_dashboard():
            return callbacks
        return [callback for callback in callbacks if type(callback).__name__ != "PlacementGroupCleanerCallback"]


def _cause(exc: BaseException) -> str:
    """The first sentence of the last line: Ray adds a page of advice."""
    lines = [line.strip() for line in str(exc).splitlines() if line.strip()]
    return lines[-1].split(". ")[0][:200] if lines else type(exc).__name__


def _worker(config: dict[str, Any]) -> None:
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
        self._images, self._labels = _gather("train", share=None)
        self._val_images, self._val_labels = _gather("validation", share=(rank, workers))
        self._batch = max(1, job.options.batch_size // workers)
        largest = max(_all_gather(len(self._labels)))
        self._steps = -(-largest // self._batch)
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
        )
        torch.manual_seed(options.seed)  # the first weights
        model = build_model(self._job.model).to(memory_format=torch.channels_last)
        if begun:
            model.load_state_dict(begun.model)
        self._model = ray.train.torch.prepare_model(model, move_to_device=device)
        self._optimizer = fit.make_optimizer(self._model, options, moments=begun.moments if begun else None)
        self._schedule = fit.make_schedule(
            self._optimizer,
            total_steps=self._steps * options.epochs,
            warmup_fraction=options.warmup_fraction,
            done_steps=self._steps * len(self.history),
        )

    def epoch(self) -> None:
        number = len(self.history) + 1
        began = time.perf_counter()
        generator = fit.seed_epoch(seed=self._job.options.seed, epoch=number, rank=self._rank)
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
        row["best"] = fit.is_better(row, fit.best_of(self.history))
        if row["best"]:
            # A copy, which further steps leave alone.
            best = {name: tensor.to("cpu", copy=True) for name, tensor in _bare(self._model).state_dict().items()}
            self._best = (best, torch.from_numpy(logits_NK), torch.from_numpy(labels_N))
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

    def report(self) -> None:
        """Keep the epoch, and hand its figures to Ray Train. What is written is the same on every worker."""
        if self._rank == 0 and self._best:
            best, logits_NK, labels_N = self._best
            state = Checkpoint(
                model=_bare(self._model).state_dict(),
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


def _gather(name: str, share: tuple[int, int] | None) -> tuple[Array, Array]:
    """This worker's images and labels."""
    batches = ray.train.get_dataset_shard(name).iter_batches(batch_size=None)
    return in_order([share_rows(batch, share) for batch in batches], "pixels", "label")


def _bare(model: torch.nn.Module) -> torch.nn.Module:
    """The network itself: with two workers or more it is wrapped."""
    return getattr(model, "module", model)


def _all_gather(value: object) -> list[Any]:
    if not torch.distributed.is_initialized():
        return [value]
    values: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(values, value)
    return values
