"""Reads tables of text as batches of text columns: CSV and the like, JSON Lines, and files with a path in each line.

Encoding, compression, separator and kind are taken from the bytes, whatever the name of the file. No value is
interpreted: "007" stays "007". Memory does not grow with the file.
"""

import csv
import io
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from brainray.errors import BadRequest
from brainray.inputs.image_files import skip_reason

from .csv_quotes import CheckedQuotes
from .json_lines import column_names, is_json_lines, json_batches
from .table_columns import LABELLED_COLUMNS, find_column
from .text_stream import TextStream, open_text

_BLOCK_BYTES = 4 << 20  # the longest row
_HEAD_BYTES = 1 << 20  # in which the header ends
_SEPARATORS = (",", ";", "\t", "|")
_UNIT_SEPARATOR = "\x1f"  # no part of a path, so that a line is one value
_LIKE_A_PATH = re.compile(r"[/\\]|\.[A-Za-z0-9]+$")
_BEHIND_IMAGE = re.compile(r"(.*?\.[A-Za-z0-9.]+)[\s,;|]+\S")
_MXNET = re.compile(r"\d+\t([^\t/\\]+\t)+\S")  # number, labels, path
_WIDTHS = re.compile(r"(?:Row #(\d+): )?Expected (\d+) columns, got (\d+)")


@dataclass(frozen=True, kw_only=True)
class TextTable:
    """A table of text in a file: its columns, and how they are to be read."""

    uri: str
    source: str  # begins each refusal: the option and the URI
    names: tuple[str, ...]  # as the file spells them
    kind: Literal["delimited", "json", "lines"] = "delimited"
    separator: str = ","
    has_header: bool = True
    first_line: str = ""  # that is not empty
    most_bytes: int | None = None  # of text; None: as many as there are

    def as_paths(self) -> Self:
        """The same file with a path in each line, which has no header: one column, called `path`.

        Raises `BadRequest` where the first line is prose, or has a label behind its path.
        """
        line = self.first_line
        cut = _BEHIND_IMAGE.match(line)
        labelled = cut is not None and skip_reason(line, ()) is not None and skip_reason(cut[1], ()) is None
        if labelled or _MXNET.match(line):
            raise BadRequest(
                f"{self.source}: its first line {line!r} is more than a path; add a header, as image,label"
            )
        if not _LIKE_A_PATH.search(line):
            raise BadRequest(
                f"{self.source}: is no list of images: its first line {line[:80]!r} is neither a path nor a header "
                "with a column uri, path, image or filename"
            )
        return replace(self, names=("path",), kind="lines", separator=_UNIT_SEPARATOR, has_header=False)

    def batches(self, *, images: Collection[int] = (), one_line: Collection[int] = ()) -> Iterator[pa.RecordBatch]:
        """All columns, a part at a time, named by their places "0", "1" …; an empty value is null.

        The columns at the places `images` name images: a quote too many that takes such rows into another value is
        refused. So is any line break in a column of `one_line`.
        Raises `BadRequest` for rows that cannot be read.
        """
        with open_text(self.uri, source=self.source, most_bytes=self.most_bytes) as stream:
            if self.kind == "json":
                yield from json_batches(stream, self.names, self.source, plain=one_line)
                return
            try:
                yield from self._delimited(stream, images, one_line)
            except pa.ArrowInvalid as exc:
                raise BadRequest(f"{self.source}: {self._refusal(str(exc))}") from exc

    def _delimited(
        self, stream: TextStream, images: Collection[int], one_line: Collection[int]
    ) -> Iterator[pa.RecordBatch]:
        if not stream.peek(1):
            return
        quoted = self.kind == "delimited"
        checked = CheckedQuotes(
            stream,
            source=self.source,
            separator=self.separator.encode(),
            one_line=set(one_line),
            images=set(images),
            columns=len(self.names),
        )
        names = [str(place) for place in range(len(self.names))]
        left = int(self.has_header)
        try:
            for batch in pa_csv.open_csv(
                pa.PythonFile(checked if quoted else stream, mode="r"),
                read_options=pa_csv.ReadOptions(block_size=_BLOCK_BYTES, column_names=names, use_threads=False),
                parse_options=pa_csv.ParseOptions(
                    delimiter=self.separator, quote_char='"' if quoted else False, newlines_in_values=quoted
                ),
                convert_options=pa_csv.ConvertOptions(
                    column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=True, null_values=[""]
                ),
            ):
                yield batch.slice(left)
                left = max(0, left - len(batch))
        except pa.ArrowInvalid:
            if quoted:
                checked.check_open_quote()
            raise

    def _refusal(self, error: str) -> str:
        line = error.splitlines()[0]
        if found := _WIDTHS.search(line):
            number, wanted, got = found.groups()
            row = f"row {int(number) - self.has_header:,}" if number else "a row"
            value = line[found.end() :].removeprefix(": ")
            return f"is no readable CSV: {row} has {got} value(s) in place of {wanted}: {value[:80]!r}"
        if "straddling" in line:
            return f"is no readable CSV: a row has more than {_BLOCK_BYTES:,} bytes"
        return f"is no readable CSV ({line})"


def blank_rows(batch: pa.RecordBatch) -> Collection[int]:
    """The numbers of rows without any value, as spreadsheets leave them."""
    filled = np.zeros(len(batch), bool)
    for column in batch.columns:
        shown = pc.fill_null(pc.not_equal(pc.utf8_trim_whitespace(column), ""), False)
        filled |= shown.to_numpy(zero_copy_only=False)
    return frozenset(np.flatnonzero(~filled).tolist())


def open_text_table(uri: str, *, source: str, most_bytes: int | None = None) -> TextTable:
    """Find out the columns of a table. Raises `BadRequest` for what is no text, `StorageError` without access."""
    with open_text(uri, source=source) as stream:
        head = stream.peek(_HEAD_BYTES)
        if not head.strip():
            raise BadRequest(f"{source}: is empty, so no readable CSV")
        if is_json_lines(head):
            names = column_names(head, source, is_whole=len(head) < _HEAD_BYTES)
            return TextTable(uri=uri, source=source, names=names, kind="json", has_header=False, most_bytes=most_bytes)
        text = head.decode(errors="ignore")  # the head may end within a character
        separator, header, lines = max(
            ((separator, *_header(text, separator)) for separator in _SEPARATORS),
            key=lambda found: (find_column(found[1], LABELLED_COLUMNS, source) is not None, len(found[1])),
        )
        if any("\0" in name for name in header):
            raise BadRequest(f"{source}: is no text, or UTF-16 without a byte-order mark; save it as UTF-8")
        if lines > 1:
            CheckedQuotes(stream, source=source, separator=separator.encode()).check_open_quote()
        return TextTable(
            uri=uri,
            source=source,
            names=tuple(header),
            separator=separator,
            first_line=text.strip("\r\n").splitlines()[0],
            most_bytes=most_bytes,
        )


def _header(text: str, separator: str) -> tuple[Sequence[str], int]:
    """The names in the first row that is not empty, and the number of its lines."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    before = 0
    try:
        for row in reader:
            if row:
                return row, reader.line_num - before
            before = reader.line_num
    except csv.Error:  # a value that is longer than any name
        pass
    return text.splitlines()[:1], 2
