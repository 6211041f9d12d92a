"""Takes the maps that workers made while they scored over into `summary/maps.parquet`, and deletes their files.

It needs no image and no torch. A run that was stopped in between has their files still, so that the next one takes
over all of them.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from brainray import storage
from brainray.callbacks import Say
from brainray.config import Explain
from brainray.scoring.maps.of_shard import ASKED, FOLDER, read_shard_maps
from brainray.scoring.maps.table import MAPS_SCHEMA
from brainray.scoring.run_folder import SUMMARY

from .highlights import Highlights
from .maps import MAPS, add_maps, chosen, delete_others, there_of

_RESCORED = "maps-rescored.parquet"


@dataclass(frozen=True, kw_only=True)
class ScoredMaps:
    """Which of the maps of a run's workers are kept: those of chosen images, and those that were asked for anyway."""

    explain: Explain | None = None  # None: no image is chosen
    say: Say | None = None  # takes a line where maps are missing

    def write(
        self,
        run_uri: str,
        run: Mapping[str, Any],
        folder: str,
        highlights: Highlights,
        failures: Mapping[str, int],
        writer: storage.Writer,
    ) -> None:
        """Add maps to maps.parquet in `folder`, in place of earlier ones of the same images."""
        fingerprint = run["fingerprint"]
        delete_others(folder, fingerprint, writer)
        first = chosen(highlights, failures, self.explain) if self.explain else {}
        files, uri = _files(run_uri), storage.join(folder, MAPS)
        if files:
            add_maps(uri, _kept(files, fingerprint, pa.array(list(first), pa.string())), fingerprint, writer)
            writer.delete_tree(storage.join(run_uri, FOLDER))
        if self.explain and self.say:
            _tell(uri, first, self.say)


def _tell(uri: str, first: Mapping[str, str], say: Say) -> None:
    """Say where images were scored without a map."""
    missing = len(first) - there_of(uri, pa.array(list(first), pa.string()))
    if missing:
        say(
            f"--explain: {missing:,} of {len(first):,} images of the page and the review list have no map, as they "
            "were scored without; `brainray report RUN --explain` with a number, review or all makes them"
        )


def take_over(generation: str, output: str, writer: storage.Writer) -> None:
    """Give the maps of a new generation to the run that it replaces, whose next `ScoredMaps` takes them over."""
    writer.delete_tree(storage.join(output, FOLDER))  # of the generation that ends
    maps = storage.join(generation, SUMMARY, MAPS)
    if storage.exists(maps):
        writer.copy(maps, storage.join(output, FOLDER, _RESCORED))


def _files(run_uri: str) -> list[str]:
    folder = storage.join(run_uri, FOLDER)
    return [storage.join(folder, name) for name in sorted(storage.list_names(folder)) if name.endswith(".parquet")]


def _kept(files: list[str], fingerprint: str, first: pa.Array) -> Iterator[pa.Table]:
    """The rows of maps.parquet that stay, one of each image. A damaged file, or one of another model, has none."""
    seen = pa.array([], pa.string())
    for uri in files:
        table = read_shard_maps(uri, fingerprint)
        if table is None:
            continue
        if ASKED in table.column_names:
            table = table.filter(pc.or_(table[ASKED], pc.is_in(table["uri"], first)))
        table = table.filter(pc.invert(pc.is_in(table["uri"], seen)))
        seen = pa.concat_arrays([seen, *table["uri"].chunks])
        yield table.select(MAPS_SCHEMA.names).cast(MAPS_SCHEMA)
