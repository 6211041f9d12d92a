"""What `brainray tune` does: list the images, decode them in each size, run the trials left, and rank all trials."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from brainray import storage
from brainray.callbacks import Say
from brainray.config import ImageSpec, TrainOptions
from brainray.errors import BrainrayError, excluded_reasons
from brainray.storage import lease
from brainray.training import search
from brainray.training.dataset import picture_counts
from brainray.training.search import Space, Trial
from brainray.training.state import check_is_folder

from .training_setup import DecodedImages, TrainingJob, decoded_by_ray, list_images

if TYPE_CHECKING:
    from ray.data import Dataset

    from brainray.cluster.tune import SplitDatasets
    from brainray.training.dataset import Array


@dataclass(frozen=True, kw_only=True)
class TuneRequest:
    """A search. `options` are those of the first trial; the others differ in what `space` varies."""

    data: str
    output: str
    exclude: str | None
    groups: str | None = None
    options: TrainOptions
    space: Space
    trials: int


def tune(request: TuneRequest, *, say: Say) -> list[Trial]:
    """Run the trials that have not ended. Gives all that did not fail, the best first."""
    output = storage.normalise(request.output)
    check_is_folder(output)
    lease.refuse_if_held(output)
    job = list_images(
        request.data,
        output=output,
        exclude=request.exclude,
        groups=request.groups,
        options=request.options,
        say=say,
    )
    drawn = tuple(request.space.draw(request.options, number) for number in range(request.trials))
    # A wrong option ends the command before anything is written and Ray is started.
    specs = [options.model_spec(job.training_set.classes) for options in drawn]
    if not search.is_begun(output):  # the network of a search that was begun has been checked; torch may not be needed
        from brainray.models.networks import check_network

        for image in {each.image_spec for each in drawn}:
            check_network(specs[0], image, request.options.weights)  # all trials have the same network
    storage.check_writable("--output", output)
    with lease.hold(output, purpose="tune", say=say) as held:
        search.begin_search(output, job.request, request.space, held.writer)
        trials = _run(job, drawn, held.writer)
        held.writer.write_bytes(storage.join(output, search.TABLE), search.table_csv(trials))
    ranked = search.ranked(trials)
    if not ranked:
        raise BrainrayError(f"every trial failed; the first one: {trials[0].failure or 'did not end'}")
    return ranked


def _run(job: TrainingJob, drawn: tuple[TrainOptions, ...], writer: storage.Writer) -> list[Trial]:
    """All trials; those that had not ended are run now. `drawn` are the options of each."""
    trials = search.read_trials(job.output, drawn)
    waiting = [trial for trial in trials if not trial.ended]
    if len(waiting) < len(trials):
        job.say(f"{len(trials) - len(waiting)} of {len(trials)} trials have ended before")
    if not waiting:
        return trials
    by_number = {trial.number: trial for trial in trials}

    def record(trial: Trial) -> None:
        by_number[trial.number] = trial
        job.say(line_of(trial))

    _run_with_ray(job, trials, waiting, writer, on_end=record)
    return list(by_number.values())


def _run_with_ray(
    job: TrainingJob,
    trials: list[Trial],
    waiting: list[Trial],
    writer: storage.Writer,
    *,
    on_end: Callable[[Trial], None],
) -> None:
    """Run the waiting trials; `on_end` is called with each as it ends."""
    with decoded_by_ray(job, writer, workers=None, most=len(waiting)) as images:
        from brainray.cluster.tune import Search, run_trials

        selected, pool = images.selected, images.pool
        specs = {trial.options.image_spec for trial in waiting}
        counts = picture_counts(selected, selected.splits[0].train, len(job.training_set.classes))
        work = Search(
            output=job.output,
            classes=job.training_set.classes,
            class_counts=tuple(counts.tolist()),
            trials=tuple(trials),
            datasets={spec.image_px: _sides(job, spec, images) for spec in specs},
            threads=pool.threads_per_worker,
            writer=writer,
        )
        job.say(f"{len(waiting)} trials of {job.options.epochs} epochs; the worse ones end early")
        run_trials(work, [trial.number for trial in waiting], pool, on_trial_end=on_end)


def _sides(job: TrainingJob, spec: ImageSpec, images: DecodedImages) -> "SplitDatasets":
    """The training and validation images in one size; those of `images` have the size of the first trial."""
    from brainray.cluster import train_data
    from brainray.cluster.tune import SplitDatasets

    selected, cpus = images.selected, images.pool.decode_cpus
    same = spec == job.options.image_spec
    decoded = images.dataset
    if not same:
        excluding = excluded_reasons(all_series=job.options.all_series)
        decoded = train_data.decoded_dataset(job.training_set.table, spec, cpus=cpus, excluding=excluding)

    def select(places: "Array") -> "Dataset":
        return train_data.select(decoded, selected.positions_at(places), selected.pictures[places], cpus=cpus)

    (split,) = selected.splits
    return SplitDatasets(train=select(split.train), validation=select(split.validation))


def line_of(trial: Trial) -> str:
    """The figures of a trial that ended, or why it failed, in a line."""
    varied = ", ".join(f"{name} {value:g}" for name, value in trial.varied.items())
    if trial.failure:
        return f"trial {trial.number} ({varied}) failed: {trial.failure}"
    best = trial.best or {}
    return (
        f"trial {trial.number} ({varied}): mean recall {best['val_balanced_accuracy']:.4f}, "
        f"accuracy {best['val_accuracy']:.4f} after {len(trial.history)} epochs"
    )
