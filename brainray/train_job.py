"""What `brainray train` does, step by step: list, decode, split by picture, fit, and write the bundle."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from . import storage
from .bundle import DESCRIPTION, Bundle, save_bundle
from .config import ModelSpec, TrainOptions
from .errors import BadRequest
from .metrics import reference_distribution
from .plan import package_versions
from .training_report import Validation, write_training_report
from .training_set import Chosen, TrainingSet, choose, describe_choice, list_excluded, list_training_set

if TYPE_CHECKING:
    from .ray_session import Node
    from .ray_train import Fitted

_WORK = ".training"  # Ray Train's own files, below the output until the bundle is written
_FOLLOW_S = 1.0
Say = Callable[[str], None]


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
    check_output(output_uri)
    training_set = list_training_set(storage.normalise(data))
    excluded = list_excluded(storage.normalise(exclude)) if exclude else None
    spec = ModelSpec(name=options.model, classes=training_set.classes, channels=options.channels)
    say(f"{len(training_set.table):,} images in {len(spec.classes)} classes: {', '.join(spec.classes)}")
    if training_set.skipped:
        say("passed over: " + ", ".join(f"{count:,} {reason}" for reason, count in training_set.skipped.items()))
    from .model import build_model
    from .ray_session import session

    build_model(spec)  # a wrong name is told before Ray is started
    say("starting Ray")
    with session() as nodes:
        chosen, fitted = _fit(training_set, excluded, spec, nodes, options, f"{output_uri}/{_WORK}", say)
    bundle = _write(output_uri, training_set, chosen, spec, options, fitted, seconds=clock() - began)
    storage.delete_tree(storage.join(output_uri, _WORK))
    return bundle


def check_output(output: str) -> None:
    """A folder that is new or empty, or has only the remains of a training that was cut short."""
    if storage.exists(output) and not storage.is_folder(output):
        raise BadRequest(f"--output {output} is a file; give a folder that is new or empty")
    if storage.exists(storage.join(output, DESCRIPTION)):
        raise BadRequest(f"--output {output} holds a model already; give a new folder, or remove that one")
    if storage.list_names(output):
        raise BadRequest(f"--output {output} is not empty and holds no model; give a new folder")


def _fit(
    training_set: TrainingSet,
    excluded: pa.Table | None,
    spec: ModelSpec,
    nodes: "list[Node]",
    options: TrainOptions,
    work_uri: str,
    say: Say,
) -> "tuple[Chosen, Fitted]":
    """The part that needs Ray."""
    from . import ray_train
    from .ray_session import train_pool

    pool = train_pool(nodes, workers=options.workers)
    storage.delete_tree(work_uri)  # of a training that was cut short: Ray Train would mix its state into this one's
    say("decoding")
    decoded = ray_train.decoded_dataset(training_set.table, options.image_spec, cpus=pool.decode_cpus)
    digests, errors = ray_train.digests_of(decoded)
    barred = np.array([], str)
    if excluded is not None:
        barred = ray_train.digests_of(ray_train.decoded_dataset(excluded, options.image_spec, cpus=pool.decode_cpus))[0]
    chosen = choose(training_set, digests, errors, barred=barred, options=options)
    for line in describe_choice(chosen):
        say(line)
    split = chosen.split
    job = ray_train.TrainJob(
        options=options,
        model=spec,
        class_counts=tuple(np.bincount(chosen.labels[split.train], minlength=len(spec.classes)).tolist()),
        threads=pool.threads_per_worker,
        progress_uri=storage.join(work_uri, ray_train.PROGRESS),
    )
    say(f"training with {pool.workers} worker(s) for at most {options.epochs} epochs; they take half a minute to start")
    with _following(lambda: ray_train.read_progress(job.progress_uri), options.epochs, say):
        fitted = ray_train.train(
            job,
            train_set=ray_train.select(decoded, chosen.side(split.train), even_for=pool.workers, cpus=pool.decode_cpus),
            validation_set=ray_train.select(decoded, chosen.side(split.validation), cpus=pool.decode_cpus),
            pool=pool,
            storage_uri=work_uri,
        )
    return chosen, fitted


@contextmanager
def _following(read: Callable[[], Iterator[dict[str, Any]]], epochs: int, say: Say) -> Iterator[None]:
    """Say each epoch as it is finished, from the file the first worker keeps."""
    done = threading.Event()

    def follow() -> None:
        told = 0
        while True:
            last_look = done.wait(_FOLLOW_S)
            for row in list(read())[told:]:
                told += 1
                say(epoch_line(row, epochs))
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


def _write(
    output: str,
    training_set: TrainingSet,
    chosen: Chosen,
    spec: ModelSpec,
    options: TrainOptions,
    fitted: "Fitted",
    *,
    seconds: float,
) -> Bundle:
    """The training report, then the bundle."""
    split = chosen.split
    validation = Validation(
        classes=spec.classes,
        probs_NK=fitted.probs_NK,
        labels_N=fitted.labels_N,
        history=fitted.history,
        best_epoch=fitted.best_epoch,
    )
    metrics = validation.figures()
    provenance = {
        "options": options.to_json(),
        "versions": package_versions(),
        "data": {
            "digest": chosen.digest,
            "images": len(chosen.positions),
            "pictures": split.pictures,
            "label_conflicts": split.conflicts,
            "train_images": len(split.train),
            "validation_images": len(split.validation),
            "unreadable": chosen.unreadable,
            "excluded": chosen.barred,
            "by_class": dict(zip(spec.classes, np.bincount(chosen.labels).tolist(), strict=True)),
        },
        "seconds": round(seconds, 1),
    }
    write_training_report(output, validation, provenance, temperature=fitted.temperature)
    return save_bundle(
        output,
        weights=fitted.weights,
        image=options.image_spec,
        model=spec,
        temperature=fitted.temperature,
        metrics=metrics,
        reference=reference_distribution(fitted.probs_NK, spec.classes),
        provenance=provenance,
    )
