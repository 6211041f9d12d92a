"""`brainray sample`."""

from typing import Annotated

import typer

from .json_object import OBJECT, Json


def sample(
    output: Annotated[str, typer.Option(help="Folder to draw into; new or empty.", metavar="DIR")],
    images: Annotated[int, typer.Option(help="Number of images, over all classes.")] = 400,
    seed: Annotated[int, typer.Option(help="Seed of the drawing; another one draws other images.")] = 0,
    as_json: Json = False,
) -> None:
    """Draw a synthetic MRI-like archive, to try everything without data."""
    from brainray import storage
    from brainray.imaging.phantom import write_archive

    uri = storage.normalise(output)
    drawn = write_archive(uri, images=images, seed=seed)
    if as_json:
        OBJECT.add({"output": uri, "images": drawn})
        return
    typer.echo(f"{drawn:,} drawn images in class folders are in {uri}")
