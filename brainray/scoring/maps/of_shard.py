"""Maps of a shard: made of the forward pass that scores it, and kept in a file beside its part for the summary.

Which images the page shows is known when all are scored. So the file holds all maps that were asked for, and of other
images those that the page or the review list may choose; the summary takes over what is chosen and deletes the rest.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from brainray import storage
from brainray.config import Explain
from brainray.errors import StorageError
from brainray.imaging.framing import Box
from brainray.models.map_values import ImageMaps
from brainray.scoring.prediction_schema import is_mistake
from brainray.scoring.shard_task import Target
from brainray.scoring.summary.highlights import columns, select

from .table import FINGERPRINT, map_rows

if TYPE_CHECKING:
    from brainray.models.bundle import Bundle

FOLDER = "maps"  # of a run, while it is scored
ASKED = "asked"  # column: whether a row stays, be its image chosen or not

Images = npt.NDArray[np.uint8]
Mapped = Callable[[Images], tuple[npt.NDArray[np.float32], ImageMaps | None]]  # see `MappingPredictor`


@dataclass(frozen=True, kw_only=True)
class MapOrder:
    """Which images get a map, and where the network's grid lies on its input."""

    explain: Explain
    box: Box  # in pixels of the input
    image_px: int

    @classmethod
    def of(cls, bundle: "Bundle", explain: Explain) -> "MapOrder":
        """Measure the grid, once for all workers. Raises `BadRequest` for a network without exact maps."""
        from brainray.models.maps import ClassMaps  # torch

        return cls(explain=explain, box=ClassMaps(bundle).grid.box, image_px=bundle.image.image_px)


@dataclass(frozen=True, kw_only=True, eq=False)
class Mapper:
    """A predictor that maps, and what it maps."""

    order: MapOrder
    predict: Mapped


def write_shard_maps(
    scored: pa.Table, maps: ImageMaps, squares_M4: npt.NDArray[np.float64], order: MapOrder, target: Target
) -> None:
    """Write the maps of images of a shard. `scored` are their rows of its part, `squares_M4` what the model got."""
    asked = _asked(scored, order.explain, target.classes)
    chosen = asked if order.explain.which == "all" else asked | _may_be_shown(scored, target)
    places = np.flatnonzero(chosen)
    if not len(places):
        return
    rows = map_rows(
        scored.take(pa.array(places)), maps.take(places), target.classes, squares_M4[places], order.box, order.image_px
    )
    rows = rows.append_column(ASKED, pa.array(asked[places]))
    uri = storage.join(target.run_uri, FOLDER, f"maps-{scored['shard_id'][0].as_py()}.parquet")
    if (earlier := read_shard_maps(uri, target.fingerprint)) is not None:
        others = earlier.filter(pc.invert(pc.is_in(earlier["uri"], scored["uri"].combine_chunks())))
        rows = pa.concat_tables([rows, others.cast(rows.schema)])
    target.writer.write_parquet(uri, rows.replace_schema_metadata({FINGERPRINT: target.fingerprint.encode()}))


def read_shard_maps(uri: str, fingerprint: str) -> pa.Table | None:
    """The maps in a file; None where it is not there, is damaged or of another model."""
    try:
        with storage.open_parquet(uri) as file:
            metadata, table = file.schema_arrow.metadata or {}, file.read(use_threads=False)
    except StorageError:
        return None
    return table if metadata.get(FINGERPRINT) == fingerprint.encode() else None


def _asked(scored: pa.Table, explain: Explain, classes: tuple[str, ...]) -> npt.NDArray[np.bool_]:
    """[M] whether each image gets a map for certain."""
    if explain.which == "first":
        return np.zeros(len(scored), bool)
    if explain.which == "all":
        return np.ones(len(scored), bool)
    return np.asarray(for_review(scored, classes))


def for_review(scored: pa.Table, classes: tuple[str, ...]) -> pa.ChunkedArray:
    """Whether each scored image is for review or mistaken."""
    return pc.or_(pc.fill_null(scored["review"], False), is_mistake(scored, classes))


def _may_be_shown(scored: pa.Table, target: Target) -> npt.NDArray[np.bool_]:
    """[M] whether page or review list may choose each image: of a part they choose what they choose of a run."""
    found = select(scored.select(columns(target.classes, grouped=False, later=target.later)), target.classes)
    uris = pa.concat_arrays([chunk for rows in found.rows.values() for chunk in rows["uri"].chunks])
    return np.asarray(pc.is_in(scored["uri"], uris))
