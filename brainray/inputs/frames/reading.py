"""Reads frames of a DICOM file, each as a DICOM file of its own with one frame, by ranges of the file.

The header is read once for the frames of a read. Attributes that differ by frame, as those of enhanced MR, are
reduced to the frame's.
"""

import io
from collections.abc import Callable, Iterator
from collections.abc import Sequence as Several
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

from brainray.errors import ImageError, StorageError

from .library import pydicom_library

if TYPE_CHECKING:
    from pydicom import Dataset

_FIRST_BYTES = 256 << 10  # of the header; more is read where it is longer, as those of enhanced MR
_LONGEST_HEADER = 64 << 20
_PIXELS = (b"\xe0\x7f\x10\x00", b"\x7f\xe0\x00\x10")  # the tag (7FE0,0010) in little and big endian
_PER_FRAME = "PerFrameFunctionalGroupsSequence"
_ITEM = b"\xfe\xff\x00\xe0"
_NO_OFFSETS = _ITEM + b"\0\0\0\0"
_END = b"\xfe\xff\xdd\xe0\0\0\0\0"
_MOST_OFFSETS = 1 << 22  # bytes of the table of offsets: a million frames

Fetch = Callable[[int, int], bytes]  # start, length -> bytes of the file


class _Header(NamedTuple):
    dataset: "Dataset"
    pixels: int  # where the pixels begin, after tag, type and length
    frames: int
    compressed: bool


def read_frames(fetch: Fetch, size_bytes: int, numbers: Several[int]) -> tuple[bytes | ImageError, ...]:
    """The frames at these places, from 0, which ascend one by one. Raises `StorageError` where a read fails."""
    try:
        header = _header(fetch, size_bytes)
        coded = list(_pixels(fetch, size_bytes, header, numbers))
    except StorageError:
        raise
    except ImageError as exc:
        return (exc,) * len(numbers)
    except Exception as exc:  # noqa: BLE001  damaged files raise nearly every type there is
        error = ImageError("truncated", f"its frames cannot be read ({type(exc).__name__})")
        return (error,) * len(numbers)
    return tuple(_alone(header, number, pixels) for number, pixels in zip(numbers, coded, strict=True))


def _header(fetch: Fetch, size_bytes: int) -> _Header:
    """Read the attributes before the pixels, which may take several reads."""
    pydicom = pydicom_library()
    length = min(size_bytes, _FIRST_BYTES)
    head = b""
    while True:
        head += fetch(len(head), length - len(head))
        stream = io.BytesIO(head)
        try:
            dataset = pydicom.dcmread(stream, stop_before_pixels=True, force=True)
        except Exception:
            if length == size_bytes:
                raise
        else:
            at = stream.tell()
            if head[at : at + 4] in _PIXELS and len(head) >= at + 12:
                return _described(dataset, head, at)
        if length == size_bytes or length >= _LONGEST_HEADER:
            raise ImageError("truncated", "it ends before its pixels")
        length = min(size_bytes, 4 * length)


def _described(dataset: "Dataset", head: bytes, at: int) -> _Header:
    implicit, little = dataset.original_encoding
    order: Any = "little" if little else "big"
    start = at + (8 if implicit else 12)
    compressed = int.from_bytes(head[start - 4 : start], order) == 0xFFFFFFFF
    return _Header(dataset, start, int(dataset.get("NumberOfFrames") or 1), compressed)


def _pixels(fetch: Fetch, size_bytes: int, header: _Header, numbers: Several[int]) -> Iterator[bytes]:
    """The bytes of the pixels of each frame, as they stand in the attribute `PixelData` of a single frame."""
    if header.compressed:
        yield from _compressed(fetch, size_bytes, header, numbers)
        return
    from pydicom.pixels.utils import get_expected_length

    all_bits = 8 * get_expected_length(header.dataset, "pixels") // header.frames * header.dataset.BitsAllocated
    if all_bits % 64:
        raise ImageError("unsupported", "its frames do not begin at whole bytes")
    each = get_expected_length(header.dataset) // header.frames
    start = header.pixels + numbers[0] * each
    data = fetch(start, min(len(numbers) * each, max(0, size_bytes - start)))
    for place in range(len(numbers)):
        yield data[place * each : (place + 1) * each]


def _compressed(fetch: Fetch, size_bytes: int, header: _Header, numbers: Several[int]) -> Iterator[bytes]:
    """Frames by the table of offsets; without one the whole file is read, for frames may have several fragments."""
    head = fetch(header.pixels, min(8, size_bytes - header.pixels))
    if head[:4] != _ITEM:
        raise ImageError("truncated", "its compressed pixels have no table of offsets")
    length = int.from_bytes(head[4:8], "little")
    first = header.pixels + 8 + length
    offsets = _extended(header.dataset)
    if not offsets and length == 4 * header.frames and length <= _MOST_OFFSETS:
        table = fetch(header.pixels + 8, length)
        offsets = [int.from_bytes(table[at : at + 4], "little") for at in range(0, length, 4)]
    if len(offsets) != header.frames:
        yield from _walked(fetch(header.pixels, size_bytes - header.pixels), header, numbers)
        return
    ends = [*offsets, size_bytes - first]
    for start, end in list(pairwise(ends))[numbers[0] : numbers[-1] + 1]:
        items = fetch(first + start, max(0, end - start))
        yield _NO_OFFSETS + items + _END


def _extended(dataset: "Dataset") -> list[int]:
    """The extended table of offsets, of 64 bits each (PS3.3, C.7.6.3.1.8); empty where there is none."""
    table = dataset.get("ExtendedOffsetTable") or b""
    return [int.from_bytes(table[at : at + 8], "little") for at in range(0, len(table), 8)]


def _walked(data: bytes, header: _Header, numbers: Several[int]) -> Iterator[bytes]:
    from pydicom.encaps import encapsulate, generate_frames

    for number, frame in enumerate(generate_frames(data, number_of_frames=header.frames)):
        if number in range(numbers[0], numbers[-1] + 1):
            yield encapsulate([frame], has_bot=False)


def _alone(header: _Header, number: int, pixels: bytes) -> bytes | ImageError:
    """A frame as a file of its own."""
    from pydicom import DataElement, Dataset, Sequence, dcmwrite

    implicit, little = header.dataset.original_encoding
    try:
        alone = Dataset()
        alone.update(header.dataset)
        # Not by assignment, which would change the elements that it shares with the header.
        alone.add(DataElement("NumberOfFrames", "IS", 1))
        for keyword in ("ExtendedOffsetTable", "ExtendedOffsetTableLengths"):
            if keyword in alone:
                delattr(alone, keyword)
        groups = header.dataset.get(_PER_FRAME)
        if groups:
            alone.add(DataElement(_PER_FRAME, "SQ", Sequence([groups[number]])))
        bits = int(header.dataset.BitsAllocated)
        kind = "OB" if header.compressed or bits <= 8 else "OW"
        alone.add(DataElement(0x7FE00010, kind, pixels + b"\0" * (len(pixels) % 2)))
        alone["PixelData"].is_undefined_length = header.compressed
        sink = io.BytesIO()
        if getattr(header.dataset, "file_meta", None):
            alone.file_meta = header.dataset.file_meta
            alone.preamble = b"\0" * 128
            dcmwrite(sink, alone, enforce_file_format=False)
        else:
            dcmwrite(sink, alone, implicit_vr=implicit, little_endian=little)
        return sink.getvalue()
    except Exception as exc:  # noqa: BLE001  damaged files raise nearly every type there is
        return ImageError("truncated", f"its header makes no file of one frame ({type(exc).__name__})")
