"""Files of answers, as the pages of a run export them: labels that say what they were given to: bytes, a prediction."""

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from brainray.errors import BadRequest
from brainray.inputs.class_names import LABEL_COLUMNS
from brainray.inputs.tables.table_columns import find_column

from .label_file import LabelFile, classes_of, header_of, read_named_values

WRONG, NO_IMAGE = "wrong", "no_image"  # answers
_ANSWER, _CONTENT, _PREDICTED = "answer", "contenthash", "predicted"  # columns, as `find_column` spells them


@dataclass(frozen=True, kw_only=True, eq=False)
class AnswerRows:
    """The rows of a file of answers. Arrays have a value for each row, which may be null."""

    keys: pa.Array  # names of images
    labels: pa.Array
    answers: pa.Array  # without spaces around it, in lower case
    contents: pa.Array  # hashes of the bytes that were answered
    called_wrong: pa.Array  # the prediction that is called wrong by an answer that names no class


def read_answers(uri: str, classes: tuple[str, ...]) -> AnswerRows:
    """Read a file of answers. Any label file will do: what only answers have is null.

    Raises `BadRequest` as `read_label_file` does.
    """
    source = f"--labels {uri}"
    header = header_of(uri, source)
    there = [name for name in (_ANSWER, _CONTENT, _PREDICTED) if find_column(header, [name], source) is not None]
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
    predicted = found.get(_PREDICTED, none)
    is_about_it = pc.and_(pc.and_(pc.is_null(labels), pc.equal(answers, WRONG)), pc.not_equal(predicted, ""))
    return AnswerRows(
        keys=keys,
        labels=labels,
        answers=answers,
        contents=found.get(_CONTENT, none),
        called_wrong=pc.if_else(is_about_it, predicted, None),
    )


def read_label_file(uri: str, classes: tuple[str, ...]) -> LabelFile:
    """Read a table with an image and a label column, such as one of answers. Raises `BadRequest`, naming the fault."""
    rows = read_answers(uri, classes)
    wrong = pc.and_(pc.is_null(rows.labels), pc.is_in(rows.answers, pa.array([WRONG, NO_IMAGE])))
    return LabelFile(
        rows.keys,
        rows.labels,
        source=f"--labels {uri}",
        wrong=wrong,
        contents=rows.contents,
        called_wrong=rows.called_wrong,
    )
