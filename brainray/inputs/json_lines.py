"""Reads JSON Lines, an object a line, as batches of text columns. Numbers are the text that stands in the file."""

import json
from collections.abc import Collection, Iterator, Sequence

import pyarrow as pa

from brainray.errors import BadRequest

from .text_stream import TextStream

_BLOCK_BYTES = 4 << 20
_LONGEST_BYTES = 16 << 20
_ROWS_FOR_NAMES = 1000  # the rows at the start whose names are the columns


def is_json_lines(head: bytes) -> bool:
    """Whether the text begins as JSON."""
    return head.lstrip()[:1] in (b"{", b"[")


def column_names(head: bytes, source: str) -> tuple[str, ...]:
    """The names in the first rows, in the order in which they appear. `head` may end within a line."""
    lines = head.splitlines()[:_ROWS_FOR_NAMES]
    whole = lines if len(lines) == 1 or head.endswith((b"\n", b"\r")) else lines[:-1]
    names: dict[str, None] = {}
    for number, line in enumerate(whole, 1):
        if line.strip():
            names.update(dict.fromkeys(_parsed(line, number, source)))
    return tuple(names)


def json_batches(
    stream: TextStream, names: Sequence[str], source: str, *, plain: Collection[int]
) -> Iterator[pa.RecordBatch]:
    """The columns `names` of all rows. The columns at the places `plain` may hold no lists and objects."""
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
                rows.append([_text(row.get(name)) for name in names])
                for place in plain:
                    if isinstance(row.get(names[place]), dict | list):
                        raise BadRequest(f"{source}: line {at:,}: its {names[place]!r} is nested; write it as text")
        number += len(lines)
        if rows:
            columns = [pa.array(column, pa.string()) for column in zip(*rows, strict=True)]
            yield pa.record_batch(columns, [str(place) for place in range(len(names))])
        if not data:
            return


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
