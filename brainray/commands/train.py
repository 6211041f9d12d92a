"""What `brainray train` does, step by step: list, decode, split by picture, fit, and write the bundle.

Whatever ends it, the same command goes on: see `training_request` for what it finds, `ray_train` for where it goes on.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from brainray import storage
from brainray.callbacks import Say
from brainray.config import ModelSpec, TrainOptions
from brainray.errors import BadRequest, BrainrayError
from brainray.evaluation.metrics import reference_distribution
from brainray.models.bundle import Bundle, load_bundle, save_bundle
from brainray.storage import lease
from brainray.storage.shared_paths import NamedPath, shared_paths_of
from brainray.training import state as training_request
from brainray.training.dataset import (
    SelectedImages,
    TrainingSet,
    describe_data,
    list_excluded,
    list_training_set,
    picture_counts,
)
from brainray.training.report import Validation, write_training_report
from brainray.training.splits import Split
from brainray.training.state import (
    FitPart,
    Progress,
    TrainingState,
    TrainRequest,
    WorkFolder,
    parts_of,
    progress_logged,
    read_progress,
    splits_of,
)
from brainray.versions import package_versions

if TYPE_CHECKING:
    from ray.data import Dataset

    from brainray.resources import TrainPool


@dataclass(frozen=True, kw_only=True)
class _Job:
    """A request that has been looked at, and what it is about."""

    output: str
    request: TrainRequest
    training_set: TrainingSet
    excluded: pa.Table | None
    options: TrainOptions
    init: Bundle | None
    say: Say

    @property
    def work(self) -> WorkFolder:
        return WorkFolder.of(self.output)

    @property
    def model(self) -> ModelSpec:
        return self.options.model_spec(self.training_set.classes)


def train(
    data: str,
    *,
    output: str,
    exclude: str | None,
    options: TrainOptions,
    init: Bundle | None = None,
    say: Say,
    clock: Callable[[], float] = time.monotonic,
) -> Bundle:
    """Fit a model to class folders and write its bundle. Nothing is written before the request has been checked.

    With `init`, training begins with that model's weights; its network and image spec must be those of the options.
    """
    began = clock()
    output_uri = storage.normalise(output)
    training_request.check_is_folder(output_uri)
    lease.refuse_if_held(output_uri)
    job = _read_job(data, output_uri, exclude, replace(options, init=init.fingerprint if init else None), init, say)
    if training_request.inspect_output(output_uri, job.request) != "trained":
        from brainray.models.networks import check_network

        check_network(job.model, options.weights)  # told before anything is written and Ray is started
    elif not storage.exists(job.work.uri):
        return _trained_already(job)
    storage.check_writable("--output", output_uri)
    with lease.hold(output_uri, purpose="train", say=say) as held:
        found = training_request.inspect_output(
            output_uri, job.request
        )  # once more: another may have been at it in between
        if found == "trained":
            bundle = _trained_already(job)
        else:
            bundle = _train(job, found, held.writer, lambda: clock() - began)
        held.writer.delete_tree(job.work.uri)
    return bundle


def _read_job(
    data: str, output: str, exclude: str | None, options: TrainOptions, init: Bundle | None, say: Say
) -> _Job:
    """List the images. Raises `BadRequest` for what cannot be learned from."""
    data_uri, exclude_uri = storage.normalise(data), storage.normalise(exclude) if exclude else None
    training_set = list_training_set(data_uri)
    excluded = list_excluded(exclude_uri) if exclude_uri else None
    classes = training_set.classes
    say(f"{len(training_set.table):,} images in {len(classes)} classes: {', '.join(classes)}")
    if training_set.skipped:
        say("passed over: " + ", ".join(f"{count:,} {reason}" for reason, count in training_set.skipped.items()))
    request = training_request.describe_request(options, training_set, excluded)
    return _Job(
        output=output,
        request=request,
        training_set=training_set,
        excluded=excluded,
        options=options,
        init=init,
        say=say,
    )


def _trained_already(job: _Job) -> Bundle:
    job.say("already trained: the model of this very request is there")
    return load_bundle(job.output)


def _train(job: _Job, found: TrainingState, writer: storage.Writer, seconds: Callable[[], float]) -> Bundle:
    """Train what is not trained yet, and write the bundle."""
    parts = parts_of(job.output, job.options)
    begun = _begun(job, parts) if found == "unfinished" else Progress(states=(None,) * len(parts))
    progress = begun
    if not begun.is_finished(job.options):
        _fit(job, parts, begun, writer)
        progress = read_progress(parts)
    if not progress.is_finished(job.options):
        raise BrainrayError("training ended before its last epoch; run the same command to go on")
    return _write(job, progress, writer, seconds=begun.seconds + seconds())


def _begun(job: _Job, parts: tuple[FitPart, ...]) -> Progress:
    """Where an earlier command stopped; said in a line."""
    progress = read_progress(parts)
    for line in progress.damaged:
        job.say(line)
    last = max((place for place, state in enumerate(progress.states) if state), default=None)
    if last is not None and (state := progress.states[last]):
        job.say(f"going on after {parts[last].prefix}epoch {state.epoch} of {job.options.epochs}")
    return progress


def _fit(job: _Job, parts: tuple[FitPart, ...], begun: Progress, writer: storage.Writer) -> None:
    """What needs Ray."""
    from brainray.cluster.nodes import await_workers, check_every_node
    from brainray.cluster.session import session
    from brainray.resources import train_pool
    from brainray.training import loop

    job.say("starting Ray")
    with session() as nodes:
        nodes = await_workers(nodes, say=job.say)
        images = NamedPath("--data", job.training_set.table["uri"][0].as_py())
        named = [images, *([NamedPath("--init", job.init.uri)] if job.init else [])]
        check_every_node(shared_paths_of(named, output=job.output, writer=writer))
        pool = train_pool(nodes, workers=job.options.workers, most=job.options.most_workers)
        from brainray.cluster import (
            train_data,  # not before `session` has silenced Ray, which looks when it is imported
        )

        job.say("decoding")
        decoded, selected = train_data.decode(
            job.training_set, job.excluded, job.options, cpus=pool.decode_cpus, say=job.say
        )
        data = describe_data(selected, job.model.classes)
        _begin(job, begun, data, writer)
        job.say(f"training with {_count(pool)} worker(s); they take half a minute to start")
        for part, state, split in zip(parts, begun.states, splits_of(selected), strict=True):
            if state is None or not loop.is_finished(state.history, job.options):
                writer.write_json(part.work.progress, {"history": state.history if state else []})
                with progress_logged(part, epochs=job.options.epochs, say=job.say):
                    _fit_part(job, part, decoded, selected, split, pool, data, writer)


def _count(pool: "TrainPool") -> str:
    return f"{pool.workers}" if pool.most_workers is None else f"{pool.workers} to {pool.most_workers}"


def _fit_part(
    job: _Job,
    part: FitPart,
    decoded: "Dataset",
    selected: SelectedImages,
    split: Split,
    pool: "TrainPool",
    data: dict[str, Any],
    writer: storage.Writer,
) -> None:
    from brainray.cluster import train as ray_train
    from brainray.cluster.train_shares import SplitSide
    from brainray.cluster.train_worker import TrainJob
    from brainray.training.trainer import FitSpec

    counts = picture_counts(selected, split.train, len(job.model.classes))
    fit_spec = FitSpec(options=job.options, model=job.model, class_counts=tuple(counts.tolist()), init=job.init)
    work = TrainJob(fit_spec=fit_spec, data=data, threads=pool.threads_per_worker, work=part.work, writer=writer)
    sides = {
        "train": SplitSide.of(selected.positions_at(split.train), selected.pictures[split.train], by="picture"),
        "validation": SplitSide.of(
            selected.positions_at(split.validation), selected.pictures[split.validation], by="position"
        ),
    }
    ray_train.train(work, decoded=decoded, sides=sides, pool=pool, say=job.say)


def _begin(job: _Job, begun: Progress, data: dict[str, Any], writer: storage.Writer) -> None:
    """Make the work folder this training's. From here on the output is not refused for being in use."""
    before = begun.data
    if before is None:
        training_request.begin_training(job.output, job.request, writer=writer)
    elif before != data:
        # An image that could be read at one time only moves others across the split: to measure on what was learned.
        raise BadRequest(
            f"{data['images']:,} images could be read, and when this training began {before['images']:,}, or they "
            f"show something else; see that all can be read and run again, or delete {job.work.uri} to begin anew"
        )


