"""Decodes text files to UTF-8 while they are read.

Compression and encoding are taken from the bytes, whatever the name of the file. Memory does not grow with the file.
"""

import codecs
import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Protocol, cast

from brainray import storage
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
_AS_PARQUET = "write its rows to a CSV or Parquet file, as pyarrow or pandas do, and give that"
# Tables in files of these names are refused as inputs: they are made to be read by programs.
_OTHER_TABLES = {
    ".orc": f"an ORC file; {_AS_PARQUET}",
    ".avro": f"an Avro file; {_AS_PARQUET}",
    ".feather": f"a Feather file; {_AS_PARQUET}",
    ".arrow": f"an Arrow file; {_AS_PARQUET}",
}
# Files that may lie beside images, as `--input scans/*` names them: they are passed over, like any other file.
_PASSED_OVER = {
    **dict.fromkeys((".xlsx", ".xls", ".ods"), "a spreadsheet; save it as CSV"),
    ".json": "JSON, and no manifest of an S3 inventory; write a list as JSON Lines (.jsonl), an object in each line",
}
_NO_TEXT = (
    (b"PAR1", "a Parquet file; give it a name that ends with .parquet"),
    (b"Obj\x01", _OTHER_TABLES[".avro"]),
    (b"ORC", _OTHER_TABLES[".orc"]),
    (b"ARROW1", _OTHER_TABLES[".arrow"]),
    (b"PK\x03\x04", "a zip archive or a spreadsheet; save it as CSV"),
    (b"\xd0\xcf\x11\xe0", "a spreadsheet or another Office document; save it as CSV"),
    (b"BZh", "compressed with bzip2; unpack it, or compress it with gzip"),
    (b"\xfd7zXZ\x00", "compressed with xz; unpack it, or compress it with gzip"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd; unpack it, or compress it with gzip"),
)
_PIECE_BYTES = 1 << 20


class _Readable(Protocol):
    def read(self, nbytes: int, /) -> bytes: ...


class _File(_Readable, Protocol):
    """An open file, such as `pyarrow.NativeFile`."""

    def seek(self, position: int, /) -> int: ...
    def size(self) -> int: ...


def encoding_of(start: bytes) -> str:
    """The encoding of a text by its byte-order mark; without one, UTF-8."""
    return next((name for mark, name in _BYTE_ORDER_MARKS if start.startswith(mark)), "utf-8")


class TextStream:
    """A text file that is read as UTF-8 without a byte-order mark.

    Reading raises `BadRequest`, which begins with `source`, for what is no text, with the line, and above `most_bytes`.
    """

    closed = False

    def __init__(self, file: _File, *, source: str, most_bytes: int | None = None) -> None:
        self._source = source
        self._most_bytes = most_bytes
        whole = _WholeFile(file, source)
        magic = whole.read(8)
        _refuse_other_formats(magic, source)
        file.seek(0)
        whole = _WholeFile(file, source)
        self._file: _Readable = whole
        if magic.startswith(_GZIP):
            self._file = gzip.GzipFile(fileobj=cast(IO[bytes], whole), mode="rb")
        self._held = b""  # decoded, and not read yet
        self._read_bytes = 0
        self._lines = [0, 0]  # "\n" and "\r" so far
        start = self._next_bytes(4)
        self._encoding = encoding_of(start)
        self._decoder = codecs.getincrementaldecoder(self._encoding)()
        self._ended = False
        self._held = self._decode(start)

    def read(self, nbytes: int | None = None) -> bytes:
        """The next bytes, at most `nbytes`, or a piece of the file; none at its end."""
        wanted = nbytes if nbytes and nbytes > 0 else _PIECE_BYTES
        while not self._held and not self._ended:
            self._fill(wanted)
        data, self._held = self._held[:wanted], self._held[wanted:]
        self._count(len(data))
        return data

    def peek(self, nbytes: int) -> bytes:
        """The next bytes, at least `nbytes` unless the file ends, which are read again later."""
        while len(self._held) < nbytes and not self._ended:
            self._fill(nbytes)
        return self._held

    def close(self) -> None:
        """Does nothing: the caller that opened the file closes it."""

    def _fill(self, nbytes: int) -> None:
        self._held += self._decode(self._next_bytes(nbytes))

    def _next_bytes(self, nbytes: int) -> bytes:
        try:
            return self._file.read(nbytes)
        except (EOFError, zlib.error, gzip.BadGzipFile) as exc:
            raise BadRequest(f"{self._source}: is a damaged gzip file ({exc})") from exc
        except OSError as exc:
            raise BadRequest(f"{self._source}: cannot be read ({exc})") from exc

    def _decode(self, data: bytes) -> bytes:
        self._ended = not data
        try:
            text = self._decoder.decode(data, final=self._ended)
        except UnicodeDecodeError as exc:
            raise BadRequest(f"{self._source}: {self._undecodable(exc)}") from exc
        try:
            utf8 = text.encode()
        except UnicodeEncodeError as exc:  # half of a pair in UTF-16
            raise BadRequest(f"{self._source}: is damaged {self._encoding.upper()} text; save it as UTF-8") from exc
        self._lines[0] += utf8.count(b"\n")
        self._lines[1] += utf8.count(b"\r")
        return utf8

    def _undecodable(self, exc: UnicodeDecodeError) -> str:
        if not self._encoding.startswith("utf-8"):
            return f"is damaged {self._encoding.upper()} text; save it as UTF-8"
        before = exc.object[: exc.start]
        if b"\0" in exc.object:
            return "is no text, or UTF-16 without a byte-order mark; save it as UTF-8"
        ends = [self._lines[0] + before.count(b"\n"), self._lines[1] + before.count(b"\r")]
        line = (ends[0] or ends[1]) + 1
        return f"line {line:,} is not UTF-8 (byte 0x{exc.object[exc.start]:02x}); save the file as UTF-8"

    def _count(self, nbytes: int) -> None:
        self._read_bytes += nbytes
        if self._most_bytes is not None and self._read_bytes > self._most_bytes:
            raise BadRequest(f"{self._source}: holds more than {self._most_bytes >> 30} GiB of text")


class _WholeFile:
    """A file whose early end is noticed, as a flaky network share may report one."""

    def __init__(self, file: _File, source: str) -> None:
        self._file = file
        self._source = source
        self._size = file.size()
        self._at = 0

    def read(self, nbytes: int = -1) -> bytes:
        data = self._file.read(nbytes if nbytes >= 0 else self._size)
        self._at += len(data)
        if not data and nbytes and self._at < self._size:
            raise BadRequest(f"{self._source}: short read, got {self._at:,} of {self._size:,} bytes; try again")
        return data


def _refuse_other_formats(start: bytes, source: str) -> None:
    for magic, what in _NO_TEXT:
        if start.startswith(magic):
            raise BadRequest(f"{source}: is {what}")


def refuse_other_table(uri: str, *, source: str) -> None:
    """Raise `BadRequest` for a file that is named as a table of a kind that is not read, such as ORC."""
    what = next((what for suffix, what in _OTHER_TABLES.items() if uri.lower().endswith(suffix)), None)
    if what is not None and storage.exists(uri) and not storage.is_folder(uri):
        raise BadRequest(f"{source}: is {what}")


def advice_on(uri: str) -> str | None:
    """What a file is that is passed over and may be meant as a list, and what to do; None for any other."""
    return next((what for suffix, what in _PASSED_OVER.items() if uri.lower().endswith(suffix)), None)


@contextmanager
def open_text(uri: str, *, source: str, most_bytes: int | None = None) -> Iterator[TextStream]:
    """Open a file as text. Raises `StorageError` where it cannot be opened, as pipes and devices cannot."""
    with storage.open_seekable(uri) as file:
        yield TextStream(file, source=source, most_bytes=most_bytes)
