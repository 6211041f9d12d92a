"""Groups of a run in one level or several: their names in the summary, and the level whose images depend on each other.

`inputs.image_files.GroupLevels` joins the levels of an image into the text that the column `group` holds.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from brainray.evaluation.counts import ALL

NO_GROUP = "(none)"  # the group of images without one
_PATIENTS = ("patient", "subject", "participant", "case")  # names of a level


def named(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The names of the groups of the last level in a summary, from the column `group`."""
    return _apart_from_all(pc.fill_null(column, NO_GROUP))


def cut(names: pa.ChunkedArray, depth: int | None) -> pa.ChunkedArray:
    """The names of the groups above `named` ones: of the level at `depth`, 1 for the top. None: as they are."""
    if depth is None:
        return names
    return _apart_from_all(pc.binary_join(pc.list_slice(pc.split_pattern(names, "/"), 0, depth), "/"))


def _apart_from_all(names: pa.ChunkedArray) -> pa.ChunkedArray:
    """The names, of which none is "all": in a summary this means all groups together."""
    return pc.if_else(pc.equal(names, ALL), f"{ALL} (group)", names)


def depth(levels: Sequence[str]) -> int | None:
    """The number of levels down to the patient, if one is named so and it is not the last. None: all of them."""
    place = next((k for k, name in enumerate(levels) if name.lower() in _PATIENTS), len(levels) - 1)
    return place + 1 if place + 1 < len(levels) else None


def has_patients(levels: Sequence[str]) -> bool:
    """Whether a level is named as one of patients."""
    return any(name.lower() in _PATIENTS for name in levels)


def groups_at(figures: Mapping[str, Any], depth: int | None) -> Mapping[str, Any]:
    """The figures of each group of a level, of summary.json."""
    levels: list[Mapping[str, Any]] = [*figures["groups_above"].values(), figures["groups"]]
    return levels[-1 if depth is None else depth - 1]
