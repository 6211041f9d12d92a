"""Makes the page of a comparison: chooses the flipped images it shows, has their thumbnails made, and renders it."""

from brainray.page.compare import MOST_TILES, ComparisonSource, render_comparison
from brainray.page.tiles import Row
from brainray.scoring.pseudonyms.names import RealNames
from brainray.scoring.summary.report_page import thumbnails_of

from .compare import OUTCOMES, Comparison
from .rows import ComparedRun


def comparison_page(
    a: ComparedRun, b: ComparedRun, found: Comparison, *, thumbnails: bool, names: RealNames | None = None
) -> bytes:
    """The bytes of compare.html. Reads the images that it shows as `a` lists them, unless it has no thumbnails."""
    tiles = choose_tiles({name: found.tiles[name].to_pylist() for name in OUTCOMES})
    rows = [row for each in tiles.values() for row in each]
    pictures = thumbnails_of(a.uri, a.values, rows, names) if thumbnails else None
    source = ComparisonSource(figures=found.figures, tiles=tiles, versions=(a.values.get("versions") or {}))
    return render_comparison(source, pictures).encode()


def choose_tiles(rows: dict[str, list[Row]], most: int = MOST_TILES) -> dict[str, list[Row]]:
    """The first rows of each outcome: equal parts of `most`, and what some outcomes leave over goes to the others."""
    left, chosen = most, {}
    by_number = sorted(rows, key=lambda name: len(rows[name]))
    for place, name in enumerate(by_number):
        chosen[name] = rows[name][: left // (len(by_number) - place)]
        left -= len(chosen[name])
    return {name: chosen[name] for name in rows}
