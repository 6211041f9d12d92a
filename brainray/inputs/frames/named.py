"""Finds the frames that a list names, as `file.dcm#3`, and those of files whose names tell no format, as `IM0001#3`.

Each file is looked up once for all its frames: on a disk its size and first bytes, in a bucket by a request or two.
"""

import threading
from collections import OrderedDict
from concurrent.futures import Future

from brainray import storage
from brainray.errors import StorageError
from brainray.inputs.listed_image import ListedImage
from brainray.inputs.unnamed_files import DICOM, FileFormats
from brainray.inputs.unread import refusal_of_file
from brainray.storage.base import FileInfo

from . import SUFFIXES, is_dicom, split

_KEPT = 10_000  # files that are remembered; rows of a list name the frames of a file one after the other


class NamedFrames:
    """Safe to share between threads."""

    def __init__(self) -> None:
        self._files: OrderedDict[str, Future[FileInfo | None]] = OrderedDict()
        self._lock = threading.Lock()  # guards the above

    def find(self, image: ListedImage) -> ListedImage | None:
        """The frame that a row names; None for any other name. The file may have fewer.

        `size_bytes` of the row is not asked: it is that of the file, or, in rows of a run, of the frame.
        """
        file, _, text = image.uri.rpartition("#")
        if split(f"{file}{SUFFIXES[0]}#{text}") is None:
            return None
        try:
            found = self._file(file)
        except StorageError:
            return image if is_dicom(file) else None  # the read will report the reason
        if found is None:
            return None
        refused = refusal_of_file(found, found.size_bytes)
        number = int(text)
        return image._replace(
            size_bytes=-(-found.size_bytes // number),  # at most, for there are as many frames
            version=found.version,
            container=file,
            offset=number - 1,
            stored_bytes=found.size_bytes,
            refused=refused,
        )

    def _file(self, uri: str) -> FileInfo | None:
        with self._lock:
            known = self._files.get(uri)
            is_new = known is None
            if known is None:
                known = self._files[uri] = Future()
                if len(self._files) > _KEPT:
                    self._files.popitem(last=False)
        if is_new:
            try:
                known.set_result(_look_up(uri))
            except StorageError as exc:
                known.set_exception(exc)
        return known.result()


def _look_up(uri: str) -> FileInfo | None:
    """The DICOM file of that name; None where there is none."""
    found = storage.stat(uri) if storage.is_local(uri) else next(iter(storage.list_files(uri)), None)
    if found is None or found.uri != uri or found.special:
        return None
    return found if is_dicom(uri) or FileFormats(tars=False)(found) == DICOM else None
