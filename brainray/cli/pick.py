"""`brainray pick`: its options, and how its results are shown."""

import shlex
from typing import Annotated

import typer

from .json_object import OBJECT, Json
from .log import LOG
from .options import RealUris, Thumbnails


def pick(
    run: Annotated[str, typer.Argument(help="Folder that `score` wrote.", metavar="RUN")],
    labels: Annotated[int, typer.Option(help="Images that will be labelled.")] = 200,
    seed: Annotated[int, typer.Option(help="Equal seeds pick equal images, and more labels add to fewer.")] = 0,
    whole_groups: Annotated[
        bool,
        typer.Option("--whole-groups", help="Pick all images of a patient or no image; each label says much less."),
    ] = False,
    thumbnails: Thumbnails = True,
    real_uris: RealUris = None,
    as_json: Json = False,
) -> None:
    """Pick the images that a person should label, to know how good a run is.

    Writes a list and a page to label on; `estimate` takes the labels. Needs neither Ray nor torch.
    """
    from brainray.commands.pick import pick as draw

    result = draw(
        run,
        labels=labels,
        seed=seed,
        whole_groups=whole_groups,
        thumbnails=thumbnails,
        real_uris=real_uris,
        say=LOG.say,
    )
    if as_json:
        OBJECT.add({"run": result.run, "list": result.list, "page": result.page, "figures": result.figures})
        return
    from brainray.page.text import plural

    from .console import output_console

    console, figures = output_console(), result.figures
    sampled = figures["images"] - figures["labelled_before"]
    strata = plural(len(figures["strata"]), "stratum", "strata")
    console.print(f"{figures['picked']:,} of {sampled:,} images are picked, in {strata}")
    if figures["labelled_before"]:
        console.print(f"{figures['labelled_before']:,} other images have a label already and count as they are")
    console.print(f"label them on the page {result.page}", markup=False)
    console.print(f"or fill in the column label of {result.list}, from the top", markup=False)
    given = "" if figures["seed"] == 0 else f" --seed {figures['seed']}"
    console.print(f"then: brainray estimate {shlex.quote(result.run)} --labels FILE{given}", markup=False)
