"""Class names: spellings of the same class, and the label of an image from its folders.

Nothing here assumes four classes. The aliases let public copies of the brain-MRI sets work unchanged.
"""

import json
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from urllib.parse import unquote

# Spellings seen in public copies of the brain-MRI sets, compared without case, spaces and punctuation.
_ALIASES = {
    "glioma": ("glioma", "gliomas", "gliomatumor", "gliomatumour"),
    "meningioma": ("meningioma", "meningiomas", "meningiomatumor", "meningiomatumour"),
    "pituitary": ("pituitary", "pituitarytumor", "pituitarytumour", "pituitaryadenoma"),
    "notumor": ("notumor", "notumors", "notumour", "nontumor", "nontumour", "healthy", "normal"),
}
# Names of label columns, in file lists, label files and Parquet archives, compared without case, blanks, hyphens and
# underscores; the first that exists counts. Those that may hold something else count as far as they name classes.
SURE_LABEL_COLUMNS = ("label", "class", "diagnosis", "target", "labels")
UNSURE_LABEL_COLUMNS = ("classname", "labelname", "tumortype", "tumourtype")
LABEL_COLUMNS = SURE_LABEL_COLUMNS + UNSURE_LABEL_COLUMNS
# Names of split folders in public copies, which are above the class folders and no class themselves.
_SPLITS = {"train", "training", "test", "testing", "val", "valid", "validation"}
NO_VALUE = {"", "na", "n/a", "nan", "null", "unknown"}  # in place of a label, compared without case and blanks
_HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"  # the value of rows without one
_CANONICAL = {spelling: name for name, spellings in _ALIASES.items() for spelling in spellings}
# Marks that tell classes apart: `IDH+` and `IDH-`, `+1` and `-1`, `<5` and `>5`, `0.5` and `05`.
_MARKS = re.compile(r"([+<>=≤≥±]|(?<=\d)[.,](?=\d)|^[-−]|[-−]$)|[\W_]")


def _exact(name: str) -> str:
    """A name without blanks around it, in composed characters: a Mac may decompose them where others do not."""
    return unicodedata.normalize("NFC", name.strip())


@lru_cache(4096)  # a data set has few folder names, which are looked up for every image
def _key(name: str) -> str:
    """What is left of a name without case, spaces and punctuation, but for the marks that tell classes apart."""
    return _MARKS.sub(r"\1", _exact(name).strip("_")).casefold()


@lru_cache(4096)
def class_name(name: str) -> str:
    """The canonical name of a class: known spellings become one, others are stripped of spaces and composed."""
    return _CANONICAL.get(_key(name), _exact(name))


def _canonical_key(name: str) -> str:
    return _key(class_name(name))


# How names are compared, the strictest way first.
_FORMS = (str.strip, _exact, _key, _canonical_key)


class ClassLookup:
    """Finds the class of which a name is a spelling. An exact name comes first.

    A spelling that fits two classes fits neither.
    """

    def __init__(self, classes: Iterable[str]) -> None:
        names = list(classes)
        self._by_form = [(form, _unshared(form, names)) for form in _FORMS]
        self.find = lru_cache(4096)(self._find)  # a data set has few folder names, which are looked up for every image

    def _find(self, name: str) -> str | None:
        """The class; None if there is none."""
        return next((found[key] for form, found in self._by_form if (key := form(name)) in found), None)


def _unshared(form: Callable[[str], str], names: Sequence[str]) -> dict[str, str]:
    """The classes by what a form makes of their names; without what it makes of several, or of nothing but marks."""
    shared = Counter(map(form, names))
    return {key: name for name in names if (key := form(name)) and shared[key] == 1}


def spelled_alike(names: Iterable[str]) -> list[str]:
    """The first names that differ only in case, or in what stands between their words; empty where there are none."""
    alike = defaultdict[str, list[str]](list)
    for name in names:
        alike[re.sub(r"[\s_-]+", " ", _exact(name).casefold())].append(name)
    return next((each for each in alike.values() if len(each) > 1), [])


def is_no_value(text: str) -> bool:
    """Whether a text stands where nothing is known: it is a label only where a class is called so."""
    return text.strip().lower() in NO_VALUE


def numbered_classes(metadata: Mapping[bytes, bytes] | None, column: str) -> list[str]:
    """The class names that Hugging Face's `datasets` stores in a Parquet schema for labels that are numbers.

    Empty without them.
    """
    try:
        names = json.loads((metadata or {})[b"huggingface"])["info"]["features"][column]["names"]
    except (ValueError, KeyError, TypeError):
        return []
    return names if isinstance(names, list) and all(isinstance(name, str) for name in names) else []


def numbered_class(number: int, classes: Sequence[str]) -> str | None:
    """The name of a class by its number, from 0; None for -1, which `datasets` writes where no label is known.

    A number that has no name is given as text: it is no class, and whoever reads it says so.
    """
    if number == -1:
        return None
    return classes[number] if 0 <= number < len(classes) else str(number)


def label_from_folders(folders: Sequence[str], lookup: ClassLookup) -> str | None:
    """The label of an image below `folders` (outermost first): the nearest folder whose name is a class.

    A Hive partition such as `label=no%20tumor` counts by its value. Others, as `site=normal`, are no class.
    """
    for folder in reversed(folders):
        label = lookup.find(folder)
        if label is None and (value := hive_label(folder)) is not None:
            label = lookup.find(value)
        if label is not None:
            return label
    return None


@lru_cache(4096)
def hive_label(folder: str) -> str | None:
    """The value of a Hive partition whose key is that of a label column; None for any other folder."""
    key, separator, value = folder.partition("=")
    is_label = separator and value != _HIVE_NULL and _key(key) in LABEL_COLUMNS
    return unquote(value).strip() or None if is_label else None


def class_of_folders(folders: Sequence[str]) -> str | None:
    """The class of a training image below `folders` (outermost first); None outside class folders.

    It is the nearest folder with a known spelling, else that of a Hive partition by label, else the outermost that is
    not the name of a split.
    """
    known = label_from_folders(folders, _KNOWN)
    if known is not None:
        return known
    for folder in reversed(folders):
        if (value := hive_label(folder)) is not None:
            return class_name(value)
    return next((class_name(folder) for folder in folders if not _is_no_class(folder)), None)


def _is_no_class(folder: str) -> bool:
    """Whether a folder is a split, also as `split=train`, or Hive's partition of rows without a label."""
    _, separator, value = folder.partition("=")
    return _key(value if separator else folder) in _SPLITS or value == _HIVE_NULL


_KNOWN = ClassLookup(_ALIASES)
