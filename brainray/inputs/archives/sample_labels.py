"""Labels of WebDataset samples: in a tar, `7.cls` or `7.json` labels the image `7.jpg` beside it.

The files of a sample follow one another and share their name up to its first dot, as `webdataset` writes them:
https://github.com/webdataset/webdataset#the-webdataset-format
"""

import json
from collections.abc import Iterable, Iterator
from typing import Any

from brainray.errors import ImageError
from brainray.inputs.class_names import LABEL_COLUMNS
from brainray.inputs.tables.table_columns import spelled

from .member import LONGEST_LABEL, Member

MOST_BYTES = 64 << 10  # of a file with a label
_CLS, _JSON = "cls", "json"
_SURE = "label"  # a key of JSON with a label and nothing else
_MOST_FILES = 64  # of a sample, which are held until its label is known


def is_label(name: str) -> bool:
    """Whether a member may hold the label of its sample."""
    return _split(name)[1] in (_CLS, _JSON)


def with_labels(members: Iterable[tuple[Member, bytes | None]]) -> Iterator[Member]:
    """Label each member by the file with the label in its sample, whose bytes come with it. Keeps the order.

    An `ImageError` of `members` is raised after all members before it.
    """
    held: list[Member] = []
    labels: dict[str, str] = {}
    sample = ""
    try:
        for member, data in members:
            key, extension = _split(member.name)
            if key != sample or len(held) == _MOST_FILES:
                yield from _labelled(held, labels)
                held, labels, sample = [], {}, key
            held.append(member)
            label = _label(extension, data) if data is not None else None
            if label is not None:
                labels[extension] = label
    except ImageError:
        yield from _labelled(held, labels)
        raise
    yield from _labelled(held, labels)


def _labelled(members: list[Member], labels: dict[str, str]) -> Iterator[Member]:
    label = labels.get(_CLS) or labels.get(_JSON)
    return (member._replace(label=label) for member in members)


def _split(name: str) -> tuple[str, str]:
    """The name of a sample and the extension of one of its files."""
    folder, slash, file = name.rpartition("/")
    stem, _, extension = file.partition(".")
    return f"{folder}{slash}{stem}", extension.lower()


def _label(extension: str, data: bytes) -> str | None:
    """The label in a file, as spelled; None where it holds none."""
    try:
        value = _spelled_label(json.loads(data)) if extension == _JSON else data.decode()
    except (ValueError, RecursionError):
        return None
    text = value.strip() if isinstance(value, str) else ""
    if any("\ud800" <= character <= "\udfff" for character in text):  # half of a pair in JSON, which is no text
        return None
    return text if 0 < len(text) <= LONGEST_LABEL else None


def _spelled_label(sample: Any) -> str | None:  # noqa: ANN401  a value of JSON
    """The label among the values of a sample: text, a number, or a list of one text; None where there is none.

    `label` is given as it stands, whatever it is: whoever reads it says where it is no class. The other names have
    more than one use (a box or a mask may be the `target`), so another kind of value below them is passed over.
    """
    if not isinstance(sample, dict):
        return None
    by_key = {spelled(key): value for key, value in sample.items()}
    for name in LABEL_COLUMNS:
        value = by_key.get(name)
        if value is not None and (name == _SURE or _may_be_class(value)):
            whole = isinstance(value, float) and value.is_integer()
            return value if isinstance(value, str) else json.dumps(int(value) if whole else value)
    return None


def _may_be_class(value: Any) -> bool:  # noqa: ANN401
    """Whether a value of JSON is a name, the number of a class, or a list of one name."""
    if isinstance(value, list):
        return len(value) == 1 and isinstance(value[0], str)
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, str) or is_whole or (isinstance(value, float) and value.is_integer())
