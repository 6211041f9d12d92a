"""`brainray train`."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from brainray.errors import BadRequest

from .log import LOG, LogFormatOption
from .options import BatchSize, Data, Exclude, GroupRegex, Model, Precision, Seed, ValFraction, Weights

if TYPE_CHECKING:
    from brainray.config import TrainOptions
    from brainray.models.bundle import Bundle

_QUICK, _THOROUGH = "quick", "thorough"
# What a preset changes in `TrainOptions`; an option that is given wins.
PRESETS: dict[str, dict[str, Any]] = {
    _QUICK: {"epochs": 24, "image_px": 160},
    _THOROUGH: {"epochs": 60, "image_px": 224, "patience": 15},
}


Workers = Annotated[
    str | None,
    typer.Option(
        help="Ray Train workers; 2-8: no fewer than 2, and up to 8 as machines come and go. "
        "[default: what the cluster has]",
        metavar="N|N-M",
    ),
]
Init = Annotated[
    str | None,
    typer.Option(
        help="Model whose weights to begin with, also for other classes; its network is taken over. shipped: the one "
        "of this package.",
        metavar="URI",
    ),
]
Width = Annotated[
    float | None, typer.Option(help="Of compact: so many times the channels; cost grows with the square. [default: 1]")
]
Crop = Annotated[
    str | None, typer.Option(help="head: cut off the margins around the head; none: keep them. [default: head]")
]
Augment = Annotated[
    float, typer.Option(help="Strength of random changes while learning; 0: none, 1: for --weights imagenet.")
]
Folds = Annotated[
    int, typer.Option(help="Measure every picture in one of so many folds, then learn from all. 0: one split.")
]


def train(
    context: typer.Context,
    data: Data,
    output: Annotated[str, typer.Option(help="Folder for the model.", metavar="URI")],
    preset: Annotated[str, typer.Option(help="quick: minutes on a laptop; thorough: an hour or more.")] = _QUICK,
    workers: Workers = None,
    epochs: Annotated[int | None, typer.Option(help="At most so many passes. [default: of the preset]")] = None,
    model: Model = None,
    init: Init = None,
    weights: Weights = "none",
    image_px: Annotated[int | None, typer.Option(help="Side of the image it sees. [default: of the preset]")] = None,
    channels: Annotated[int | None, typer.Option(help="1: luminance, 3: RGB. [default: 1]")] = None,
    width: Width = None,
    batch_size: BatchSize = 32,
    lr: Annotated[float, typer.Option(help="Highest learning rate.")] = 3e-3,
    seed: Seed = 0,
    crop: Crop = None,
    augment: Augment = 0.5,
    folds: Folds = 0,
    group_regex: GroupRegex = None,
    val_fraction: ValFraction = 0.15,
    patience: Annotated[int | None, typer.Option(help="Stop after so many epochs that are no better.")] = None,
    precision: Precision = "auto",
    exclude: Exclude = None,
    log_format: LogFormatOption = "text",
) -> None:
    """Fit a model to class folders with Ray Train; writes a bundle."""
    from brainray.commands.train import train as fit_model
    from brainray.models.bundle import load_bundle, named

    before = load_bundle(named(init)) if init else None
    options = options_of(context.params, before)
    bundle = fit_model(data, output=output, exclude=exclude, options=options, init=before, say=LOG.say)
    accuracy = bundle.metrics["accuracy"]
    LOG.event("done", model=bundle.uri, fingerprint=bundle.fingerprint, metrics=bundle.metrics)
    typer.echo(
        f"accuracy {accuracy['value']:.4f} ({accuracy['low']:.4f} to {accuracy['high']:.4f}) on "
        f"{bundle.metrics['images']:,} pictures it had not seen\n"
        f"model {bundle.fingerprint} is in {bundle.uri}"
    )


def options_of(given: Mapping[str, Any], before: "Bundle | None" = None) -> "TrainOptions":
    """The options in the values of a command line. Raises `BadRequest` for what makes no sense; looks at no file.

    `before` is the model to begin with, whose network is taken over.
    """
    from brainray.config import TrainOptions, parse_workers

    preset = given["preset"]
    if preset not in PRESETS:
        raise BadRequest(f"--preset is {preset!r}; it must be one of {', '.join(PRESETS)}")
    network = {name: given[name] for name in ("model", "channels", "width", "crop")}
    taken_over = _taken_over(before, weights=given["weights"], **network)
    chosen = {name: given[name] for name in ("epochs", "image_px", "patience")} | network
    always = ("weights", "augment", "folds", "group_regex", "batch_size", "lr", "seed", "val_fraction", "precision")
    least, most = parse_workers(given["workers"]) if given["workers"] else (None, None)
    return TrainOptions(
        **PRESETS[preset] | taken_over | {name: value for name, value in chosen.items() if value is not None},
        **{name: given[name] for name in always},
        workers=least,
        most_workers=most,
    )


def _taken_over(before: "Bundle | None", *, weights: str, **given: str | float | None) -> dict[str, Any]:
    """The options that a model to begin with decides. Raises `BadRequest` for others."""
    if before is None:
        return {}
    own = {
        "model": before.model.name,
        "channels": before.model.channels,
        "width": before.model.width,
        "crop": before.image.crop,
    }
    for name, value in given.items():
        if value is not None and value != own[name]:
            raise BadRequest(f"--{name} is {value}, but --init brings a model with {own[name]}; leave --{name} out")
    if weights != "none":
        raise BadRequest(f"--weights {weights} and --init are two beginnings; leave one out")
    return own | {"image_px": before.image.image_px}
