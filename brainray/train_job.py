"""What `brainray train` does, step by step: list, decode, split by picture, fit, and write the bundle.

Whatever ends it, the same command goes on: see `training_request` for what it finds, `ray_train` for where it goes on.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from . import lease, storage, training_request
from .bundle import Bundle, load_bundle, save_bundle
from .config import ModelSpec, TrainOptions
from .errors import BadRequest, BrainrayError, StorageError
from .metrics import reference_distribution
from .plan import package_versions
from .run import check_writable
from .sight import Seen, sight_of
from .training_report import Validation, write_training_report
from .training_request import Found, TrainRequest, WorkFolder
from .training_set import Chosen, TrainingSet, choose, describe_choice, list_excluded, list_training_set

if TYPE_CHECKING:
    from ray.data import Dataset

    from .checkpoint import Checkpoint

_FOLLOW_S = 1.0
Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class _Job:
    """A request that has been looked at, and what it is about."""

    output: str
    request: TrainRequest
    training_set: TrainingSet
    excluded: pa.Table | None
    options: TrainOptions
    say: Say

    @property
    def work(self) -> WorkFolder:
        return WorkFolder.of(self.output)

    @property
    def model(self) -> ModelSpec:
        options = self.options
        return ModelSpec(name=options.model, classes=self.training_set.classes, channels=options.channels)


def train(
    data: str,
    *,
    output: str,
    exclude: str | None,
    options: TrainOptions,
    say: Say,
    clock: Callable[[], float] = time.monotonic,
) -> Bundle:
    """Fit a model to class folders and write its bundle. Nothing is written before the request has been checked."""
    began = clock()
    output_uri = storage.normalise(output)
    training_request.check_is_folder(output_uri)
    lease.refuse_if_held(output_uri)
    job = _read_job(data, output_uri, exclude, options, say)
    if training_request.look(output_uri, job.request) != "trained":
        from .model import build_model

        build_model(job.model)  # a wrong name is told before anything is written and Ray is started
    elif not storage.exists(job.work.uri):
        return _trained_already(job)
    check_writable(output_uri)
    with lease.hold(output_uri, purpose="train", say=say) as held:
        found = training_request.look(output_uri, job.request)  # once more: another may have been at it in between
        if found == "trained":
            bundle = _trained_already(job)
        else:
            bundle = _train(job, found, held.writer, lambda: clock() - began)
        held.writer.delete_tree(job.work.uri)
    return bundle


def _read_job(data: str, output: str, exclude: str | None, options: TrainOptions, say: Say) -> _Job:
    """List the images. Raises `BadRequest` for what cannot be learned from."""
    data_uri, exclude_uri = storage.normalise(data), storage.normalise(exclude) if exclude else None
    training_set = list_training_set(data_uri)
    excluded = list_excluded(exclude_uri) if exclude_uri else None
    classes = training_set.classes
    say(f"{len(training_set.table):,} images in {len(classes)} classes: {', '.join(classes)}")
    if training_set.skipped:
        say("passed over: " + ", ".join(f"{count:,} {reason}" for reason, count in training_set.skipped.items()))
    request = training_request.describe_request(options, training_set, excluded)
    return _Job(output=output, request=request, training_set=training_set, excluded=excluded, options=options, say=say)


def _trained_already(job: _Job) -> Bundle:
    job.say("already trained: the model of this very request is there")
    return load_bundle(job.output)


def _train(job: _Job, found: Found, writer: storage.Writer, seconds: Callable[[], float]) -> Bundle:
    """Train what is not trained yet, and write the bundle."""
    from . import checkpoint, fit

    state = begun = _begun(job) if found == "unfinished" else None
    if begun is None or not fit.is_finished(begun.history, job.options):
        _fit(job, begun, writer)
        state = checkpoint.read(job.work.checkpoint)
    if state is None or not fit.is_finished(state.history, job.options):
        raise BrainrayError("training ended before its last epoch; run the same command to go on")
    before_s = sum(row["seconds"] for row in begun.history) if begun else 0.0
    return _write(job, state, writer, seconds=before_s + seconds())


def _begun(job: _Job) -> "Checkpoint | None":
    """Where an earlier command stopped; said in a line."""
    from . import checkpoint

    try:
        begun = checkpoint.read(job.work.checkpoint)
    except StorageError as exc:
        job.say(f"{job.work.checkpoint} cannot be used ({exc}); beginning again with epoch 1")
        return None
    if begun:
        job.say(f"going on after epoch {begun.epoch} of {job.options.epochs}")
    return begun


def _fit(job: _Job, begun: "Checkpoint | None", writer: storage.Writer) -> None:
    """The part that needs Ray."""
    from . import ray_train
    from .pools import train_pool
    from .ray_nodes import await_workers, check_every_node
    from .ray_session import session
    from .ray_train_worker import TrainJob

    job.say("starting Ray")
    with session() as nodes:
        nodes = await_workers(nodes, say=job.say)
        images = Seen("--data", job.training_set.table["uri"][0].as_py())
        check_every_node(sight_of([images], output=job.output, writer=writer))
        pool = train_pool(nodes, workers=job.options.workers)
        job.say("decoding")
        decoded, chosen = _decode(job, pool.decode_cpus)
        split, classes = chosen.split, job.model.classes
        work = TrainJob(
            options=job.options,
            model=job.model,
            class_counts=tuple(np.bincount(chosen.labels[split.train], minlength=len(classes)).tolist()),
            data=_describe_data(chosen, classes),
            threads=pool.threads_per_worker,
            work=job.work,
            writer=writer,
        )
        _begin(job, begun, work.data, writer)
        job.say(f"training with {pool.workers} worker(s); they take half a minute to start")
        with _following(job):
            ray_train.train(
                work,
                train_set=ray_train.select(
                    decoded, chosen.side(split.train), even_for=pool.workers, cpus=pool.decode_cpus
                ),
                validation_set=ray_train.select(decoded, chosen.side(split.validation), cpus=pool.decode_cpus),
                pool=pool,
                say=job.say,
            )


def _begin(job: _Job, begun: "Checkpoint | None", data: dict[str, Any], writer: storage.Writer) -> None:
    """Make the work folder this training's. From here on the output is not refused for being in use."""
    if begun is None:
        training_request.begin(job.output, job.request, writer=writer)
    elif begun.data != data:
        # An image that could be read at one time only moves others across the split: to measure on what was learned.
        raise BadRequest(
            f"{data['images']:,} images could be read, and when this training began {begun.data['images']:,}, or they "
            f"show something else; see that all can be read and run again, or delete {job.work.uri} to begin anew"
        )
    writer.write_json(job.work.progress, {"history": begun.history if begun else []})


