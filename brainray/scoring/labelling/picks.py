"""The files of a sample in its run: the images to be labelled, and what an estimate from their labels needs.

`picks/seed-<seed>/` holds `pick.json` (the population and its strata), `pick.parquet`, the same images as `pick.csv`
for people, and the page. An estimate needs nothing else of the run, which may have grown meanwhile.
"""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pyarrow as pa

from brainray import storage
from brainray.errors import BadRequest
from brainray.evaluation.stratified import Population
from brainray.scoring.spreadsheet import replace_list, spreadsheet_csv

from .population import Drawn, Source

FOLDER = "picks"
FIGURES, ROWS, LIST, PAGE = "pick.json", "pick.parquet", "pick.csv", "pick.html"
_VERSION = 1
_SCHEMA = pa.schema(
    [
        pa.field("place", pa.int64(), nullable=False),  # 1 is to be labelled first
        pa.field("uri", pa.string(), nullable=False),
        pa.field("label", pa.string()),  # to be filled in
        pa.field("predicted", pa.string(), nullable=False),
        pa.field("confidence", pa.float32(), nullable=False),
        pa.field("group", pa.string()),
        pa.field("stratum", pa.int64(), nullable=False),  # 1 holds the least sure images
        pa.field("inclusion_probability", pa.float64(), nullable=False),
        pa.field("content_hash", pa.string()),  # of the bytes that were scored
        pa.field("unit", pa.string(), nullable=False),  # what was drawn as a whole: the image or its group
    ]
)
_FIGURES = {  # of pick.json
    "fingerprint",
    "classes",
    "seed",
    "whole_groups",
    "picked",
    "images",
    "labelled_before",
    "checksum",
    "strata",
    "known",
}
_LISTED = [name for name in _SCHEMA.names if name not in ("unit", "content_hash")]


@dataclass(frozen=True, kw_only=True, eq=False)
class Pick:
    """A sample that was drawn from a run."""

    uri: str  # of its folder
    figures: dict[str, Any]  # pick.json
    rows: pa.Table

    @classmethod
    def of(cls, source: Source, drawn: Drawn) -> Self:
        """The sample of a population, not yet written."""
        names = source.classes
        strata = [
            {
                "images": int(images),
                "units": int(units),
                "expected_error": float(error),
                "predicted": dict(zip(names, map(int, predicted), strict=True)),
            }
            for images, units, error, predicted in zip(
                drawn.images, drawn.strata.units, drawn.strata.error, drawn.predicted, strict=True
            )
        ]
        rows = drawn.rows.set_column(
            drawn.rows.schema.get_field_index("stratum"), "stratum", pa.array(drawn.rows["stratum"].to_numpy() + 1)
        )
        blank = pa.nulls(len(rows), pa.string())
        rows = rows.set_column(rows.schema.get_field_index("label"), "label", blank).select(_SCHEMA.names)
        return cls(
            uri=folder_of(source.uri, source.seed),
            figures={
                "schema_version": _VERSION,
                "fingerprint": source.run["fingerprint"],
                "classes": list(names),
                "seed": source.seed,
                "whole_groups": source.by_group,
                "picked": len(rows),
                "images": int(drawn.images.sum() + drawn.known.sum()),
                "labelled_before": int(drawn.known.sum()),
                "checksum": drawn.checksum,
                "strata": strata,
                "known": drawn.known.tolist(),
            },
            rows=rows.cast(_SCHEMA),
        )

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(self.figures["classes"])

    @property
    def population(self) -> Population:
        strata = self.figures["strata"]
        return Population(
            images=np.array([each["images"] for each in strata]),
            units=np.array([each["units"] for each in strata]),
            predicted=np.array([[each["predicted"][name] for name in self.classes] for each in strata]),
            known=np.array(self.figures["known"]),
        )

    def write(self, page: bytes, writer: storage.Writer, *, before: "Pick | None" = None) -> str | None:
        """Write the files, pick.json last: without it the folder holds no sample. `before` is the one that is there.

        The list of an equal sample stays as people have filled it in; that of another one is kept beside the new one,
        whose URI this gives.
        """
        uri, kept = storage.join(self.uri, LIST), None
        if before is None or not before.rows.equals(self.rows) or not storage.exists(uri):
            kept = replace_list(uri, self._list(), before._list() if before else None, writer)
        writer.write_parquet(storage.join(self.uri, ROWS), self.rows)
        writer.write_bytes(storage.join(self.uri, PAGE), page)
        writer.write_json(storage.join(self.uri, FIGURES), self.figures)
        return kept

    def _list(self) -> bytes:
        """pick.csv as it is written, before anybody fills it in."""
        return spreadsheet_csv(self.rows.select(_LISTED))


def folder_of(run_uri: str, seed: int) -> str:
    """Where the sample of a seed is kept."""
    return storage.join(run_uri, FOLDER, f"seed-{seed}")


def read_pick(run_uri: str, seed: int) -> Pick | None:
    """The sample of a seed; None where it was not drawn."""
    folder = folder_of(run_uri, seed)
    if not storage.exists(storage.join(folder, FIGURES)):
        return None
    figures = storage.read_json(storage.join(folder, FIGURES))
    if figures.get("schema_version") != _VERSION or not figures.keys() >= _FIGURES:
        raise BadRequest(f"{folder} was written by another version of brainray, or changed; remove it and pick again")
    return Pick(uri=folder, figures=figures, rows=storage.read_parquet(storage.join(folder, ROWS)))


def check_same_population(before: Pick | None, now: Pick) -> None:
    """Raise `BadRequest` where a sample of other images, or of other predictions, is there: its answers need it."""
    if before is None:
        return
    kept = ("fingerprint", "checksum", "strata", "known", "whole_groups")
    if any(before.figures[name] != now.figures[name] for name in kept):
        raise BadRequest(
            f"{before.uri} holds a sample of this run as it was before its images, labels or model changed, or of the "
            "other kind of units; give another --seed for a new sample, or remove that folder"
        )
