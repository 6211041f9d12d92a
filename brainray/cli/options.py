"""Options that commands share, and what one of them says of itself."""

from typing import Annotated

import typer

Data = Annotated[str, typer.Option(help="Folder with one folder of images a class.", metavar="URI")]
Exclude = Annotated[
    str | None, typer.Option(help="Folder of images that must not be trained on, by content.", metavar="URI")
]
GroupRegex = Annotated[
    str | None, typer.Option(help="What it finds in a path names a patient or series, kept on one side.")
]
Model = Annotated[
    str | None, typer.Option(help="compact, lite0, or a torchvision classification network. [default: compact]")
]
Weights = Annotated[
    str, typer.Option(help="none: learn from scratch; imagenet: begin with what was learned from photographs.")
]
BatchSize = Annotated[int, typer.Option(help="Images a step, over all workers.")]
Seed = Annotated[int, typer.Option(help="Same seed, same split and, with one worker, same weights.")]
ValFraction = Annotated[float, typer.Option(help="Share of the distinct pictures to measure on.")]
Precision = Annotated[str, typer.Option(help="auto, bf16 or fp32.")]
