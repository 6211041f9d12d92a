"""The values of a list as its rows have them."""

import pyarrow as pa

_LONGEST_SIZE = 19  # digits; shorter numbers fit in 64 bits
# Types that are kept as they are; everything else is kept as text.
_KEPT = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_date32)


def size_of(text: str | None) -> int | None:
    """A size in bytes; None for what is none."""
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < _LONGEST_SIZE else None


def unpadded(text: str, column: str) -> str:
    """A location without the blanks that its column's name has, too: in `label, uri` they belong to the comma."""
    name = column.strip()
    before, _, after = column.partition(name)
    return text.removeprefix(before).removesuffix(after)


def kept_type(kind: pa.DataType) -> str:
    """The Arrow type in which a column is kept."""
    return str(kind) if any(is_kept(kind) for is_kept in _KEPT) else "string"
