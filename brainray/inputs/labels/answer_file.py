"""Files of answers, as the pages of a run export them: labels that say to which bytes of an image they were given."""

from dataclasses import dataclass

import pyarrow as pa

from brainray.errors import BadRequest
from brainray.inputs.class_names import LABEL_COLUMNS
from brainray.inputs.tables.table_columns import find_column

from .label_file import LabelFile, classes_of, header_of, read_named_values

_ANSWER, _CONTENT = "answer", "contenthash"  # columns, as `find_column` spells them


@dataclass(frozen=True, kw_only=True, eq=False)
class AnswerRows:
    """The rows of a file of answers. Arrays have a value for each row, which may be null."""

    keys: pa.Array  # names of images
    labels: pa.Array
    answers: pa.Array
    contents: pa.Array  # hashes of the bytes that were answered


def read_answers(uri: str, classes: tuple[str, ...]) -> AnswerRows:
    """Read a file of answers. Any label file will do: its answers and contents are null.

    Raises `BadRequest` as `read_label_file` does.
    """
    source = f"--labels {uri}"
    header = header_of(uri, source)
    there = [name for name in (_ANSWER, _CONTENT) if find_column(header, [name], source) is not None]
    if _ANSWER not in there:
        there = []  # whatever such a column of another table means
    try:
        keys, (raw, *others) = read_named_values("--labels", uri, LABEL_COLUMNS, *([name] for name in there))
    except BadRequest:
        if not there:
            raise
        there = []  # they may hold something else
        keys, (raw, *others) = read_named_values("--labels", uri, LABEL_COLUMNS)
    found = dict(zip(there, others, strict=True))
    none = pa.nulls(len(keys), pa.string())
    labels = classes_of(raw, classes, source)
    return AnswerRows(keys=keys, labels=labels, answers=found.get(_ANSWER, none), contents=found.get(_CONTENT, none))


def read_answered_labels(uri: str, classes: tuple[str, ...]) -> LabelFile:
    """Read a label file as `read_label_file` does, with what its answers were given to."""
    rows = read_answers(uri, classes)
    return LabelFile(rows.keys, rows.labels, source=f"--labels {uri}", contents=rows.contents)
