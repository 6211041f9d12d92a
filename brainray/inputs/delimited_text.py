"""Reads delimited text (CSV and the like) as rows of text.

Encoding, compression and separator are taken from the bytes, whatever the name of the file. No value is interpreted:
"007" stays "007".
"""

import codecs
import csv
import gzip
import io
import zlib
from collections.abc import Iterator
from itertools import chain
from typing import IO, cast

from brainray.errors import BadRequest

_GZIP = b"\x1f\x8b"
# The marks of UTF-32 come first, for that of UTF-16 is how one of them begins.
_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_NO_TEXT = (
    (b"PK\x03\x04", "a zip archive or a spreadsheet"),
    (b"\xd0\xcf\x11\xe0", "a spreadsheet or another Office document"),
    (b"BZh", "compressed with bzip2"),
    (b"\xfd7zXZ\x00", "compressed with xz"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd"),
)
_NULS = "is no text, or UTF-16 without a byte-order mark; save it as UTF-8"
_SEPARATORS = (",", ";", "\t")
_MOST_BYTES = 8 << 30  # unpacked: far above any label file, and the end of a gzip bomb


def read_rows(data: bytes, source: str) -> Iterator[tuple[int, list[str]]]:
    """The rows, the header first, each with the number of the line on which it begins. Empty lines are passed over.

    Raises `BadRequest`, which begins with `source`, for what is no such text, or has a row that is longer or shorter
    than the header.
    """
    _refuse_other_formats(data[:8], source)
    encoding = _encoding(data)
    begins = 1
    width = 0
    try:
        with _decoded(data, encoding) as text:
            head, separator = _head(text, source)
            reader = csv.reader(chain(head, _limited(text, source)), delimiter=separator, strict=True)
            for row in reader:
                if row:
                    width = width or len(row)
                    if len(row) != width:
                        raise BadRequest(f"{source}: line {begins} has {len(row)} values, the header has {width}")
                    yield begins, row
                begins = reader.line_num + 1
    except csv.Error as exc:
        raise BadRequest(
            f"{source}: the row that begins in line {begins} has an unclosed quote, or one too many"
        ) from exc
    except UnicodeError as exc:
        raise BadRequest(f"{source}: {_undecodable(data, encoding)}") from exc
    except (EOFError, zlib.error, OSError) as exc:
        raise BadRequest(f"{source}: is a damaged gzip file ({exc})") from exc


def _refuse_other_formats(start: bytes, source: str) -> None:
    for magic, what in _NO_TEXT:
        if start.startswith(magic):
            raise BadRequest(f"{source}: is {what}; give a CSV, which may be compressed with gzip, or a Parquet file")


def _unpacked(data: bytes) -> IO[bytes]:
    raw = io.BytesIO(data)
    return cast(IO[bytes], gzip.GzipFile(fileobj=raw)) if data.startswith(_GZIP) else raw


def _decoded(data: bytes, encoding: str) -> io.TextIOWrapper:
    return io.TextIOWrapper(_unpacked(data), encoding=encoding, newline="")


def _encoding(data: bytes) -> str:
    try:
        with _unpacked(data) as file:
            start = file.read(4)
    except (EOFError, zlib.error, OSError):
        return "utf-8"  # reading the text reports the damage
    return next((name for mark, name in _BYTE_ORDER_MARKS if start.startswith(mark)), "utf-8")


def _head(text: IO[str], source: str) -> tuple[list[str], str]:
    """The lines up to the header, and the separator that cuts the header into most names."""
    head: list[str] = []
    for line in _limited(text, source):
        head.append(line)
        if line.strip():
            break
    header = head[-1] if head else ""
    if "\0" in header:
        raise BadRequest(f"{source}: {_NULS}")
    return head, max(_SEPARATORS, key=lambda separator: len(next(csv.reader([header], delimiter=separator), [])))


def _limited(text: IO[str], source: str) -> Iterator[str]:
    size = 0
    for line in text:
        size += len(line)
        if size > _MOST_BYTES:
            raise BadRequest(f"{source}: holds more than {_MOST_BYTES >> 30} GiB of text")
        yield line


def _undecodable(data: bytes, encoding: str) -> str:
    """Name the first line that cannot be decoded."""
    if not encoding.startswith("utf-8"):
        return f"is damaged {encoding.upper()} text; save it as UTF-8"
    with _unpacked(data) as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode()
            except UnicodeDecodeError as exc:
                if b"\0" in line:
                    return _NULS
                return f"line {number} is not UTF-8 (byte 0x{line[exc.start]:02x}); save the file as UTF-8"
    return "is not UTF-8; save it as UTF-8"