def _decode(job: _Job, cpus: float) -> "tuple[Dataset, Chosen]":
    """All images, and which of them are learned from and measured on; said in some lines."""
    from . import ray_train

    spec = job.options.image_spec
    decoded = ray_train.decoded_dataset(job.training_set.table, spec, cpus=cpus)
    digests, errors = ray_train.digests_of(decoded)
    barred = np.array([], str)
    if job.excluded is not None:
        barred = ray_train.digests_of(ray_train.decoded_dataset(job.excluded, spec, cpus=cpus))[0]
    chosen = choose(job.training_set, digests, errors, barred=barred, options=job.options)
    for line in describe_choice(chosen):
        job.say(line)
    return decoded, chosen


def _describe_data(chosen: Chosen, classes: tuple[str, ...]) -> dict[str, Any]:
    """What the bundle says of the images it was made from."""
    split = chosen.split
    return {
        "digest": chosen.digest,
        "images": len(chosen.positions),
        "pictures": split.pictures,
        "label_conflicts": split.conflicts,
        "train_images": len(split.train),
        "validation_images": len(split.validation),
        "unreadable": chosen.unreadable,
        "excluded": chosen.barred,
        "by_class": dict(zip(classes, np.bincount(chosen.labels, minlength=len(classes)).tolist(), strict=True)),
    }


@contextmanager
def _following(job: _Job) -> Iterator[None]:
    """Say each epoch as it is finished, from the file the first worker keeps."""
    done = threading.Event()
    told = len(job.work.history())

    def follow() -> None:
        nonlocal told
        while True:
            last_look = done.wait(_FOLLOW_S)
            for row in job.work.history()[told:]:
                told += 1
                job.say(epoch_line(row, job.options.epochs))
            if last_look:
                return

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(10)


def epoch_line(row: dict[str, Any], epochs: int) -> str:
    return (
        f"epoch {row['epoch']:>3}/{epochs}  loss {row['train_loss']:.3f}  validation: loss {row['val_loss']:.3f}, "
        f"accuracy {row['val_accuracy']:.4f}, mean recall {row['val_balanced_accuracy']:.4f}"
        f"{' *' if row['best'] else '  '}  {row['images_per_s']:,.0f} images/s, {row['seconds']:.0f} s"
    )


def _write(job: _Job, state: "Checkpoint", writer: storage.Writer, *, seconds: float) -> Bundle:
    """The training report, then the bundle."""
    from . import checkpoint, fit

    model, best = job.model, fit.best_of(state.history)
    fitted = checkpoint.fitted(state)
    validation = Validation(
        classes=model.classes,
        probs_NK=fitted.probs_NK,
        labels_N=fitted.labels_N,
        history=state.history,
        best_epoch=best["epoch"] if best else 0,
    )
    provenance = {
        "request": job.request.digest,
        "options": job.options.to_json(),
        "versions": package_versions(),
        "data": state.data,
        "seconds": round(seconds, 1),
    }
    write_training_report(job.output, validation, provenance, temperature=fitted.temperature, writer=writer)
    return save_bundle(
        job.output,
        weights=fitted.weights,
        image=job.options.image_spec,
        model=model,
        temperature=fitted.temperature,
        metrics=validation.figures(),
        reference=reference_distribution(fitted.probs_NK, model.classes),
        provenance=provenance,
        writer=writer,
    )
