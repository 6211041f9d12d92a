"""Renders `pick.html`, the page on which a person labels the images of a sample, of the same make as the page of a run.

Tiles stand in the order in which they are to be labelled. Gets rows as values, and returns the page as text.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .maps import with_maps
from .render import environment, own, policy, storage_key, tile_of
from .sections import Values
from .thumbnails import Thumbnail
from .tiles import Row


@dataclass(frozen=True, kw_only=True)
class PickSource:
    """Everything that the page is made from: pick.json, the rows of the images, and the name of the run."""

    run_uri: str
    figures: Values
    rows: Sequence[Row]
    levels: int  # of groups


def render_pick(source: PickSource, thumbnails: Mapping[str, Thumbnail] | None) -> str:
    """The text of the page. Without `thumbnails` its tiles have no pictures."""
    style, script, figures = own("report.css"), own("report.js"), source.figures
    tiles = [
        tile_of(row | {"label": None}, number, figures["classes"], thumbnails, levels=source.levels)
        for number, row in enumerate(source.rows, 1)
    ]
    with_maps(tiles, {})  # a map would tell the person what the model made of the image
    return (
        environment()
        .get_template("pick.html")
        .render(
            style=style,
            script=script,
            policy=policy(style, script),
            storage_key=storage_key(figures["fingerprint"], figures["checksum"], str(figures["seed"])),
            classes=figures["classes"],
            figures=figures,
            run=source.run_uri,
            pictures=thumbnails is not None,
            tiles=tiles,
        )
    )
