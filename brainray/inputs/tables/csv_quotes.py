"""Checks the quotes of a CSV while it is read: an unclosed one would take the rows below it for one value.

The parser accepts any text as CSV. This reads the same bytes by the parser's own rules: a quote opens a value only at
its start, is doubled inside, and may enclose line breaks. Splits and converts nothing.
"""

import re
import threading
from collections.abc import Collection
from typing import Protocol

from brainray.errors import BadRequest
from brainray.inputs.image_suffixes import IMAGE_SUFFIXES

_LONGEST_BYTES = 1 << 20  # of a quoted value
_CUT = re.compile(rb"[ \t]*")
_IMAGE = re.compile(rb"\.(?:" + "|".join(suffix[1:] for suffix in sorted(IMAGE_SUFFIXES)).encode() + rb')"?\s*$', re.I)


class _Source(Protocol):
    def read(self, nbytes: int | None = None) -> bytes: ...


class CheckedQuotes:
    """A CSV file to be read by Arrow. Reading raises `BadRequest` for a quote that is not closed, and names its line.

    `one_line` are the numbers of the columns, from 0, whose values have no line break: a name of an image with one is
    two rows of which the first has a quote too many. `images` are the columns with names of images, of `columns` in
    all: a value of another column that holds a whole row with such a name is refused, too.
    """

    closed = False

    def __init__(
        self,
        file: _Source,
        *,
        source: str,
        separator: bytes = b",",
        one_line: Collection[int] = frozenset(),
        images: Collection[int] = frozenset(),
        columns: int = 0,
    ) -> None:
        self._file = file
        self._images = images
        self._columns = columns
        self._source = source
        self._one_line = one_line
        self._separator = separator
        ends = re.escape(separator) + rb"\r\n"
        # A quoted value of one line, which needs no look at its place.
        self._plain = re.compile(
            rb"(?:(?<=[" + ends + rb'])|(?<![\s\S]))"[^"\r\n]*+(?:""[^"\r\n]*+)*+"(?=[' + ends + rb"])"
        )
        self._quoted = re.compile(rb'"[^"]*+(?:""[^"]*+)*+"')
        self._end_of_value = re.compile(rb"[" + ends + rb"]")
        self._rest = b""  # read, and not checked yet
        self._line = 1  # of the first byte of `_rest`, and its column
        self._column = 0
        self._started = False
        self._lock = threading.Lock()  # Arrow reads ahead in a thread, also after an error

    def read(self, nbytes: int | None = None) -> bytes:
        with self._lock:
            data = self._file.read(nbytes)
            text = self._rest + data
            if not self._started:
                text = text.removeprefix(b"\xef\xbb\xbf")
                self._started = True
            self._rest = text[self._check(text, final=not data) :]
            return data

    def check_open_quote(self) -> None:
        """Raise `BadRequest` for a quote that is open where the parser gave up, which it reports as something else."""
        for _ in range(2):  # up to the end of the file, or more than a value may have
            self.read(2 * _LONGEST_BYTES)

    def close(self) -> None:
        """Does nothing: the caller that opened the file closes it."""

    def _check(self, text: bytes, *, final: bool) -> int:
        """Check what is complete; the number of its bytes."""
        last = max(text.rfind(b"\n"), text.rfind(b"\r", 0, -1))  # a "\r" at the end may be half of a line break
        cut = len(text) if final else last + 1
        whole = text[:cut]
        if b'"' not in whole or (self._column == 0 and b'"' not in self._plain.sub(b"", whole)):
            self._pass(whole)
            return cut
        return self._walk(text, cut, final=final)

    def _walk(self, text: bytes, cut: int, *, final: bool) -> int:
        """Check value by value up to `cut`, which is the end of a line if not of the file."""
        at = 0
        while (quote := text.find(b'"', at, cut)) >= 0:
            if quote and text[quote - 1 : quote] not in (self._separator, b"\n", b"\r"):
                end = self._end_of_value.search(text, quote, cut)  # the quote is a character of the value
                stop = end.start() if end else cut
                self._pass(text[at:stop])
                at = stop
                continue
            self._pass(text[at:quote])
            end_of_quoted = self._value(text, quote, final=final)
            if end_of_quoted is None:
                return quote
            at = end_of_quoted
        self._pass(text[at:cut])
        return max(at, cut)

    def _value(self, text: bytes, quote: int, *, final: bool) -> int | None:
        """Check a quoted value and return its end; None where that has not been read yet."""
        found = self._quoted.match(text, quote)
        stop = found.end() if found else len(text)
        if stop - quote > _LONGEST_BYTES:
            raise self._refusal(f"is not closed within {_LONGEST_BYTES:,} bytes")
        blanks = _CUT.match(text, stop)
        after = blanks.end() if blanks else stop
        if after == len(text) and not final:
            return None
        if found is None:
            raise self._refusal("is not closed")
        if lines := _line_breaks(found.group()):
            if after < len(text) and self._end_of_value.match(text, after) is None:
                raise self._refusal(f"is closed {lines:,} line(s) below, in the middle of a value")
            if self._column in self._one_line:
                raise self._refusal(f"takes {lines:,} more line(s) into the name of an image")
            if self._holds_rows(found.group()):
                raise self._refusal(f"is closed {lines:,} line(s) below, and the lines between look like rows")
            self._line += lines
        return stop

    def _holds_rows(self, value: bytes) -> bool:
        """Whether a line within a value has the name of an image where a row of this file would have it."""
        if self._columns < 2 or self._column in self._images:
            return False
        rows = (line.split(self._separator) for line in value.splitlines()[1:])
        return any(len(row) == self._columns and _IMAGE.search(row[place]) for row in rows for place in self._images)

    def _pass(self, text: bytes) -> None:
        """Count the lines and columns of text outside of quotes."""
        lines = _line_breaks(text)
        self._line += lines
        last = max(text.rfind(b"\n"), text.rfind(b"\r")) if lines else -1
        self._column = (0 if lines else self._column) + text.count(self._separator, last + 1)

    def _refusal(self, what: str) -> BadRequest:
        return BadRequest(
            f"{self._source}: the quote in line {self._line:,} {what}; close it, or double it where it is a character"
        )


def _line_breaks(text: bytes) -> int:
    return text.count(b"\n") + text.count(b"\r") - text.count(b"\r\n")
