"""What `brainray tune` does, step by step: list, decode in each size, run the trials that have not ended, rank them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa

from brainray import storage
from brainray.callbacks import Say
from brainray.config import ImageSpec, TrainOptions
from brainray.errors import BrainrayError
from brainray.storage import lease
from brainray.storage.shared_paths import NamedPath, shared_paths_of
from brainray.training import search as tuning
from brainray.training.dataset import SelectedImages, TrainingSet, list_excluded, list_training_set, picture_counts
from brainray.training.search import Space, Trial
from brainray.training.state import check_is_folder, describe_request

if TYPE_CHECKING:
    from ray.data import Dataset

    from brainray.cluster.tune import SplitDatasets
    from brainray.training.dataset import Array


@dataclass(frozen=True, kw_only=True)
class TuneRequest:
    """A search as it was asked for. `options` are those of the first trial, and of what is not varied in others."""

    data: str
    output: str
    exclude: str | None
    options: TrainOptions
    space: Space
    trials: int


@dataclass(frozen=True, kw_only=True)
class _Job:
    """A request that has been looked at, and what it is about."""

    output: str
    options: TrainOptions
    training_set: TrainingSet
    excluded: pa.Table | None
    drawn: tuple[TrainOptions, ...]  # of each trial
    writer: storage.Writer
    say: Say


def tune(request: TuneRequest, *, say: Say) -> list[Trial]:
    """Run the trials that are still to be run. Gives all of which anything was measured, the best first."""
    output = storage.normalise(request.output)
    check_is_folder(output)
    lease.refuse_if_held(output)
    training_set = list_training_set(storage.normalise(request.data))
    excluded = list_excluded(storage.normalise(request.exclude)) if request.exclude else None
    say(f"{len(training_set.table):,} images in {len(training_set.classes)} classes: {', '.join(training_set.classes)}")
    drawn = tuple(request.space.draw(request.options, number) for number in range(request.trials))
    # What makes no sense is told before anything is written and Ray is started.
    specs = [options.model_spec(training_set.classes) for options in drawn]
    if not tuning.is_begun(output):  # a search that goes on has looked, and may need no torch any more
        from brainray.models.networks import check_network

        check_network(specs[0], request.options.weights)  # one name in all of them
    storage.check_writable("--output", output)
    with lease.hold(output, purpose="tune", say=say) as held:
        asked = describe_request(request.options, training_set, excluded)
        tuning.begin_search(output, asked, request.space, held.writer)
        job = _Job(
            output=output,
            options=request.options,
            training_set=training_set,
            excluded=excluded,
            drawn=drawn,
            writer=held.writer,
            say=say,
        )
        trials = _run(job)
        held.writer.write_bytes(storage.join(output, tuning.TABLE), tuning.table_csv(trials))
    ranked = tuning.ranked(trials)
    if not ranked:
        raise BrainrayError(f"no trial got through an epoch; the first one: {trials[0].failure or 'did not end'}")
    return ranked


def _run(job: _Job) -> list[Trial]:
    """All trials, those that had not ended run now."""
    trials = tuning.read_trials(job.output, job.drawn)
    waiting = [trial for trial in trials if not trial.ended]
    if len(waiting) < len(trials):
        job.say(f"{len(trials) - len(waiting)} of {len(trials)} trials have ended before")
    if not waiting:
        return trials
    ended = {trial.number: trial for trial in trials}
    _run_with_ray(job, trials, waiting, told=lambda trial: ended.update({trial.number: trial}))
    return list(ended.values())


def _run_with_ray(job: _Job, trials: list[Trial], waiting: list[Trial], *, told: Callable[[Trial], None]) -> None:
    """Run what is waiting; `told` hears of each end."""
    from brainray.cluster.nodes import await_workers, check_every_node
    from brainray.cluster.session import session
    from brainray.resources import train_pool

    job.say("starting Ray")
    with session() as nodes:
        from brainray.cluster import (
            train_data,  # not before `session` has silenced Ray, which looks when it is imported
        )
        from brainray.cluster.tune import Search, run_trials

        nodes = await_workers(nodes, say=job.say)
        first_image = NamedPath("--data", job.training_set.table["uri"][0].as_py())
        check_every_node(shared_paths_of([first_image], output=job.output, writer=job.writer))
        pool = train_pool(nodes, workers=None, most=len(waiting))
        job.say("decoding")
        decoded, selected = train_data.decode(
            job.training_set, job.excluded, job.options, cpus=pool.decode_cpus, say=job.say
        )
        specs = {trial.options.image_spec for trial in waiting}
        counts = picture_counts(selected, selected.splits[0].train, len(job.training_set.classes))
        search = Search(
            output=job.output,
            classes=job.training_set.classes,
            class_counts=tuple(counts.tolist()),
            trials=tuple(trials),
            datasets={spec.image_px: _sides(job, spec, decoded, selected, cpus=pool.decode_cpus) for spec in specs},
            threads=pool.threads_per_worker,
            writer=job.writer,
        )
        job.say(f"{len(waiting)} trials of {job.options.epochs} epochs; the worse ones end early")

        def heard(trial: Trial) -> None:
            job.say(line_of(trial))
            told(trial)

        run_trials(search, [trial.number for trial in waiting], pool, on_trial_end=heard)


def _sides(job: _Job, spec: ImageSpec, decoded: "Dataset", selected: SelectedImages, *, cpus: float) -> "SplitDatasets":
    """The images in one size; `decoded` are those in the size of the first trial."""
    from brainray.cluster import train_data
    from brainray.cluster.tune import SplitDatasets

    if spec != job.options.image_spec:
        decoded = train_data.decoded_dataset(job.training_set.table, spec, cpus=cpus)

    def select(places: "Array") -> "Dataset":
        return train_data.select(decoded, selected.positions_at(places), selected.pictures[places], cpus=cpus)

    (split,) = selected.splits
    return SplitDatasets(train=select(split.train), validation=select(split.validation))


def line_of(trial: Trial) -> str:
    """How a trial ended."""
    varied = ", ".join(f"{name} {value:g}" for name, value in trial.varied.items())
    if trial.failure:
        return f"trial {trial.number} ({varied}) failed: {trial.failure}"
    best = trial.best or {}
    return (
        f"trial {trial.number} ({varied}): mean recall {best['val_balanced_accuracy']:.4f}, "
        f"accuracy {best['val_accuracy']:.4f} after {len(trial.history)} epochs"
    )
