"""What the user should know of the labels of a listing: how numbers are read, and which columns label no image.

Each note is one line, and is made once, for the files of one data set are alike.
"""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from urllib.parse import unquote

import pyarrow as pa

from brainray.errors import BadRequest
from brainray.inputs.archives.parquet_images import is_text
from brainray.inputs.class_names import (
    SURE_LABEL_COLUMNS,
    UNSURE_LABEL_COLUMNS,
    ClassLookup,
    hive_label,
    is_no_value,
)
from brainray.inputs.lists.file_lists import FileList, open_table
from brainray.inputs.tables.table_columns import spelled

# Names that columns of labels have, too, but not only these: such a column is taken for none.
_LIKELY = (
    "category", "y", "groundtruth", "tumor", "tumour", "disease", "pathology", "labelid", "classid",
    *UNSURE_LABEL_COLUMNS,
)  # fmt: skip
_SHOWN = 8
_FIRST = 1_000  # rows that tell whether a column holds classes
_NAMES = "label, class, diagnosis or target"


class LabelNotes:
    """Collects the notes. With a label file (`silent`) the columns of inputs do not matter, and none is noted."""

    def __init__(self, classes: Sequence[str], *, silent: bool) -> None:
        self._classes = classes
        self._lookup = ClassLookup(classes)
        self._silent = silent
        self._about: set[object] = set()
        self._archive_seen = False
        self._no_values = 0  # labels that are NA or the like
        self._unread = 0  # files with a label that is not read
        self._first_unread = ""
        self._lines: list[str] = []

    @property
    def lines(self) -> list[str]:
        """The notes so far; last those with counts, which grow to the end."""
        no_values = f"{self._no_values:,} image(s) have a label that says none is known (NA, unknown or the like)"
        unread = (
            f"{self._unread:,} file(s) that may hold labels label no image, such as {self._first_unread}; "
            "correct them, or give --labels"
        )
        return [*self._lines, *([no_values] if self._no_values else []), *([unread] if self._unread else [])]

    def is_no_value(self, label: str) -> bool:
        """Whether a label that is no class says that none is known, as `NA`. Counts those that do."""
        found = is_no_value(label)
        self._no_values += found and not self._silent
        return found

    def is_class(self, text: str) -> bool:
        return self._lookup.find(text) is not None

    def add_unread(self, uri: str, why: str) -> None:
        """Count a file of an archive whose label is not read, for this reason."""
        if not self._silent:
            self._first_unread = self._first_unread or f"{uri} ({why})"
            self._unread += 1

    def add_unused(self, uri: str, what: str) -> None:
        """Note that a column of labels cannot be read; `what` names it and its type."""
        self._add(
            what,
            f"--input {uri}: {what}, and labels no image; write the names of classes as text, or give --labels",
        )

    def add_numbers(self) -> None:
        """Note how numbers are read, for another data set may count its classes otherwise."""
        order = ", ".join(f"{number} {name}" for number, name in enumerate(self._classes))
        self._add(
            "numbers", f"labels that are numbers name the classes in the model's order: {order}; else give --labels"
        )

    def add_no_class(self, uri: str, key: str, label: str) -> None:
        """Note that a text is no class, which stands below a name with more than one use.

        That is a key in the JSON of a WebDataset sample, or a column of a Parquet file of images; "" where an archive,
        of which a list names members, has the text in any place for labels.
        """
        if not key:
            self._add(
                ("key", key),
                f"--input {uri}: {label[:80]!r}, the label that its archive gives it, is no class of the model and "
                "labels nothing; the same goes for others; correct them in the archive, or give --labels",
            )
            return
        self._add(
            ("key", key),
            f"--input {uri}: {label[:80]!r}, its {key}, is no class of the model and no label; the same goes for "
            f"others below {key}; name the classes below label, or give --labels",
        )

    def add_cls(self, uri: str) -> None:
        """Note a file with the label of a WebDataset sample that lies in no tar, where it labels nothing."""
        self._add("cls", f"--input {uri}: .cls files label images in tars only; give --labels, a table")

    def add_likely(self, uri: str, suffix: str, text: str) -> None:
        """Note a file of a WebDataset sample whose text is a class, but whose suffix is not that of labels."""
        self._add(
            ("likely", suffix),
            f"--input {uri}: holds {text!r} and labels no image, and so do others that end in {suffix}; "
            "name them .cls, or give --labels",
        )

    def add_folders(self, folders: Sequence[str]) -> None:
        """Note a Hive partition that labels nothing, among the folders of an image without a label.

        Its value is no class, or its value is one and its key has a likely name.
        """
        if self._silent:
            return
        for folder in folders:
            key, separator, text = folder.partition("=")
            if separator and spelled(key) in _LIKELY and self._lookup.find(unquote(text)) is not None:
                self._add(
                    ("hive", key),
                    f"the folder {folder} labels no image; if {key} labels images, name it label ({_NAMES} serve), or "
                    "give --labels",
                )
            elif separator and (value := hive_label(folder)) is not None:
                self._add(
                    "hive",
                    f"the folder {folder} labels no image, for {value!r} is no class of the model, which knows "
                    f"{', '.join(self._classes)}; the same goes for others; give --labels if they are labels",
                )

    def add_columns_of_archive(self, uri: str) -> None:
        """As `add_columns`, for a Parquet file of images. Looks at the first one only, and at none in a bucket.

        There it would take another request.
        """
        if self._silent or self._archive_seen or uri.startswith("s3://"):
            return
        self._archive_seen = True
        with suppress(BadRequest):  # it was listed a moment ago, and a note is not worth the run
            table = open_table(uri)
            if table is not None:
                self.add_columns(table)

    def with_labels(self, table: FileList) -> FileList:
        """The list, whose column of labels holds classes if its name does not say so; see `add_columns`."""
        column = None if self._silent else table.label_column
        if (
            column is not None
            and spelled(column) in UNSURE_LABEL_COLUMNS
            and not self._are_classes(_first_labels(table, column))
        ):
            table = replace(table, label_names=SURE_LABEL_COLUMNS)
        self.add_columns(table)
        return table

    def add_columns(self, table: FileList) -> None:
        """Note a column that seems to hold labels, where none has a name of labels."""
        if self._silent or table.labelled:
            return
        column = self._likely(table)
        if column is not None:
            shown = ", ".join(table.names[:_SHOWN]) + (", ..." if len(table.names) > _SHOWN else "")
            self._add(
                ("columns", table.names),
                f"--input {table.uri}: none of its columns ({shown}) labels the images; if {column} does, name it "
                f"label ({_NAMES} serve), or give --labels",
            )

    def _likely(self, table: FileList) -> str | None:
        """The column whose first values are names of classes only, or that has a likely name."""
        by_value = (name for name, texts in table.first_texts().items() if self._are_classes(texts))
        by_name = (name for name in table.names if spelled(name) in _LIKELY)
        return next((name for names in (by_value, by_name) for name in names), None)

    def _are_classes(self, texts: Iterable[str | None]) -> bool:
        values = {text for text in texts if text and not is_no_value(text)}
        return bool(values) and all(self._lookup.find(value) is not None for value in values)

    def _add(self, about: object, line: str) -> None:
        if not self._silent and about not in self._about:
            self._about.add(about)
            self._lines.append(line)


def _first_labels(table: FileList, column: str) -> list[str | None]:
    """The first labels of a list; none where their column is of neither text nor numbers."""
    kind = table.columns[column]
    if not (is_text(kind) or pa.types.is_integer(kind)):
        return []
    return [row.label for row in islice(table.rows(), _FIRST)]
