"""Finds the frames, pages and slices that a list names, as `file.dcm#3`, also of files without a suffix, `IM0001#3`.

Each file is looked up once for all its frames: on a disk its size and first bytes, in a bucket by a request or two.
A slice has the name that a listing of its file gives it: `#t=0,z=7` is `#z=7` in a file of one volume, and would be
scored twice if it were listed as both.
"""

import threading
from collections import OrderedDict
from concurrent.futures import Future
from typing import NamedTuple

from brainray import storage
from brainray.errors import ImageError, StorageError
from brainray.inputs.listed_image import ListedImage
from brainray.inputs.unnamed_files import DICOM, UNREADABLE, FileFormats
from brainray.inputs.unread import error_of_unread, refusal_of_file
from brainray.storage.base import FileInfo

from . import PACKED, SUFFIXES, frame_uri, is_dicom, nifti, split
from .listing import frames_in_file, unpacked_share
from .nifti.header import Header
from .nifti.listing import Slices
from .pages import is_paged
from .sources import Frames

_KEPT = 10_000  # files that are remembered; rows of a list name the frames of a file one after the other


class _File(NamedTuple):
    """A file that has been looked up."""

    info: FileInfo
    frames: int  # of NIfTI its `Slices`, of a packed file its `Frames`; else 0

    @property
    def slices(self) -> Slices | None:
        """Those of NIfTI, if its first bytes could be read."""
        return self.frames if isinstance(self.frames, Slices) else None

    @property
    def unread(self) -> str | None:
        """Why nothing is known of its frames."""
        unread = self.frames.unread if isinstance(self.frames, Frames) else None
        return None if unread is None else str(unread)


class NamedFrames:
    """Safe to share between threads."""

    def __init__(self) -> None:
        self._files: OrderedDict[str, Future[_File | None]] = OrderedDict()
        self._lock = threading.Lock()  # guards the above

    def find(self, image: ListedImage) -> ListedImage | None:
        """The frame that a row names; None for any other name. The file may have fewer.

        `size_bytes` of the row is not asked: it is that of the file, or, in rows of a run, of the frame. The URI of a
        slice is the one that a listing gives it.
        """
        named = frame_named(image.uri)
        if named is None:
            return None
        file, frame = named
        try:
            found = self._file(file)
        except StorageError as exc:
            # An object may be readable where this user may not list; of a disk a plain file was looked for before.
            is_frame = may_have_frames(file) or storage.is_local(file)
            return _unread_row(image, file, frame, exc) if is_frame else None
        if found is None:
            return None
        if isinstance(frame, nifti.Place):
            return _slice_row(image, found, frame)
        size_bytes = unpacked_share(found.frames, found.info.size_bytes) or _share(found.info, frame)
        return _row(image, found.info, offset=frame - 1, size_bytes=size_bytes)

    def _file(self, uri: str) -> _File | None:
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


def may_have_frames(name: str) -> bool:
    """Whether a file may have frames, pages or slices by its suffix."""
    return is_dicom(name) or is_paged(name) or nifti.is_nifti(name)


def frame_named(uri: str) -> tuple[str, int | nifti.Place] | None:
    """The file and the number of the frame, or the place of the slice, that a name may stand for; else None."""
    in_volume = nifti.split(uri)
    if in_volume is not None:
        return in_volume
    file, _, text = uri.rpartition("#")
    return None if split(f"{file}{SUFFIXES[0]}#{text}") is None else (file, int(text))


def _look_up(uri: str) -> _File | None:
    """The file of that name that may have frames; None where there is none."""
    found = storage.stat(uri) if storage.is_local(uri) else next(iter(storage.list_files(uri)), None)
    if found is None or found.uri != uri or found.special:
        return None
    is_packed = is_dicom(uri) and (uri.lower().endswith(PACKED) or storage.is_local(uri))
    if nifti.is_nifti(uri) or is_packed:
        return _File(found, frames_in_file(found) if found.size_bytes and not found.archived else 0)
    if may_have_frames(uri):
        return _File(found, 0)
    formats = FileFormats(tars=False)
    return _File(found, formats.frames(uri)) if formats(found) in (DICOM, UNREADABLE) else None


def _unread_row(image: ListedImage, file: str, frame: int | nifti.Place, exc: StorageError) -> ListedImage:
    """The row of a frame of a file that cannot be looked up: one that the run has of that name stays."""
    unread = error_of_unread(exc) or ImageError(exc.reason, str(exc))
    offset = frame.number if isinstance(frame, nifti.Place) else frame - 1
    return image._replace(version=None, container=file, offset=offset, stored_bytes=0, refused=str(unread))


def _slice_row(image: ListedImage, file: _File, place: nifti.Place) -> ListedImage:
    header = file.slices.header if file.slices is not None else None
    if file.slices is None or header is None:  # the read will report the reason
        offset = place.number + place.volume * nifti.MOST_SLICES
        row = _row(image, file.info, offset=offset, size_bytes=_share(file.info, place.number + 1))
        row = row._replace(refused=row.refused or file.unread)
    else:
        row = _row(image, file.info, offset=_offset(header, place), size_bytes=header.slice_bytes(place.axis))
        name = nifti.place_name(place, several=header.volumes > 1 or place.volume > 0)
        row = row._replace(uri=frame_uri(file.info.uri, name))
    refused = file.slices.refused if file.slices is not None else None
    return row._replace(refused=row.refused or (None if refused is None else str(refused)))


def _offset(header: Header, place: nifti.Place) -> int:
    return place.volume * header.count(place.axis) + place.number


def _row(image: ListedImage, file: FileInfo, *, offset: int, size_bytes: int) -> ListedImage:
    return image._replace(
        size_bytes=size_bytes,
        version=file.version,
        container=file.uri,
        offset=offset,
        stored_bytes=file.size_bytes,
        refused=refusal_of_file(file, file.size_bytes),
    )


def _share(file: FileInfo, number: int) -> int:
    """The size of a frame at most: there are as many as its number."""
    return -(-file.size_bytes // number)
