"""Groups by what the header of a medical image tells, as `--group-by scan_vendor,scan_field_t`.

The listing knows no headers: the group of its rows has marks, which become values when a part is written.
"""

from collections.abc import Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from brainray.inputs.image_files import SCAN_LEVELS, escaped, scan_mark

_COLUMN_OF = {scan_mark(name): name for name in SCAN_LEVELS}
_BETWEEN = "/"


def needs_scans(groups: pa.ChunkedArray) -> bool:
    """Whether groups of a listing have marks of such levels."""
    return bool(pc.any(pc.match_substring(groups, scan_mark("scan_")[:-1])).as_py())


def with_scans(groups: pa.ChunkedArray, rows: pa.Table) -> pa.ChunkedArray:
    """The groups of rows with the values of their scan columns; null for one of which no level is known."""
    if not needs_scans(groups):
        return groups
    values = {mark: _texts(rows, name) for mark, name in _COLUMN_OF.items()}
    return pa.chunked_array(
        [pa.array([_filled(group, values, row) for row, group in enumerate(groups.to_pylist())], pa.string())]
    )


def _filled(group: str | None, values: Mapping[str, Sequence[str | None]], row: int) -> str | None:
    """A group with the values of a row in place of its marks."""
    parts = group.split(_BETWEEN) if group else []
    if len(parts) < 2:
        return values[parts[0]][row] if parts and parts[0] in values else group
    found = [escaped(values[part][row]) if part in values else part for part in parts]
    return _BETWEEN.join(found) if any(found) else None


def _texts(rows: pa.Table, name: str) -> list[str | None]:
    if name not in rows.column_names:
        return [None] * len(rows)
    return [f"{value:g}" if isinstance(value, float) else value for value in rows[name].to_pylist()]
