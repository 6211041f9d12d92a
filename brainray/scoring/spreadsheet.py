"""Writes tables as CSV that a person opens in a spreadsheet, and keeps what a person has filled in."""

import io
from itertools import count

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from brainray import storage

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"  # without it Excel takes UTF-8 for another encoding
# What begins so, a spreadsheet runs as a formula: https://owasp.org/www-community/attacks/CSV_Injection
_FORMULA = r"^[=+\-@\t\r]"
_FREE_TEXTS = ("group", "error_detail")  # columns of what files and folders say of themselves


def spreadsheet_csv(table: pa.Table) -> bytes:
    """The table as CSV. A group or a detail of an error that would be a formula gets an apostrophe before it."""
    for name in set(_FREE_TEXTS) & set(table.column_names):
        texts = table[name]
        shown = pc.if_else(
            pc.match_substring_regex(texts, _FORMULA), pc.binary_join_element_wise("'", texts, ""), texts
        )
        table = table.set_column(table.schema.get_field_index(name), name, shown)
    sink = io.BytesIO()
    sink.write(_BYTE_ORDER_MARK)
    pa_csv.write_csv(table, sink)
    return sink.getvalue()


def replace_list(uri: str, new: bytes, written: bytes | None, writer: storage.Writer) -> str | None:
    """Write a list in place of an earlier one. One that a person has changed is first kept beside it.

    `written` is the earlier list as it was written; None where that is not known, and it counts as changed. Gives the
    URI of what was kept, `<name>.<n>.csv`, which nothing writes to again; None where nothing had to be.
    """
    there = storage.read_bytes(uri) if storage.exists(uri) else None
    if there == new:
        return None
    kept = None if there is None or there == written else _keep(uri, there, writer)
    writer.write_bytes(uri, new)
    return kept


def _keep(uri: str, content: bytes, writer: storage.Writer) -> str:
    """Write a list beside its place; once, also where the command before was killed after it."""
    stem, _, suffix = uri.rpartition(".")
    for n in count(1):
        kept = f"{stem}.{n}.{suffix}"
        if not storage.exists(kept):
            writer.write_bytes(kept, content)
            return kept
        if storage.read_bytes(kept) == content:
            return kept
    raise AssertionError("numbers have no end")
