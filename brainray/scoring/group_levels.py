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
    """The names of groups in a summary, where "all" means all groups together."""
    names = pc.fill_null(column, NO_GROUP)
    return pc.if_else(pc.equal(names, ALL), f"{ALL} (group)", names)


def cut(names: pa.ChunkedArray, depth: int | None) -> pa.ChunkedArray:
    """The names without the levels below the first `depth`. None: as they are."""
    return names if depth is None else pc.binary_join(pc.list_slice(pc.split_pattern(names, "/"), 0, depth), "/")


def depth(levels: Sequence[str]) -> int | None:
    """The number of levels down to the patient, if one is named so and it is not the last. None: all of them."""
    place = next((k for k, name in enumerate(levels) if name.lower() in _PATIENTS), len(levels) - 1)
    return place + 1 if place + 1 < len(levels) else None


def groups_at(figures: Mapping[str, Any], depth: int | None) -> Mapping[str, Any]:
    """The figures of each group of a level, of summary.json."""
    levels: list[Mapping[str, Any]] = [*figures["groups_above"].values(), figures["groups"]]
    return levels[-1 if depth is None else depth - 1]
