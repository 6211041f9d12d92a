"""What `brainray tune` does, step by step: list, decode in each size, run the trials that have not ended, rank them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa

from . import lease, storage, tuning
from .config import TrainOptions
from .errors import BrainrayError
from .run import check_writable
from .sight import Seen, sight_of
from .training_request import check_is_folder, describe_request
from .training_set import TrainingSet, list_excluded, list_training_set, picture_counts
from .tuning import Space, Trial

if TYPE_CHECKING:
    from ray.data import Dataset

    from .training_set import Array

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Request:
    """A search as it was asked for. `options` are those of the first trial, and of what is not varied in others."""

    data: str
    output: str
    exclude: str | None
    options: TrainOptions
    space: Space
    trials: int


def tune(request: Request, *, say: Say) -> list[Trial]:
    """Run the trials that are still to be run. Gives all of which anything was measured, the best first."""
    output = storage.normalise(request.output)
    check_is_folder(output)
    lease.refuse_if_held(output)
    training_set = list_training_set(storage.normalise(request.data))
    excluded = list_excluded(storage.normalise(request.exclude)) if request.exclude else None
    say(f"{len(training_set.table):,} images in {len(training_set.classes)} classes: {', '.join(training_set.classes)}")
    drawn = [request.space.draw(request.options, number) for number in range(request.trials)]
    for options in drawn:
        options.model_spec(training_set.classes)
    asked = describe_request(request.options, training_set, excluded)
    check_writable(output)
    with lease.hold(output, purpose="tune", say=say) as held:
        tuning.begin(output, asked, request.space, held.writer)
        trials = tuning.read_trials(output, drawn)
        waiting = [trial.number for trial in trials if not trial.ended]
        if len(waiting) < len(trials):
            say(f"{len(trials) - len(waiting)} of {len(trials)} trials have ended before")
        if waiting:
            _run(request, output, training_set, excluded, trials, waiting, held.writer, say)
            trials = tuning.read_trials(output, drawn)
        held.writer.write_bytes(storage.join(output, tuning.TABLE), tuning.table_csv(trials))
    ranked = tuning.ranked(trials)
    if not ranked:
        raise BrainrayError(f"no trial got through an epoch; the first one: {trials[0].failure or 'did not end'}")
    return ranked


def _run(
    request: Request,
    output: str,
    training_set: TrainingSet,
    excluded: pa.Table | None,
    trials: list[Trial],
    waiting: list[int],
    writer: storage.Writer,
    say: Say,
) -> None:
    """What needs Ray."""
    from .pools import train_pool
    from .ray_nodes import await_workers, check_every_node
    from .ray_session import session

    say("starting Ray")
    with session() as nodes:
        from . import ray_decode  # not before `session` has silenced Ray, which looks when it is imported
        from .ray_tune import Search, Sides, run_trials

        nodes = await_workers(nodes, say=say)
        check_every_node(sight_of([Seen("--data", training_set.table["uri"][0].as_py())], output=output, writer=writer))
        pool = train_pool(nodes, workers=None, most=len(waiting))
        say("decoding")
        first, chosen = ray_decode.decode(training_set, excluded, request.options, cpus=pool.decode_cpus, say=say)
        (split,) = chosen.splits

        def select(decoded: "Dataset", places: "Array") -> "Dataset":
            return ray_decode.select(decoded, chosen.side(places), chosen.pictures[places], cpus=pool.decode_cpus)

        sides = {}
        for options in (trials[number].options for number in waiting):
            spec = options.image_spec
            if spec.image_px not in sides:
                decoded = (
                    first
                    if spec == request.options.image_spec
                    else ray_decode.decoded_dataset(training_set.table, spec, cpus=pool.decode_cpus)
                )
                sides[spec.image_px] = Sides(
                    train=select(decoded, split.train), validation=select(decoded, split.validation)
                )
        counts = picture_counts(chosen, split.train, len(training_set.classes))
        search = Search(
            output=output,
            classes=training_set.classes,
            class_counts=tuple(counts.tolist()),
            trials=tuple(trials),
            sides=sides,
            threads=pool.threads_per_worker,
            writer=writer,
        )
        say(f"{len(waiting)} trials of {request.options.epochs} epochs; the worse ones end early")
        run_trials(search, waiting, pool, told=lambda trial: say(line_of(trial)))


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