def _write(job: _Job, progress: Progress, writer: storage.Writer, *, seconds: float) -> Bundle:
    """The training report, then the bundle."""
    from brainray.models.networks import cost_of
    from brainray.training import loop
    from brainray.training.fit_result import calibrate

    states = [state for state in progress.states if state]
    last, fitted = states[-1], calibrate(states)
    best = loop.best_of(last.history)
    validation = Validation(
        classes=job.model.classes,
        probs_NK=fitted.probs_NK,
        labels_N=fitted.labels_N,
        fold_N=fitted.fold_N,
        review=fitted.review,
        history=last.history,
        best_epoch=best["epoch"] if best else 0,
    )
    provenance = {
        "request": job.request.digest,
        "options": job.options.to_json(),
        "versions": package_versions(),
        "data": last.data,
        "cost": cost_of(job.model, job.options.image_spec)._asdict(),
        "seconds": round(seconds, 1),
    }
    write_training_report(job.output, validation, provenance, temperature=fitted.calibration.temperature, writer=writer)
    return save_bundle(
        job.output,
        weights=fitted.weights,
        image=job.options.image_spec,
        model=job.model,
        calibration=fitted.calibration,
        metrics=validation.figures(),
        reference=reference_distribution(fitted.probs_NK, job.model.classes),
        provenance=provenance,
        writer=writer,
    )
