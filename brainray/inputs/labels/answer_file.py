"""Files of answers, as the pages of a run export them: labels that say to which bytes of an image they were given."""

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from brainray.errors import BadRequest
from brainray.inputs.class_names import LABEL_COLUMNS
from brainray.inputs.tables.table_columns import find_column

from .label_file import LabelFile, classes_of, header_of, read_named_values

WRONG, NO_IMAGE = "wrong", "no_image"  # answers
_ANSWER, _CONTENT = "answer", "contenthash"  # columns, as `find_column` spells them


@dataclass(frozen=True, kw_only=True, eq=False)
class AnswerRows:
    """The rows of a file of answers. Arrays have a value for each row, which may be null."""

    keys: pa.Array  # names of images
    labels: pa.Array
    answers: pa.Array  # without spaces around it, in lower case
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
    answers = pc.utf8_lower(pc.utf8_trim_whitespace(found.get(_ANSWER, none)))
    return AnswerRows(keys=keys, labels=labels, answers=answers, contents=found.get(_CONTENT, none))


def read_label_file(uri: str, classes: tuple[str, ...]) -> LabelFile:
    """Read a table with an image and a label column, such as one of answers. Raises `BadRequest`, naming the fault."""
    rows = read_answers(uri, classes)
    wrong = pc.and_(pc.is_null(rows.labels), pc.is_in(rows.answers, pa.array([WRONG, NO_IMAGE])))
    return LabelFile(rows.keys, rows.labels, source=f"--labels {uri}", wrong=wrong, contents=rows.contents)
