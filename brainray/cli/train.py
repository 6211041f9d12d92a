"""`brainray train`."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .json_object import OBJECT, Json
from .log import LOG, LogFormatOption
from .options import (
    AllSeries,
    BatchSize,
    Boxes,
    Data,
    Exclude,
    GroupRegex,
    Groups,
    Model,
    Precision,
    Seed,
    ValFraction,
    Weights,
)

if TYPE_CHECKING:
    from brainray.config import TrainOptions
    from brainray.models.bundle import Bundle

# Parameters that are no fields of `TrainOptions`.
_NO_OPTIONS = ("data", "output", "init", "exclude", "groups", "boxes", "teacher", "keep_folds", "as_json", "log_format")

Workers = Annotated[
    str | None,
    typer.Option(
        help="Ray Train workers; 2-8: at least 2, at most 8. [default: as many as the cluster holds]",
        metavar="N|N-M",
    ),
]
Init = Annotated[
    str | None,
    typer.Option(
        help="Model to fine-tune, also for other classes; its network is kept. in the package: shipped, shipped-fast.",
        metavar="URI",
    ),
]
Teacher = Annotated[
    str | None,
    typer.Option(
        help="Model trained on the same data with --folds --keep-folds; its networks teach beside the labels.",
        metavar="URI",
    ),
]
KeepFolds = Annotated[bool, typer.Option("--keep-folds", help="Keep the networks of the folds: for --teacher.")]
Width = Annotated[
    float | None, typer.Option(help="Factor on the channels of compact; cost grows with its square. [default: 1]")
]
Crop = Annotated[
    str | None, typer.Option(help="head: cut off the margins around the head; none: keep them. [default: head]")
]
Augment = Annotated[float, typer.Option(help="Strength of the augmentation; 0: none; 1: for --weights imagenet.")]
Folds = Annotated[int, typer.Option(help="Cross-validate in this many folds, then train on all images; 0: one split.")]


def train(
    context: typer.Context,
    data: Data,
    output: Annotated[str, typer.Option(help="Folder for the model.", metavar="URI")],
    preset: Annotated[str, typer.Option(help="quick: minutes on a laptop; thorough: an hour or more.")] = "quick",
    workers: Workers = None,
    epochs: Annotated[int | None, typer.Option(help="Most passes over the images. [default: by preset]")] = None,
    model: Model = None,
    init: Init = None,
    weights: Weights = "none",
    teacher: Teacher = None,
    image_px: Annotated[int | None, typer.Option(help="Side of the square network input. [default: by preset]")] = None,
    channels: Annotated[int | None, typer.Option(help="Channels. 1: luminance; 3: RGB. [default: 1]")] = None,
    width: Width = None,
    batch_size: BatchSize = 32,
    lr: Annotated[float, typer.Option(help="Highest learning rate.")] = 3e-3,
    seed: Seed = 0,
    crop: Crop = None,
    augment: Augment = 0.5,
    folds: Folds = 0,
    keep_folds: KeepFolds = False,
    groups: Groups = None,
    boxes: Boxes = None,
    group_regex: GroupRegex = None,
    val_fraction: ValFraction = 0.15,
    patience: Annotated[
        int | None, typer.Option(help="Stop after this many epochs without improvement. [default: by preset]")
    ] = None,
    precision: Precision = "auto",
    exclude: Exclude = None,
    all_series: AllSeries = False,
    as_json: Json = False,
    log_format: LogFormatOption = "text",
) -> None:
    """Fit a model to class folders with Ray Train.

    Writes a model bundle. The same command goes on with a training that was stopped.
    """
    from brainray.commands.train import train as fit_model
    from brainray.models.bundle import load_bundle, named
    from brainray.training.learned_before import flatters

    bundle = load_bundle(named(init)) if init else None
    options = options_of(context.params, bundle)
    bundle = fit_model(
        data,
        output=output,
        exclude=exclude,
        groups=groups,
        boxes=boxes,
        options=options,
        init=bundle,
        teacher=load_bundle(named(teacher)) if teacher else None,
        keep_folds=keep_folds,
        say=LOG.say,
    )
    accuracy = bundle.metrics["accuracy"]
    LOG.event("done", model=bundle.uri, fingerprint=bundle.fingerprint, metrics=bundle.metrics)
    if as_json:
        facts = {"model": bundle.uri, "fingerprint": bundle.fingerprint, "classes": list(bundle.classes)}
        OBJECT.add(facts | {"metrics": bundle.metrics})
        return
    flatter = flatters(bundle.metrics)
    kind = "groups" if "groups" in bundle.provenance.get("data", {}) else "series"
    by_groups = f", by {kind}" if "resampled" in bundle.metrics else ""
    typer.echo(
        f"accuracy {accuracy['value']:.4f} ({accuracy['low']:.4f} to {accuracy['high']:.4f}{by_groups}) on "
        f"{bundle.metrics['images']:,} pictures {'it may know already' if flatter else 'it had not seen'}\n"
        f"{_promise_line(bundle.metrics.get('review') or {}, flatter=flatter)}"
        f"model {bundle.fingerprint} is in {bundle.uri}"
    )


def _promise_line(review: Mapping[str, Any], *, flatter: bool = False) -> str:
    """What the accepted predictions promise; nothing for models of earlier versions, which promise nothing."""
    if "promise" not in review:
        return ""
    if flatter:
        return "that flatters, so nothing is promised: every prediction will be marked for review\n"
    if review["promise"] is None:
        return "too few pictures or patients are right for a promise: every prediction will be marked for review\n"
    share = f"{review['accepted']:.1%} of the pictures"
    return f"{review['promise']:.0%} or more of the predictions not marked for review, {share}, are right\n"


def options_of(params: Mapping[str, Any], init: "Bundle | None" = None) -> "TrainOptions":
    """The options among the parameters of a command line. Raises `BadRequest` that names a wrong one; reads no file.

    `init` is the model whose weights training begins with; its network is kept.
    """
    from brainray.commands.options import train_options

    return train_options(init=init, **{name: value for name, value in params.items() if name not in _NO_OPTIONS})
