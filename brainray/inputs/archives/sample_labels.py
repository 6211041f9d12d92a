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
from brainray.inputs.tables.text_stream import encoding_of

from .member import LONGEST_LABEL, Member

MOST_BYTES = 64 << 10  # of a file with a label
CLS_REASON = "suffix .cls"  # as which a file with a label is counted
_CLS, _JSON = "cls", "json"
_ALONE = "has no image beside it in the tar (GNU tar --sort=name puts them side by side)"
_DOUBTFUL = ("", None)  # in place of the label of a sample that has two
_SURE = "label"  # a key of JSON with a label and nothing else
# Other files of a sample that may hold its label, by the end of their names. They are not taken, for they may hold any
# other text, but noted where that is a class.
_LIKELY = ("cls", "class", "cls2", "label", "labels", "target", "txt", "text", _JSON)
_LONGEST_LIKELY = 64  # characters: longer texts are captions
_MOST_FILES = 4096  # of a sample, which are held until its label is known


def may_hold_label(name: str, size_bytes: int | None) -> bool:
    """Whether a member may hold the label of its sample, or a text that is likely to be one, and is worth reading."""
    extension = _split(name)[1]
    if extension in (_CLS, _JSON):
        return (size_bytes or 0) <= MOST_BYTES
    return _is_likely(extension) and (size_bytes or 0) <= 4 * _LONGEST_LIKELY


def with_labels(members: Iterable[tuple[Member, bytes | None]]) -> Iterator[Member]:
    """Label each member by the file with the label in its sample, whose bytes come with it. Keeps the order.

    A file whose label cannot be read, or labels no image, says why in `label_unread`. A likely one, of a sample without
    a label, has its text for its own label, with a `label_key` that begins with a dot. An `ImageError` of `members` is
    raised after all members before it.
    """
    held: list[tuple[Member, str | None]] = []  # with their likely labels
    labels: dict[str, tuple[str, str | None]] = {}
    sample = ""
    try:
        for member, data in members:
            key, extension = _split(member.name)
            if key != sample or len(held) == _MOST_FILES:
                yield from _labelled(held, labels)
                held, labels, sample = [], labels if key == sample else {}, key
            likely = _likely(data) if data else None
            if extension in (_CLS, _JSON):
                label, unread = _label(extension, data) if data is not None else (None, _unread(member))
                if label is not None and labels.setdefault(extension, label) != label:
                    labels[extension], unread = _DOUBTFUL, "says another label than the file before it"
                member = member._replace(label_unread=unread)
            held.append((member, likely))
    except ImageError:
        yield from _labelled(held, labels)
        raise
    yield from _labelled(held, labels)


def _labelled(members: list[tuple[Member, str | None]], labels: dict[str, tuple[str, str | None]]) -> Iterator[Member]:
    label, key = labels.get(_CLS) or labels.get(_JSON) or (None, None)
    alone = _ALONE if labels and all(_split(member.name)[1] in (_CLS, _JSON) for member, _ in members) else None
    for member, likely in members:
        if label is None and likely is not None and member.label_unread is None:
            yield member._replace(label=likely, label_key="." + _split(member.name)[1])
        else:
            yield member._replace(label=label, label_key=key, label_unread=member.label_unread or alone)


def sample_of(name: str) -> str:
    """The name of the sample to which a file belongs: its path up to the first dot of its name."""
    return _split(name)[0]


def _split(name: str) -> tuple[str, str]:
    """The name of a sample and the extension of one of its files."""
    folder, slash, file = name.rpartition("/")
    stem, _, extension = file.partition(".")
    return f"{folder}{slash}{stem}", extension.lower()


def _is_likely(extension: str) -> bool:
    return extension.rpartition(".")[2] in _LIKELY


def _likely(data: bytes) -> str | None:
    """The text of a file, also as JSON, if it is as short as the name of a class."""
    try:
        text = data.decode(encoding_of(data)).strip(' \t\r\n"[]')
    except UnicodeDecodeError:
        return None
    return text if 0 < len(text) <= _LONGEST_LIKELY else None


def _unread(member: Member) -> str:
    """Why a file that may hold a label came without its bytes."""
    return (member.refused or "").partition(": ")[2] or f"has more than {MOST_BYTES:,} bytes"


def _label(extension: str, data: bytes) -> tuple[tuple[str, str | None] | None, str | None]:
    """The label in a file, as spelled, with the key under which it stands if it may be none; None without a label.

    Then why the label that is there cannot be read.
    """
    try:
        value, key = _spelled_label(json.loads(data)) if extension == _JSON else (data.decode(encoding_of(data)), None)
    except UnicodeDecodeError:
        return None, "is not UTF-8, as text without a byte-order mark must be"
    except (ValueError, RecursionError):
        return None, None if _is_table(data) else "is no JSON"
    text = value.strip() if isinstance(value, str) else ""
    if any("\ud800" <= character <= "\udfff" for character in text):  # half of a pair in JSON, which is no text
        return None, "has half a character as its label"
    if len(text) > LONGEST_LABEL:
        return None, f"has a label of more than {LONGEST_LABEL:,} characters"
    return ((text, key) if text else None), None


def _is_table(data: bytes) -> bool:
    """Whether what is no JSON is empty, or JSON Lines, which label no single image."""
    try:
        return not data.strip() or isinstance(json.loads(data.splitlines()[0]), dict | list)
    except (ValueError, RecursionError):
        return False


def _spelled_label(sample: Any) -> tuple[str | None, str | None]:  # noqa: ANN401  a value of JSON
    """The label among the values of a sample: text, a number, or a list of one text; None where there is none.

    `label` is given as it stands, whatever it is: whoever reads it says where it is no class. The other names have
    more than one use (a box, a mask or a file may be the `target`), so another kind of value below them is passed
    over, and the name is given with a text.
    """
    if not isinstance(sample, dict):
        return None, None
    by_key = {spelled(key): value for key, value in sample.items()}
    for name in LABEL_COLUMNS:
        value = by_key.get(name)
        if value is not None and (name == _SURE or _may_be_class(value)):
            whole = isinstance(value, float) and value.is_integer()
            text = value if isinstance(value, str) else json.dumps(int(value) if whole else value)
            return text, None if name == _SURE else name
    return None, None


def _may_be_class(value: Any) -> bool:  # noqa: ANN401
    """Whether a value of JSON is a name, the number of a class, or a list of one name."""
    if isinstance(value, list):
        return len(value) == 1 and isinstance(value[0], str)
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, str) or is_whole or (isinstance(value, float) and value.is_integer())
