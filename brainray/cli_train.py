"""`brainray train`."""

from typing import Annotated

import typer

from .cli_log import LOG, LogFormat
from .errors import BadRequest

_QUICK, _THOROUGH = "quick", "thorough"
# What a preset changes in `TrainOptions`; an option that is given wins.
PRESETS: dict[str, dict[str, int]] = {
    _QUICK: {"epochs": 24, "image_px": 160},
    _THOROUGH: {"epochs": 60, "image_px": 224, "patience": 15},
}


def train(
    data: Annotated[str, typer.Option(help="Folder with one folder of images a class.", metavar="URI")],
    output: Annotated[str, typer.Option(help="Folder for the model.", metavar="URI")],
    preset: Annotated[str, typer.Option(help="quick: minutes on a laptop; thorough: an hour or more.")] = _QUICK,
    workers: Annotated[int | None, typer.Option(help="Ray Train workers. [default: what the cluster has]")] = None,
    epochs: Annotated[int | None, typer.Option(help="At most so many passes. [default: of the preset]")] = None,
    model: Annotated[str, typer.Option(help="compact, or a torchvision classification network.")] = "compact",
    image_px: Annotated[
        int | None, typer.Option(help="Side of the image the model sees. [default: of the preset]")
    ] = None,
    channels: Annotated[int, typer.Option(help="1: luminance, 3: RGB.")] = 1,
    batch_size: Annotated[int, typer.Option(help="Images a step, over all workers.")] = 32,
    lr: Annotated[float, typer.Option(help="Highest learning rate.")] = 3e-3,
    seed: Annotated[int, typer.Option(help="Same seed, same split and, with one worker, same weights.")] = 0,
    val_fraction: Annotated[float, typer.Option(help="Share of the distinct pictures to measure on.")] = 0.15,
    patience: Annotated[int | None, typer.Option(help="Stop after so many epochs that are no better.")] = None,
    precision: Annotated[str, typer.Option(help="auto, bf16 or fp32.")] = "auto",
    exclude: Annotated[
        str | None, typer.Option(help="Folder of images that must not be trained on, by content.", metavar="URI")
    ] = None,
    log_format: LogFormat = "text",
) -> None:
    """Fit a model to class folders with Ray Train; writes a bundle."""
    from .config import TrainOptions
    from .train_job import train as fit_model

    if preset not in PRESETS:
        raise BadRequest(f"--preset is {preset!r}; it must be one of {', '.join(PRESETS)}")
    given = {"epochs": epochs, "image_px": image_px, "patience": patience}
    options = TrainOptions(
        **PRESETS[preset] | {name: value for name, value in given.items() if value is not None},
        model=model,
        channels=channels,
        batch_size=batch_size,
        lr=lr,
        seed=seed,
        val_fraction=val_fraction,
        workers=workers,
        precision=precision,  # type: ignore[arg-type]  # checked there
    )
    bundle = fit_model(data, output=output, exclude=exclude, options=options, say=LOG.say)
    accuracy = bundle.metrics["accuracy"]
    LOG.event("done", model=bundle.uri, fingerprint=bundle.fingerprint, metrics=bundle.metrics)
    typer.echo(
        f"accuracy {accuracy['value']:.4f} ({accuracy['low']:.4f} to {accuracy['high']:.4f}) on "
        f"{bundle.metrics['images']:,} validation images, epoch {bundle.metrics['best_epoch']}\n"
        f"model {bundle.fingerprint} is in {bundle.uri}"
    )
