"""What `brainray train` does: list the images, decode them, split them by picture, fit, and write the bundle.

The same command goes on after any interruption: `training.state` reads what is there, `cluster.train` resumes the fit.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from brainray import storage
from brainray.callbacks import Say
from brainray.config import TrainOptions
from brainray.duplicates.seen import SeenPictures
from brainray.errors import BadRequest, BrainrayError
from brainray.evaluation.metrics import reference_distribution
from brainray.models.bundle import Bundle, fold_file, kept_folds, load_bundle, save_bundle, weights_bytes
from brainray.models.versions import package_versions
from brainray.storage import lease
from brainray.training import described, state
from brainray.training.dataset import describe_data, picture_counts
from brainray.training.learned_before import find_new, learned_before
from brainray.training.report import Validation, write_training_report
from brainray.training.splits import Split
from brainray.training.state import (
    FitPart,
    Progress,
    TrainingState,
    parts_of,
    progress_logged,
    read_progress,
    splits_of,
)

from .training_setup import DecodedImages, TrainingJob, decoded_by_ray, list_images

_NEW_IN_DATA = ("division", "series")  # of the description of the images, which earlier versions wrote without

if TYPE_CHECKING:
    import numpy.typing as npt

    from brainray.machine.resources import TrainPool
    from brainray.training.teaching import Teaching


def train(
    data: str,
    *,
    output: str,
    exclude: str | None,
    groups: str | None = None,
    boxes: str | None = None,
    options: TrainOptions,
    init: Bundle | None = None,
    teacher: Bundle | None = None,
    keep_folds: bool = False,
    say: Say,
    clock: Callable[[], float] = time.monotonic,
) -> Bundle:
    """Fit a model to class folders and write its bundle. Nothing is written before the request has been checked.

    With `init`, training begins with that model's weights; its network and image spec must be those of the options.
    With `teacher`, the fold networks of that model teach beside the labels; `keep_folds` keeps those of this one.
    """
    began = clock()
    if keep_folds and not options.folds:
        raise BadRequest("--keep-folds: there are no folds; give --folds 5 too")
    output_uri = storage.normalise(output)
    state.check_is_folder(output_uri)
    lease.refuse_if_held(output_uri)
    options = replace(
        options, init=init.fingerprint if init else None, teacher=teacher.fingerprint if teacher else None
    )
    earlier = learned_before(init, teacher)  # a damaged list would be refused only at the end
    if earlier and earlier.untold:
        say(earlier.describe_untold())
    job = list_images(
        data,
        output=output_uri,
        exclude=exclude,
        groups=groups,
        boxes=boxes,
        options=options,
        init=init,
        teacher=teacher,
        say=say,
    )
    if state.inspect_output(output_uri, job.request) != "trained":
        from brainray.models.networks import check_network

        # Before anything is written and Ray is started:
        check_network(job.model, options.image_spec, options.weights, needs_maps=job.training_set.has_boxes)
        if teacher:
            from brainray.training.teaching import check_teacher

            check_teacher(teacher, job.model.classes, options.image_spec)
    elif not storage.exists(job.work.uri):
        return _trained_already(job, keep_folds=keep_folds)
    storage.check_writable("--output", output_uri)
    with lease.hold(output_uri, purpose="train", say=say) as held:
        before = state.inspect_output(output_uri, job.request)  # again: another run may have ended here just now
        if before == "trained":
            bundle = _trained_already(job, keep_folds=keep_folds)
        else:
            bundle = _train(job, before, held.writer, lambda: clock() - began, keep_folds=keep_folds)
        held.writer.delete_tree(job.work.uri)
    return bundle


def _trained_already(job: TrainingJob, *, keep_folds: bool) -> Bundle:
    bundle = load_bundle(job.output)
    if keep_folds and not kept_folds(bundle):
        raise BadRequest(
            f"--output {job.output}: was trained without --keep-folds; give a new folder to train it again"
        )
    job.say("already trained: the model of this very request is there")
    return bundle


def _train(
    job: TrainingJob,
    before: TrainingState,
    writer: storage.Writer,
    seconds: Callable[[], float],
    *,
    keep_folds: bool,
) -> Bundle:
    """Train what is not trained yet, and write the bundle."""
    parts = parts_of(job.output, job.options)
    begun = _begun(job, parts) if before == "unfinished" else Progress(states=(None,) * len(parts))
    progress = begun
    if not begun.is_finished(job.options):
        _fit(job, parts, begun, writer)
        progress = read_progress(parts)
    if not progress.is_finished(job.options):
        raise BrainrayError("training ended before its last epoch; run the same command to go on")
    folds = progress.states[:-1] if keep_folds else ()
    kept = {fold_file(number): weights_bytes(saved.best) for number, saved in enumerate(folds, 1) if saved}
    return _write(job, progress, writer, seconds=begun.seconds + seconds(), kept=kept)


def _begun(job: TrainingJob, parts: tuple[FitPart, ...]) -> Progress:
    """The checkpoints of an earlier command; logs where training goes on, and which of them are damaged."""
    progress = read_progress(parts)
    for line in progress.damaged:
        job.say(line)
    reached = [(part, saved) for part, saved in zip(parts, progress.states, strict=True) if saved]
    if reached:
        part, saved = reached[-1]
        job.say(f"going on after {part.prefix}epoch {saved.epoch} of {job.options.epochs}")
    return progress


def _fit(job: TrainingJob, parts: tuple[FitPart, ...], begun: Progress, writer: storage.Writer) -> None:
    """Decode the images and fit the parts that are not finished; this needs Ray."""
    from brainray.training import loop

    options = job.options
    with decoded_by_ray(job, writer, workers=options.workers, most=options.most_workers) as images:
        data = describe_data(images.selected, job.model.classes)
        if job.training_set.has_boxes:
            data["boxes"] = int(np.isfinite(job.training_set.boxes[images.selected.positions, 0]).sum())
        _begin(job, begun, data, writer)
        teaching = _teaching(job, images)
        state.write_groups(job.output, images.selected, writer=writer)
        if not storage.exists(job.work.described):
            _describe(job, images, writer)
        job.say(f"training with {_count(images.pool)} worker(s); they take some ten seconds to start")
        for part, saved, split in zip(parts, begun.states, splits_of(images.selected), strict=True):
            if saved is None or not loop.is_finished(saved.history, options):
                writer.write_json(part.work.progress, {"history": saved.history if saved else []})
                with progress_logged(part, epochs=options.epochs, say=job.say):
                    _fit_part(job, part, images, split, data, writer, teaching)


def _teaching(job: TrainingJob, images: DecodedImages) -> "Teaching | None":
    from brainray.training.teaching import fold_numbers

    return fold_numbers(job.teacher, images.selected) if job.teacher else None


def _describe(job: TrainingJob, images: DecodedImages, writer: storage.Writer) -> None:
    """Keep what the bundle will hold of the images: hashes of those learned from, features of those measured on."""
    from brainray.cluster.train_data import describe

    job.say("describing the pictures")
    rows = describe(images.dataset, images.selected, cpus=images.pool.decode_cpus)
    described.keep(job.work, images.selected, rows, writer=writer)


def _count(pool: "TrainPool") -> str:
    return f"{pool.workers}" if pool.most_workers is None else f"{pool.workers} to {pool.most_workers}"


def _fit_part(
    job: TrainingJob,
    part: FitPart,
    images: DecodedImages,
    split: Split,
    data: dict[str, Any],
    writer: storage.Writer,
    teaching: "Teaching | None",
) -> None:
    from brainray.cluster import train as ray_train
    from brainray.cluster.train_shares import Shares, SplitSide
    from brainray.cluster.train_worker import TrainJob
    from brainray.training.trainer import FitSpec

    selected, pool = images.selected, images.pool
    counts = picture_counts(selected, split.train, len(job.model.classes))
    fit_spec = FitSpec(
        options=job.options,
        model=job.model,
        class_counts=tuple(counts.tolist()),
        init=job.init,
        has_boxes=job.training_set.has_boxes,
        teaching=teaching,
    )
    work = TrainJob(fit_spec=fit_spec, data=data, threads=pool.threads_per_worker, work=part.work, writer=writer)
    sides = {
        "train": SplitSide.of(selected.positions_at(split.train), selected.pictures[split.train], by="picture"),
        "validation": SplitSide.of(
            selected.positions_at(split.validation), selected.pictures[split.validation], by="position"
        ),
    }
    ray_train.train(work, shares=Shares.of(images.dataset, sides), pool=pool, say=job.say)


def _begin(job: TrainingJob, begun: Progress, data: dict[str, Any], writer: storage.Writer) -> None:
    """Write the request into the work folder, from where the same command goes on; refuse changed images."""
    before = begun.data
    if before is None:
        state.begin_training(job.output, job.request, writer=writer)
    elif "groups" in data and "groups" not in before:
        raise BadRequest(
            f"this training was begun by an earlier version of brainray, which divided groups otherwise; "
            f"delete {job.work.uri} to begin anew"
        )
    elif before != {name: value for name, value in data.items() if name not in _NEW_IN_DATA or name in before}:
        # One more image moves others between training and validation, so images trained on would be measured on.
        raise BadRequest(
            f"{data['images']:,} images could be read, and when this training began {before['images']:,}, or they "
            "show something else, or other versions of libraries divide them otherwise; see that all can be read and "
            f"run again, or delete {job.work.uri} to begin anew"
        )


def _write(
    job: TrainingJob, progress: Progress, writer: storage.Writer, *, seconds: float, kept: dict[str, bytes]
) -> Bundle:
    """The training report, then the bundle. `kept` are the networks of the folds, by file."""
    from brainray.models.networks import cost_of
    from brainray.training import loop
    from brainray.training.fit_result import Measured, calibrate

    saved = [one for one in progress.states if one]
    last, every = saved[-1], Measured.of(saved)
    before = learned_before(job.init, job.teacher)
    new = find_new(before, job.work, every)
    if new.knowledge and not (before and before.untold) and (line := new.knowledge.describe(len(every.labels_N))):
        job.say(line)
    measured = every.at(new.taken_N)
    groups = state.read_groups(job.output, measured.positions_N)
    fitted = calibrate(last, measured, groups.unit_N if groups else None, flatters=new.flatter)
    best = loop.best_of(last.history)
    validation = Validation(
        classes=job.model.classes,
        probs_NK=fitted.probs_NK,
        labels_N=measured.labels_N,
        fold_N=measured.fold_N,
        review=fitted.review,
        before=new.knowledge,
        groups=groups,
        history=last.history,
        best_epoch=best["epoch"] if best else 0,
    )
    provenance = {
        "request": job.request.digest,
        "options": job.options.to_json(),
        "given": [*job.given, *(["--keep-folds"] if kept else [])],
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
        reference=None if new.flatter else reference_distribution(fitted.probs_NK, job.model.classes),
        provenance=provenance,
        files=_files(job, validation, measured.positions_N, before.seen if before else None) | kept,
        writer=writer,
    )


def _files(
    job: TrainingJob,
    validation: Validation,
    positions_N: "npt.NDArray[np.int64] | None",
    before: SeenPictures | None,
) -> dict[str, bytes]:
    """The reference and the list of what was learned from."""
    files = described.bundle_files(job.work, validation, positions_N, before=before)
    if not files:
        job.say("an earlier version of brainray began this training, so `score` will not know its images again")
    return files
