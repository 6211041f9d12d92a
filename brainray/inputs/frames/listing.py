"""Asks DICOM files for their frames while they are listed, several at a time and in order.

On a disk every DICOM file is asked, by one read of its first bytes. In a bucket that would be a request for each, so
objects are asked that are larger than a single slice, and of smaller ones a sample. Files whose names tell no format
were looked into for that, and are not read again.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from brainray import storage
from brainray.errors import ImageError, StorageError
from brainray.inputs import archives
from brainray.inputs.listed_image import ListedImage
from brainray.inputs.unnamed_files import FileFormats, read_part
from brainray.storage.base import FileInfo

from . import frame_uri, is_dicom, split_member_frame
from .header import HEAD_BYTES, frames_in
from .sampling import SINGLE_BYTES, AskedSample

_MOST_FRAMES = 100_000  # of a file; an fMRI of an hour has some 100,000
_LEAST_FRAME_BYTES = 16  # of a compressed frame; a header that promises more frames than fit is damaged
_AT_ONCE = 32
_AHEAD = 256
_NUMBERED = "#(frame=)?[1-9][0-9]{0,8}$"
_PLACE = ["uri", "container", "offset", "size_bytes", "stored_bytes"]

Kind = TypeVar("Kind")


class _Entry(NamedTuple, Generic[Kind]):
    """A file whose frames are asked, or known by those of another."""

    file: FileInfo
    kind: Kind
    answer: Future[int] | None = None
    is_own: bool = True


def with_frames(
    files: Iterable[tuple[FileInfo, Kind]], formats: FileFormats | None = None
) -> Iterator[tuple[FileInfo, Kind, int]]:
    """The same files in order, each with its number of frames; 0 or 1 for a single image.

    `formats` has looked into the files whose names tell no format.
    """
    held: deque[_Entry[Kind]] = deque()
    sample = AskedSample()
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="frames") as pool:
        for found, kind in files:
            held.append(_asked(found, kind, sample, pool) if kind is None else _Entry(found, kind))
            while held and (held[0].answer is None or len(held) > _AHEAD):
                yield _answered(held.popleft(), formats)
        while held:
            yield _answered(held.popleft(), formats)


def _asked(found: FileInfo, kind: Kind, sample: AskedSample, pool: ThreadPoolExecutor) -> _Entry[Kind]:
    if not is_dicom(found.uri) or found.archived is not None or found.special:
        return _Entry(found, kind)
    is_sampled = not storage.is_local(found.uri) and found.size_bytes < SINGLE_BYTES
    known = sample.stands_for(found.uri, found.size_bytes) if is_sampled else None
    if known is not None:
        return _Entry(found, kind, known, is_own=False)
    answer = pool.submit(_frames, found)
    if is_sampled:
        sample.add(found.uri, found.size_bytes, answer)
    return _Entry(found, kind, answer)


def is_frame(container: str, name: str, offset: int, size_bytes: int | None, stored_bytes: int | None) -> bool:
    """Whether an image in a container is a frame of a DICOM file; else it is a member of an archive.

    A frame has its number for a name, one more than its offset. Both containers may be without a suffix: a member of a
    tar may be named 513 and begin at byte 512, and is as large as what is stored of it; a frame is a part of its file.
    """
    if archives.kind_of(container) is not None or name != str(offset + 1):
        return False
    return offset == 0 or is_dicom(container) or size_bytes != stored_bytes


def files_of_frames(images: pa.Table) -> pa.Array:
    """The URI of the file of each image of a listing that is a frame; null for any other image."""
    if "container" not in images.column_names or images["container"].null_count == len(images):
        return pa.nulls(len(images), pa.string())
    may_be = pc.and_(pc.is_valid(images["container"]), pc.match_substring_regex(images["uri"], _NUMBERED))
    rows = np.flatnonzero(may_be.to_numpy(zero_copy_only=False))
    files = np.full(len(images), None, object)
    for row, place in zip(rows.tolist(), images.select(_PLACE).take(pa.array(rows)).to_pylist(), strict=True):
        name = place["uri"][len(place["container"]) + 1 :]
        member = split_member_frame(name)
        if member is not None:
            files[row] = archives.member_uri(place["container"], member[0])
        elif is_frame(place["container"], name, *(place[column] for column in _PLACE[2:])):
            files[row] = place["container"]
    return pa.array(files, pa.string())


def frames_of(image: ListedImage, frames: int) -> Iterator[ListedImage]:
    """The rows of a file with several frames; its one row where they cannot be."""
    size_bytes = image.size_bytes or 0
    refused = refusal_of_frames(size_bytes, frames)
    if refused is not None:
        yield image._replace(refused=image.refused or refused)
        return
    for number in range(1, frames + 1):
        yield image._replace(
            uri=frame_uri(image.uri, number),
            size_bytes=-(-size_bytes // frames),
            container=image.uri,
            offset=number - 1,
            stored_bytes=size_bytes,
        )


def refusal_of_frames(size_bytes: int, frames: int) -> str | None:
    """Why a file is not read frame by frame; None where it is."""
    if frames > _MOST_FRAMES:
        return str(ImageError("too_large", f"{frames:,} frames are more than the {_MOST_FRAMES:,} that are read"))
    if frames > size_bytes // _LEAST_FRAME_BYTES:
        words = f"{size_bytes:,} bytes cannot hold the {frames:,} frames of its header"
        return str(ImageError("truncated", words))
    return None


def _answered(entry: _Entry[Kind], formats: FileFormats | None) -> tuple[FileInfo, Kind, int]:
    found, kind, answer, is_own = entry
    if answer is None:
        return found, kind, formats.frames(found.uri) if formats and kind is None else 0
    frames = answer.result()
    return found, kind, frames if is_own or frames <= 1 else _frames(found)


def _frames(found: FileInfo) -> int:
    try:
        return frames_in(read_part(found.uri, 0, min(found.size_bytes, HEAD_BYTES)) or b"")
    except StorageError:  # the read for its pixels will report the reason
        return 0
