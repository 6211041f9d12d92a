"""Runs a fit with Ray Train, and starts its workers again when one dies.

The number of workers is decided by `machine.resources` (a `TrainPool`). Images are decoded before, in `train_data`;
each worker takes its share of them by `train_shares`; `train_worker` is what a worker runs. Workers always resume from
the checkpoint that the first of them wrote, never from state of Ray's.
"""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager

import ray
import ray.train
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from brainray import storage
from brainray.callbacks import Say
from brainray.errors import BrainrayError
from brainray.machine.resources import TrainPool
from brainray.storage.scratch import scratch_folder

from . import ray_internals, train_internals
from .session import cluster_nodes, own_error
from .train_shares import Shares
from .train_worker import TrainJob, train_worker

_MOST_FAILURES = 3  # in a row without a finished epoch between them
_POLL_S = "0.5"  # seconds between polls of the workers, which end an epoch; 2 s by default
_RESIZE_S = 30.0  # between checks for nodes that joined; adding workers repeats the epoch that is running
_WATCHER = "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"  # an actor that looks out for nodes that announce their removal
_STARTS = 10  # attempts of one run of Ray Train to start its workers, a minute each


def train(job: TrainJob, *, shares: Shares, pool: TrainPool, say: Say) -> None:
    """Run Ray Train until the checkpoint holds a finished fit. The sides are "train" and "validation".

    Training continues after any number of failures as long as epochs are finished between them. Ray Train counts
    failures over a whole run and never resets the count (`FailureConfig`), so a run ends with its first failure and
    another one follows. Nodes that announce their removal are replaced within a run. Raises `BrainrayError` after
    three failures in a row, and at once for an error that would recur.
    """
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", _POLL_S)
    train_internals.ask_for_no_machines()
    failures = 0
    while True:
        before = len(job.work.history())
        try:
            with state_folder(job.work.ray, job.writer) as scratch, _watcher_where_nodes_may_go():
                _fit(_trainer(job, pool, scratch, shares))
            return
        except (ray.train.TrainingFailedError, ray.exceptions.RayError) as exc:
            epochs, planned = len(job.work.history()), job.fit_spec.options.epochs
            failures = 1 if epochs > before else failures + 1
            own_exc = own_error(exc)
            if own_exc and own_exc.exit_code != BrainrayError.exit_code:  # another try would end the same
                raise own_exc from exc
            if failures == _MOST_FAILURES:
                times = f"{failures} times one after another without finishing an epoch"
                raise BrainrayError(f"training failed {times}: {own_exc or _cause(exc)}") from exc
            say(f"a worker failed ({own_exc or _cause(exc)}); going on after epoch {epochs} of {planned}")


@contextmanager
def _watcher_where_nodes_may_go() -> Iterator[None]:
    """Start no watcher of nodes on a private Ray: with the only one, all goes. A variable that is set is left alone."""
    if not ray_internals.is_private() or _WATCHER in os.environ:
        yield
        return
    os.environ[_WATCHER] = "0"
    try:
        yield
    finally:
        del os.environ[_WATCHER]


def _fit(trainer: TorchTrainer) -> None:
    """Fit to the end. On Ctrl-C or another error here the workers end first: a notebook's Ray would keep them."""
    try:
        trainer.fit()
    except ray.train.TrainingFailedError:  # Ray Train has ended them
        raise
    except BaseException:
        train_internals.end_training(trainer)
        raise


@contextmanager
def state_folder(shared: str, writer: storage.Writer) -> Iterator[str]:
    """Provide a folder for Ray's own state, which is never read. Several nodes need one that all of them share."""
    if len(cluster_nodes()) > 1:
        writer.delete_tree(shared)
        yield shared
        writer.delete_tree(shared)
        return
    with scratch_folder() as folder:
        yield folder


def _trainer(job: TrainJob, pool: TrainPool, scratch: str, shares: Shares) -> TorchTrainer:
    resources = {"CPU": pool.cpus_per_worker} | ({"GPU": 1.0} if pool.use_gpu else {})
    return _Trainer(
        train_worker,
        train_loop_config={"job": job, "shares": shares},
        torch_config=TorchConfig(backend="nccl" if pool.use_gpu else "gloo", timeout_s=600),
        scaling_config=ScalingConfig(  # type: ignore[call-arg]
            num_workers=pool.workers if pool.most_workers is None else (pool.workers, pool.most_workers),  # type: ignore[arg-type]
            use_gpu=pool.use_gpu,
            resources_per_worker=resources,
            # GPUs of one machine exchange gradients fastest; processors of one machine are for few workers.
            placement_strategy="PACK" if pool.use_gpu else "SPREAD",
            elastic_resize_monitor_interval_s=_RESIZE_S,
        ),
        run_config=RunConfig(
            # A new name: under a known one Ray Train would resume from its own state, even if that is incomplete.
            name=f"brainray-train-{secrets.token_hex(4)}",
            storage_path=scratch,
            failure_config=FailureConfig(max_failures=0, controller_failure_limit=_STARTS),  # type: ignore[call-arg]
        ),
    )


@train_internals.without_sigint_handler
@train_internals.without_idle_callbacks
class _Trainer(TorchTrainer):
    """Ray's `TorchTrainer`, without its handler of Ctrl-C and without helpers that have nothing to do."""


def _cause(exc: BaseException) -> str:
    """Return the first sentence of the last line of an error, without Ray's advice."""
    lines = [line.strip() for line in str(exc).splitlines() if line.strip()]
    return lines[-1].split(". ")[0][:200] if lines else type(exc).__name__
