"""The CSV that people open in a spreadsheet: its letters are right, and none of its texts is run."""

import csv
import io

import duckdb
import pyarrow as pa
import pyarrow.csv as pa_csv
from support.each import each

from brainray.inputs.labels.answer_file import read_label_file
from brainray.scoring.spreadsheet import spreadsheet_csv

FORMULAS = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"]


def rows_of(data: bytes):
    return list(csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline="")))


@each("column", ["group", "error_detail"])
def test_no_text_of_a_file_or_folder_is_run_as_a_formula(column):
    texts = [*FORMULAS, "site=1", "p-1", "", None]
    rows = rows_of(spreadsheet_csv(pa.table({"uri": list("abcdefghij"), column: texts})))
    assert [row[column] for row in rows] == ["'" + text for text in FORMULAS] + ["site=1", "p-1", "", ""]


def test_letters_of_all_languages_are_right_in_excel_and_other_readers_find_the_columns(tmp_path):
    path = tmp_path / "list.csv"
    path.write_bytes(spreadsheet_csv(pa.table({"uri": ["/Müller/a.jpg"], "label": ["glioma"]})))
    assert path.read_bytes().decode().startswith("\ufeff")
    assert duckdb.read_csv(str(path)).columns == pa_csv.read_csv(path).column_names == ["uri", "label"]
    assert read_label_file(str(path), ("glioma", "notumor")).rows == 1
