"""Makes the page of a sample: has the thumbnails of its images made, and renders it."""

import pyarrow as pa

from brainray.page.pick import PickSource, render_pick
from brainray.page.thumbnails import Thumbnail
from brainray.scoring.pseudonyms.names import RealNames
from brainray.scoring.summary.report_page import thumbnails_of

from .picks import Pick
from .population import Source

MOST_PICTURES = 500  # of 9 kB: the page stays below 6 MB


def pick_page(source: Source, pick: Pick, rows: pa.Table, *, thumbnails: bool, names: RealNames | None = None) -> bytes:
    """The bytes of pick.html. Reads its images, unless it has no thumbnails; `rows` have their probabilities."""
    shown = rows.to_pylist()
    pictures = thumbnails_of(source.uri, source.run, shown[:MOST_PICTURES], names) if thumbnails else None
    if pictures is not None:
        beyond = Thumbnail(missing=f"this page has those of the first {MOST_PICTURES} images")
        pictures |= {row["uri"]: beyond for row in shown[MOST_PICTURES:]}
    levels = len(source.run.get("group_levels") or ())
    page = PickSource(run_uri=source.uri, figures=pick.figures, rows=shown, levels=levels)
    return render_pick(page, pictures).encode()
