"""Options that several commands have."""

from typing import Annotated

import typer

Data = Annotated[str, typer.Option(help="Folder that holds a folder of images for each class.", metavar="URI")]
Exclude = Annotated[
    str | None, typer.Option(help="Folder of images to keep out of training, copies too.", metavar="URI")
]
GroupRegex = Annotated[
    str | None,
    typer.Option(
        help="Regular expression that finds the patient or series in a path; its images stay in one split.",
        metavar="RE",
    ),
]
Groups = Annotated[
    str | None,
    typer.Option(
        help="CSV or Parquet with an image and a group column, such as the patient; a group stays in one split.",
        metavar="URI",
    ),
]
Boxes = Annotated[
    str | None,
    typer.Option(
        help="CSV or Parquet with an image column and left, top, right, bottom: learn also where the finding is.",
        metavar="URI",
    ),
]
Model = Annotated[
    str | None, typer.Option(help="Network: compact, lite0-fast, lite0 or one of torchvision. [default: compact]")
]
Weights = Annotated[str, typer.Option(help="First weights. none: random; imagenet: pretrained on photographs.")]
BatchSize = Annotated[int, typer.Option(help="Images in a training step, over all workers.")]
Seed = Annotated[int, typer.Option(help="Equal seeds give equal splits and, with one worker, equal weights.")]
ValFraction = Annotated[float, typer.Option(help="Share of the distinct pictures to validate on.")]
Precision = Annotated[str, typer.Option(help="Floating-point format: auto, bf16 or fp32.")]
Report = Annotated[bool, typer.Option("--report/--no-report", help="Write the page summary/report.html.")]
AllSeries = Annotated[
    bool, typer.Option("--all-series", help="Take localisers, maps and other medical images that score leaves out.")
]
LabelsMayMiss = Annotated[bool, typer.Option("--labels-may-miss", help="Let --labels name images that are not there.")]
RealUris = Annotated[
    str | None,
    typer.Option(help="Folder of `score --pseudonymise-uris`: read images by their real names.", metavar="FOLDER"),
]
Thumbnails = Annotated[
    bool, typer.Option("--thumbnails/--no-thumbnails", help="Show images on the page; they show patients.")
]
