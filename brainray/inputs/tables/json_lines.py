"""Reads JSON Lines, an object a line, as batches of text columns. Numbers are the text that stands in the file."""

import json
from collections.abc import Collection, Iterable, Iterator, Sequence

import pyarrow as pa

from brainray.errors import BadRequest
from brainray.inputs.class_names import LABEL_COLUMNS

from .table_columns import GROUP_COLUMNS, SIZE_COLUMNS, VERSION_COLUMNS, spelled
from .text_stream import TextStream

_BLOCK_BYTES = 4 << 20
_LONGEST_BYTES = 16 << 20
_NEVER_LOST = {*LABEL_COLUMNS, *GROUP_COLUMNS, *SIZE_COLUMNS, *VERSION_COLUMNS}  # columns that may not appear late
_ROWS_FOR_NAMES = 1000  # the rows at the start whose names are the columns


def is_json_lines(head: bytes) -> bool:
    """Whether the text begins as JSON."""
    return head.lstrip()[:1] in (b"{", b"[")


def column_names(head: bytes, source: str, *, is_whole: bool) -> tuple[str, ...]:
    """The names in the first rows, in the order in which they appear. If not `is_whole`, `head` may end in a line."""
    lines = head.splitlines()
    whole = (lines if is_whole or len(lines) == 1 or head.endswith((b"\n", b"\r")) else lines[:-1])[:_ROWS_FOR_NAMES]
    names: dict[str, None] = {}
    for number, line in enumerate(whole, 1):
        if line.strip():
            names.update(dict.fromkeys(_parsed(line, number, source)))
    return tuple(names)


def json_batches(
    stream: TextStream, names: Sequence[str], source: str, *, plain: Collection[int]
) -> Iterator[pa.RecordBatch]:
    """The columns `names` of all rows. The columns at the places `plain` may hold no lists and objects."""
    known = set(names)
    rest, number = b"", 1
    while True:
        data = stream.read(_BLOCK_BYTES)
        *lines, rest = (rest + data).split(b"\n") if data else (rest, b"")
        if len(rest) > _LONGEST_BYTES:
            raise BadRequest(f"{source}: line {number + len(lines):,} has more than {_LONGEST_BYTES:,} bytes")
        rows = []
        for at, line in enumerate(lines, number):
            if line.strip():
                row = _parsed(line, at, source)
                if not row.keys() <= known:
                    _refuse_late_names(row.keys() - known, at, source)
                rows.append([_text(row.get(name)) for name in names])
                for place in plain:
                    if isinstance(row.get(names[place]), dict | list):
                        raise BadRequest(f"{source}: line {at:,}: its {names[place]!r} is nested; write it as text")
        number += len(lines)
        if rows:
            try:
                columns = [pa.array(column, pa.string()) for column in zip(*rows, strict=True)]
            except UnicodeEncodeError as exc:  # half of a pair, as "\\ud800"
                raise BadRequest(f"{source}: damaged text before line {number:,} ({exc.reason}); correct it") from exc
            yield pa.record_batch(columns, [str(place) for place in range(len(names))])
        if not data:
            return


def _refuse_late_names(names: Iterable[str], line: int, source: str) -> None:
    """Refuse a label, group, size or version that the first rows have no column for: it would be lost."""
    found = next((name for name in sorted(names) if spelled(name) in _NEVER_LOST), None)
    if found is not None:
        raise BadRequest(
            f"{source}: line {line:,} has {found!r}, which none of the first {_ROWS_FOR_NAMES:,} has; "
            "write it in the first line too, as null where it is empty"
        )


def _parsed(line: bytes, number: int, source: str) -> dict[str, object]:
    try:
        row = json.loads(line, parse_int=str, parse_float=str, parse_constant=str)
    except (ValueError, RecursionError) as exc:
        raise BadRequest(
            f"{source}: line {number:,} is no JSON object of its own ({exc}); write one object in each line"
        ) from exc
    if not isinstance(row, dict):
        raise BadRequest(f"{source}: line {number:,} is no JSON object; write one object in each line")
    return row


def _text(value: object) -> str | None:
    if value is None or isinstance(value, str):
        return value or None
    return json.dumps(value, ensure_ascii=False)
