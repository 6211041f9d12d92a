"""Finds the frames and slices that a list names, as `file.dcm#3`, and those of files without a suffix, as `IM0001#3`.

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

from . import SUFFIXES, is_dicom, nifti, split

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
        named = _named(image.uri)
        if named is None:
            return None
        file, frame = named
        try:
            found = self._file(file)
        except StorageError:
            return image if is_dicom(file) or nifti.is_nifti(file) else None  # the read will report the reason
        if found is None:
            return None
        refused = refusal_of_file(found, found.size_bytes)
        number, volume = (frame, 0) if isinstance(frame, int) else (frame.number + 1, frame.volume)
        return image._replace(
            size_bytes=-(-found.size_bytes // number),  # at most, for there are as many frames
            version=found.version,
            container=file,
            offset=number - 1 + volume * nifti.MOST_SLICES,
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


def _named(uri: str) -> tuple[str, int | nifti.Place] | None:
    """The file and the number of the frame, or the place of the slice, that a name may stand for; else None."""
    in_volume = nifti.split(uri)
    if in_volume is not None:
        return in_volume
    file, _, text = uri.rpartition("#")
    return None if split(f"{file}{SUFFIXES[0]}#{text}") is None else (file, int(text))


def _look_up(uri: str) -> FileInfo | None:
    """The DICOM or NIfTI file of that name; None where there is none."""
    found = storage.stat(uri) if storage.is_local(uri) else next(iter(storage.list_files(uri)), None)
    if found is None or found.uri != uri or found.special:
        return None
    return found if is_dicom(uri) or nifti.is_nifti(uri) or FileFormats(tars=False)(found) == DICOM else None
