"""Which files should label an image that has no label in the end: those of which the user should know.

A file of a sample with labelled images, or without any image, is metadata or a caption, and not worth a note.
"""

from array import array
from collections.abc import Callable
from functools import partial

from brainray.inputs.archives.index import Spelled
from brainray.inputs.archives.sample_labels import CLS_REASON, sample_of
from brainray.inputs.class_names import is_no_value

from .label_notes import LabelNotes

_MOST_WAITING = 10_000  # files of a folder, which is listed in the order of names: the image is not far


class SampleNotes:
    """Collects images without a label, and files that may hold one, of one archive, by the hash of their sample."""

    def __init__(self, notes: LabelNotes, *, of_samples: bool) -> None:
        """`of_samples`: whether files of the archive may label images, as in a tar."""
        self._notes = notes
        self._of_samples = of_samples
        self._files: list[tuple[int, Callable[[], None]]] = []  # with what notes them
        self._unlabelled = array("q")  # of up to a million images

    def on_file(self, name: str, uri: str, reason: str, unread: str | None, spelled: Spelled | None) -> None:
        """Take a file that is no image for this reason, with why its label is not read, or its likely label."""
        note: Callable[[], None] | None = None
        if not self._of_samples:
            note = partial(self._notes.add_cls, uri) if reason == CLS_REASON else None
        elif unread:
            note = partial(self._notes.add_unread, uri, unread)
        elif spelled and spelled.key and spelled.key.startswith(".") and self._notes.is_class(spelled.text):
            note = partial(self._notes.add_likely, uri, spelled.key, spelled.text)
        if note is not None:
            self._files.append((hash(sample_of(name)), note))

    def on_image(self, name: str, label: str | None, spelled: Spelled | None) -> None:
        """Take an image with its label, and what its archive says, which may be that none is known."""
        if label is None and not (spelled and is_no_value(spelled.text)):
            self._unlabelled.append(hash(sample_of(name)))

    def add(self) -> None:
        """Note the files whose sample has an image without a label. To be called after the last member."""
        missing = {sample for sample, _ in self._files}.intersection(self._unlabelled)
        for sample, note in self._files:
            if sample in missing:
                note()


class FolderNotes:
    """Notes `.cls` files beside images of a folder without a label, which they do not label there."""

    def __init__(self, notes: LabelNotes) -> None:
        self._notes = notes
        self._waiting: dict[str, str] = {}  # by sample, whose image may follow
        self._last = ""  # image without a label

    def on_file(self, uri: str, reason: str) -> None:
        """Take a file that is no image for this reason."""
        if reason != CLS_REASON:
            return
        if sample_of(uri) == sample_of(self._last):
            self._notes.add_cls(uri)
        elif len(self._waiting) < _MOST_WAITING:
            self._waiting[sample_of(uri)] = uri

    def on_image(self, uri: str, label: str | None) -> None:
        if label is not None:
            return
        self._last = uri
        if self._waiting and (beside := self._waiting.pop(sample_of(uri), None)) is not None:
            self._notes.add_cls(beside)
