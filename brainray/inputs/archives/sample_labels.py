"""Labels of WebDataset samples: in a tar, `7.cls` or `7.json` labels the image `7.jpg` beside it.

The files of a sample follow one another and share their name up to its first dot, as `webdataset` writes them:
https://github.com/webdataset/webdataset#the-webdataset-format
"""

import json
from collections.abc import Iterable, Iterator
from typing import Any

from brainray.errors import ImageError
from brainray.inputs.class_names import LABEL_COLUMNS
from brainray.inputs.table_columns import spelled

from .member import LONGEST_LABEL, Member

MOST_BYTES = 64 << 10  # of a file with a label
_CLS, _JSON = "cls", "json"
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
    """The label among the values of a sample: text, or a number as text; None where there is none.

    Anything else, such as a list, is given as it stands: it is no class, and whoever reads it says so.
    """
    if not isinstance(sample, dict):
        return None
    by_key = {spelled(key): value for key, value in sample.items()}
    value = next((by_key[name] for name in LABEL_COLUMNS if by_key.get(name) is not None), None)
    if value is None or isinstance(value, str):
        return value
    return str(int(value)) if isinstance(value, float) and value.is_integer() else json.dumps(value)
