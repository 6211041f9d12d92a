"""Renders `compare.html`, the page of two runs that were compared, of the same make as the page of a run.

It has no script. Gets figures and rows as values, and returns the page as text.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from . import text
from .render import environment, own, policy
from .sections import MOST_CELLS, MOST_CLASSES, Values, confusion_rows, reliability
from .thumbnails import Thumbnail
from .tiles import Row

MOST_TILES = 200
_TITLES = {
    "became_wrong": ("Right before, wrong now", "The label agrees with the first run and not with the second."),
    "became_right": ("Wrong before, right now", "The label agrees with the second run and not with the first."),
    "wrong_in_both": ("Wrong in both, in two ways", "Three classes for one image: the label may be what is wrong."),
    "no_label": ("Without a label", "Nobody knows which of the two is right."),
}


@dataclass(frozen=True, kw_only=True)
class ComparisonSource:
    """Everything that the page is made from: compare.json, and the rows of the tiles by outcome."""

    figures: Values
    tiles: Mapping[str, Sequence[Row]]
    versions: Mapping[str, str]


def render_comparison(source: ComparisonSource, thumbnails: Mapping[str, Thumbnail] | None) -> str:
    """The text of the page. Without `thumbnails` its tiles have no pictures."""
    figures = source.figures
    style, classes = own("report.css"), figures["classes"]
    return (
        environment()
        .get_template("compare.html")
        .render(
            style=style,
            policy=policy(style, ""),
            figures=figures,
            sides=[("A", figures["a"]), ("B", figures["b"])],
            pictures=thumbnails is not None,
            matrix=confusion_rows(figures["predictions"], classes) if len(classes) <= MOST_CLASSES else None,
            flips=figures["flips"][:MOST_CELLS],
            flips_left_out=max(0, len(figures["flips"]) - MOST_CELLS),
            parts=[_part(name, source, thumbnails) for name in _TITLES if figures["outcomes"][name]],
            shown=sum(len(rows) for rows in source.tiles.values()),
            bins={side: reliability(figures[side]["bins"] or ()) for side in ("a", "b")},
            versions=source.versions,
        )
    )


def _part(name: str, source: ComparisonSource, thumbnails: Mapping[str, Thumbnail] | None) -> Values:
    title, means = _TITLES[name]
    levels = (source.figures["groups"] or {"levels": 0})["levels"]
    tiles = [_tile(row, thumbnails, levels) for row in source.tiles[name]]
    images = source.figures["outcomes"][name]
    return {"name": name, "title": title, "means": means, "tiles": tiles, "left_out": images - len(tiles)}


def _tile(row: Row, thumbnails: Mapping[str, Thumbnail] | None, levels: int) -> Values:
    uri = row["uri"]
    return row | {
        "shown_uri": text.cut(uri, 300),
        "group": text.group_name(row["group"], levels),
        "name": text.cut(uri.rpartition("/")[2] or uri, 60),
        "thumbnail": (thumbnails or {}).get(uri),
    }
