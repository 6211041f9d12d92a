"""Writes tables as CSV that a person opens in a spreadsheet."""

import io

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

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
