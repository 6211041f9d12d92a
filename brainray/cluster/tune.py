"""Runs the trials of a hyperparameter search with Ray Tune; bad trials are stopped early (ASHA).

Each trial trains one network in one process and writes its own file after every epoch. Nothing may be read from Ray
Tune's own state.
"""

import os
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from ray import tune
from ray.data import Dataset
from ray.tune.schedulers import ASHAScheduler

from brainray import storage
from brainray.machine.resources import TrainPool
from brainray.models.networks import cost_of
from brainray.models.predictor import pick_device
from brainray.training import loop
from brainray.training.decoded import DecodedRows
from brainray.training.search import RAY, Trial, trial_uri
from brainray.training.trainer import FitSpec, Trainer

from .session import own_error, own_errors
from .train import state_folder

_FAILURES = 2  # failures of one trial that are retried, such as a lost node
_GRACE = 3  # epochs before a trial may be stopped
_KEPT = 3  # reduction factor: one of 3 trials continues at each rung (ASHA, Li et al. 2020)
_SCORE = "score"
# Settings that turn off Ray Tune's files, handler of Ctrl-C and table of trials.
_QUIET = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}

OnTrialEnd = Callable[[Trial], None]


@dataclass(frozen=True, kw_only=True)
class SplitDatasets:
    """Decoded images of one size, for training and validation."""

    train: Dataset
    validation: Dataset

    def rows(self) -> tuple[DecodedRows, DecodedRows]:
        """Fetch all rows into this process."""
        batches: Any = [side.iter_batches(batch_size=None) for side in (self.train, self.validation)]
        return DecodedRows(batches[0]), DecodedRows(batches[1])


@dataclass(frozen=True, kw_only=True)
class Search:
    """Settings of a search that every trial needs."""

    output: str
    classes: tuple[str, ...]
    class_counts: tuple[int, ...]
    trials: tuple[Trial, ...]  # by number
    datasets: dict[int, SplitDatasets]  # by image_px
    threads: int  # that each trial computes with
    writer: storage.Writer


@own_errors()
def run_trials(search: Search, numbers: list[int], pool: TrainPool, *, on_trial_end: OnTrialEnd) -> None:
    """Run the trials of these numbers; calls `on_trial_end` with each as it ends.

    When this returns, the file of each trial is marked as ended, with its failure if there was one.
    """
    os.environ.update(_QUIET)
    resources = {"cpu": pool.cpus_per_worker} | ({"gpu": 1.0} if pool.use_gpu else {})
    epochs = search.trials[numbers[0]].options.epochs
    trainable: Any = tune.with_resources(tune.with_parameters(_trial, search=search), resources)
    with state_folder(storage.join(search.output, RAY), search.writer) as scratch:
        tune.Tuner(
            trainable,
            param_space={"number": tune.grid_search(numbers)},
            tune_config=tune.TuneConfig(
                metric=_SCORE,
                mode="max",
                scheduler=ASHAScheduler(
                    time_attr="epoch", max_t=epochs, grace_period=min(_GRACE, epochs), reduction_factor=_KEPT
                ),
            ),
            run_config=tune.RunConfig(
                name=f"brainray-tune-{secrets.token_hex(4)}",
                storage_path=scratch,
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=_FAILURES),
                callbacks=[_TrialEnds(search, on_trial_end)],
            ),
        ).fit()


class _TrialEnds(tune.Callback):
    """Marks the file of a trial as ended, in the process of the command."""

    def __init__(self, search: Search, on_trial_end: OnTrialEnd) -> None:
        self._search, self._on_trial_end = search, on_trial_end

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:  # noqa: ANN401
        self._end(trial, "")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:  # noqa: ANN401
        self._end(trial, _failure_line(trial.get_error()))

    def _end(self, trial: Any, failure: str) -> None:  # noqa: ANN401
        number = trial.config["number"]
        uri = trial_uri(self._search.output, number)
        before = Trial.from_json(storage.read_json(uri)) if storage.exists(uri) else self._search.trials[number]
        ended = replace(before, ended=True, failure=failure)
        self._search.writer.write_json(uri, ended.to_json())
        self._on_trial_end(ended)


def _failure_line(error: Exception | str | None) -> str:
    """Reduce the error that Ray Tune kept of a trial, mostly the text of a traceback, to one line."""
    own = own_error(error if isinstance(error, Exception) else Exception(error or ""))
    lines = [line for line in str(own or error or "").splitlines() if line.strip()]
    return lines[-1][:200] if lines else "unknown"


def _trial(config: dict[str, Any], search: Search) -> None:
    """Train one trial, in a process of its own."""
    trial = search.trials[config["number"]]
    options = trial.options
    torch.set_num_threads(search.threads)
    model = options.model_spec(search.classes)
    fit_spec = FitSpec(options=options, model=model, class_counts=search.class_counts, init=None)
    train_rows, validation_rows = search.datasets[options.image_px].rows()
    trial = replace(trial, **cost_of(model, options.image_spec)._asdict())
    trainer = Trainer(fit_spec, resume_from=None, device=pick_device(), threads=search.threads)
    for epoch in range(1, options.epochs + 1):
        started = time.perf_counter()
        loss = trainer.epoch(train_rows)
        figures = loop.validation_figures(trainer.evaluate(validation_rows), validation_rows.label, len(search.classes))
        row = {"epoch": epoch, "train_loss": loss, **figures, "seconds": time.perf_counter() - started}
        trial = replace(trial, history=(*trial.history, row))
        search.writer.write_json(trial_uri(search.output, trial.number), trial.to_json())
        tune.report({"epoch": epoch, _SCORE: figures["val_balanced_accuracy"]})
