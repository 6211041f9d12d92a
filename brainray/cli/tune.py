"""`brainray tune`."""

from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from brainray.errors import BadRequest

from .json_object import OBJECT, Json
from .log import LOG, LogFormatOption
from .options import (
    AllSeries,
    BatchSize,
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
    from brainray.training.search import Trial

Number = TypeVar("Number", int, float)

_SHOWN = 10


def tune(
    data: Data,
    output: Annotated[str, typer.Option(help="Folder for the trials and their table.", metavar="URI")],
    trials: Annotated[int, typer.Option(help="Number of trials; a greater one extends a search.")] = 16,
    epochs: Annotated[int, typer.Option(help="Epochs of the best trials; the others end earlier.")] = 18,
    lr: Annotated[str, typer.Option(help="Lowest and highest learning rate.", metavar="LOW,HIGH")] = "0.001,0.01",
    width: Annotated[str, typer.Option(help="Widths of compact to try.", metavar="LIST")] = "0.5,0.75,1,1.5",
    image_px: Annotated[str, typer.Option(help="Sides of the network input to try.", metavar="LIST")] = "128,160,192",
    augment: Annotated[str, typer.Option(help="Strengths of the augmentation to try.", metavar="LIST")] = "0.25,0.5,1",
    model: Model = None,
    weights: Weights = "none",
    batch_size: BatchSize = 32,
    seed: Seed = 0,
    groups: Groups = None,
    group_regex: GroupRegex = None,
    val_fraction: ValFraction = 0.15,
    precision: Precision = "auto",
    exclude: Exclude = None,
    all_series: AllSeries = False,
    as_json: Json = False,
    log_format: LogFormatOption = "text",
) -> None:
    """Search for the best training options with Ray Tune. The same command goes on with a search that was stopped."""
    from brainray.commands.tune import TuneRequest
    from brainray.commands.tune import tune as run_search
    from brainray.config import TrainOptions
    from brainray.training.search import Space, command_for, row_of

    if trials < 1:
        raise BadRequest(f"--trials is {trials}; it must be 1 or more")
    name = model or TrainOptions.model
    space = Space(
        lr=_range("--lr", lr),
        width=_numbers("--width", width, float) if name == TrainOptions.model else (1.0,),
        image_px=_numbers("--image-px", image_px, int),
        augment=_numbers("--augment", augment, float),
    )
    options = TrainOptions(
        model=name,
        weights=weights,  # type: ignore[arg-type]  # TrainOptions checks it
        image_px=_middle(space.image_px),
        augment=_middle(space.augment),
        width=_middle(space.width),
        lr=float(f"{(space.lr[0] * space.lr[1]) ** 0.5:.2g}"),
        epochs=epochs,
        batch_size=batch_size,
        seed=seed,
        group_regex=group_regex,
        val_fraction=val_fraction,
        precision=precision,  # type: ignore[arg-type]
        all_series=all_series,
    )
    request = TuneRequest(
        data=data, output=output, exclude=exclude, groups=groups, options=options, space=space, trials=trials
    )
    ranked = run_search(request, say=LOG.say)
    best = ranked[0]
    LOG.event("done", trials=len(ranked), best=best.varied, mean_recall=(best.best or {})["val_balanced_accuracy"])
    files = {"--exclude": exclude, "--groups": groups}
    command = command_for(best, given=[option for option, file in files.items() if file])
    if as_json:
        OBJECT.add({"output": output, "trials": [row_of(trial) for trial in ranked], "command": command})
        return
    _show(ranked[:_SHOWN])
    typer.echo(
        f"best of {len(ranked)}, and chosen by these figures, so they flatter it; to train and measure it:\n{command}"
    )


def _show(ranked: "list[Trial]") -> None:
    from rich.table import Table

    from brainray.training.search import row_of

    from .console import output_console

    table = Table(box=None, pad_edge=False)
    names = ("trial", "mean_recall", "accuracy", "lr", "width", "image_px", "augment", "gmac", "epochs")
    for name in names:
        table.add_column(name, justify="right")
    for trial in ranked:
        row = row_of(trial)
        table.add_row(*(f"{row[name]:.4g}" for name in names))
    output_console().print(table)


def _middle(values: tuple[Number, ...]) -> Number:
    """The value of the first trial: the middle one, or the one below the middle."""
    return sorted(values)[(len(values) - 1) // 2]


def _range(option: str, text: str) -> tuple[float, float]:
    numbers = _numbers(option, text, float)
    if len(numbers) != 2:
        raise BadRequest(f"{option} is {text!r}; give the lowest and the highest, such as 0.001,0.01")
    return numbers[0], numbers[1]


def _numbers(option: str, text: str, kind: type[Number]) -> tuple[Number, ...]:
    try:
        return tuple(kind(part) for part in text.split(","))
    except ValueError:
        raise BadRequest(f"{option} is {text!r}; give numbers with commas between them") from None
