"""Chooses the images of the page from the selected rows of a run, and arranges them: a tile shows one image."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Literal

import pyarrow as pa

# "judged" are predictions that a person has called wrong without naming a class; labels tell the other mistakes.
Kind = Literal["mistake", "judged", "cell", "unsure", "least", "example", "failed"]
Row = dict[str, Any]
# Most tiles with a picture in each part: 180 together, of some 12 kB, and 200 where a run has groups.
_MISTAKES, _CELLS, _LEAST, _EXAMPLES = 40, 40, 60, 40
MOST_STRIP = 40  # of groups
_LEAST_BESIDE_STRIP = 40


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The rows of a run that the page chooses from, best first; `images` counts all rows of a kind."""

    rows: Mapping[Kind, pa.Table]
    images: Mapping[Kind, int]


@dataclass(frozen=True, kw_only=True)
class TilePart:
    """A part of the chapter of images: its rows and the number of images of its kind."""

    name: Literal["mistakes", "least", "failures", "examples"]
    rows: tuple[Row, ...] = ()
    images: int = 0  # of this kind in the run
    reasons: Mapping[str, int] = field(default_factory=dict)  # failed images by reason

    @property
    def left_out(self) -> int:
        return max(0, self.images - len(self.rows))


def choose(selection: Selection, failures: Mapping[str, int], *, grouped: bool = False) -> tuple[TilePart, ...]:
    """The parts of the chapter of images. No image and no copy of it has two tiles; failed ones have no picture."""
    shown: set[str] = set()
    mistakes = _mistakes(selection, shown)
    least = _fresh(selection.rows["least"].to_pylist(), shown, _LEAST_BESIDE_STRIP if grouped else _LEAST)
    examples = _fresh(_one_a_class(selection.rows["example"].to_pylist(), shown), shown, _EXAMPLES)
    failed = [next(rows) for _, rows in groupby(selection.rows["failed"].to_pylist(), key=lambda row: row["error"])]
    wrong = selection.images["mistake"] + selection.images["judged"]
    return (
        TilePart(name="mistakes", rows=tuple(mistakes), images=wrong),
        TilePart(name="least", rows=tuple(least), images=selection.images["least"]),
        TilePart(name="failures", rows=tuple(failed), images=sum(failures.values()), reasons=failures),
        TilePart(name="examples", rows=tuple(examples)),
    )


def _mistakes(selection: Selection, shown: set[str]) -> list[Row]:
    """The mistakes with the highest confidence, then one of each cell of the confusion that has none yet."""
    judged = [row | {"judged": True} for row in selection.rows["judged"].to_pylist()]
    surest = sorted([*selection.rows["mistake"].to_pylist(), *judged], key=lambda row: (-row["confidence"], row["uri"]))
    rows = _fresh(surest, shown, _MISTAKES)
    cells = {(row["label"], row["predicted"]) for row in rows}
    others = []
    for row in selection.rows["cell"].to_pylist():
        if (row["label"], row["predicted"]) not in cells:
            cells.add((row["label"], row["predicted"]))
            others.append(row)
    others.sort(key=lambda row: (-row["confidence"], row["uri"]))
    return rows + _fresh(others, shown, _CELLS)


def _one_a_class(rows: Sequence[Row], shown: Collection[str]) -> Iterator[Row]:
    """The first row of each predicted class that is not shown yet."""
    for _, of_class in groupby(rows, key=lambda row: row["predicted"]):
        yield from [row for row in of_class if _picture(row) not in shown][:1]


def _fresh(rows: Sequence[Row] | Iterator[Row], shown: set[str], most: int) -> list[Row]:
    """The first `most` rows whose picture is not shown yet, which it then is."""
    fresh: list[Row] = []
    for row in rows:
        if len(fresh) == most:
            break
        if (picture := _picture(row)) not in shown:
            shown.add(picture)
            fresh.append(row)
    return fresh


def _picture(row: Row) -> str:
    """What copies of a file have in common; the URI where the content is not known."""
    return str(row["content_hash"] or row["uri"])


def pictured(parts: Sequence[TilePart]) -> list[Row]:
    """The rows whose tiles have a picture: those that were scored."""
    return [row for part in parts if part.name != "failures" for row in part.rows]
