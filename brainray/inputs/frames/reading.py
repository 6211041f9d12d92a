"""Reads frames of a DICOM file, each as a DICOM file of its own with one frame, by ranges of the file.

The header is read once for the frames of a read. Attributes that differ by frame, as those of enhanced MR, are
reduced to the frame's. A file that is packed as a whole is unpacked first.
"""

import io
from array import array
from collections.abc import Callable, Iterator
from collections.abc import Sequence as Several
from itertools import islice, pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

from brainray.errors import ImageError, StorageError

from .library import pydicom_library
from .packed import is_deflated, is_packed, unpack
from .sources import Fetch, Image, Keep, Once, Spans, Unpacked, within

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
_MOST_FRAGMENTS = 1 << 20
_WALK_BYTES = 1 << 20  # of a read in search of fragments: few requests of a bucket, and few bytes between large ones
_END_OF_PICTURE, _NEAR_END = b"\xff\xd9", 10  # of JPEG, JPEG-LS and JPEG 2000; bytes after it may fill the fragment
_RLE = "1.2.840.10008.1.2.5"  # each frame is one fragment (PS3.5, A.4.2)


def _made(make: Callable[[], Spans]) -> Spans:
    return make()


def _unpacked(make: Callable[[], Unpacked]) -> Unpacked:
    return make()


class _Header(NamedTuple):
    dataset: "Dataset"
    pixels: int  # where the pixels begin, after tag, type and length
    frames: int
    compressed: bool
    swapped: bool  # pixels of 8 bits in words of 16, big endian


def read_frames(
    fetch: Fetch, size_bytes: int, numbers: Several[int], once: Once = _made, keep: Keep = _unpacked
) -> tuple[Image, ...]:
    """The frames at these places, from 0, which ascend one by one. Raises `StorageError` where a read fails.

    `once` may keep the places of compressed frames, and `keep` a packed file, for other reads of the same file.
    """
    head = fetch(0, min(size_bytes, _FIRST_BYTES))
    if not is_packed(head):
        return _frames(head, fetch, size_bytes, numbers, once)
    plain = keep(lambda: _unpack(fetch, size_bytes))
    if isinstance(plain, ImageError):
        return (plain,) * len(numbers)
    return _frames(plain[:_FIRST_BYTES], within(plain), len(plain), numbers, once)


def _unpack(fetch: Fetch, size_bytes: int) -> Unpacked:
    try:
        return unpack(fetch, size_bytes)
    except ImageError as exc:
        return exc
    except MemoryError:
        return ImageError("too_large", "it takes too much memory to unpack")


def _frames(head: bytes, fetch: Fetch, size_bytes: int, numbers: Several[int], once: Once) -> tuple[Image, ...]:
    """The frames of a file that is not packed, which begins with `head`."""
    found: list[bytes | ImageError] = []
    rest = ImageError("truncated", "the file has no such frame")
    try:
        header = _header(head, fetch, size_bytes)
        there = [number for number in numbers if number < header.frames]
        for number, pixels in zip(there, _pixels(fetch, size_bytes, header, there, once), strict=False):
            found.append(pixels if isinstance(pixels, ImageError) else _alone(header, number, pixels))
        if len(found) < len(there):
            rest = ImageError("truncated", "the file ends before this frame")
    except StorageError:
        raise
    except ImageError as exc:
        rest = exc
    except Exception as exc:  # noqa: BLE001  damaged files raise nearly every type there is
        rest = ImageError("truncated", f"its frames cannot be read ({type(exc).__name__})")
    return (*found, *[rest] * (len(numbers) - len(found)))


def _header(head: bytes, fetch: Fetch, size_bytes: int) -> _Header:
    """Read the attributes before the pixels, which may take more reads than that of `head`."""
    pydicom = pydicom_library()
    length = min(size_bytes, _FIRST_BYTES)
    while True:
        head += fetch(len(head), length - len(head)) if len(head) < length else b""
        if is_deflated(head):
            raise ImageError("truncated", "its DICOM header is longer than any, or deflated again")
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
    is_swapped = not little and head[at + 4 : at + 6] == b"OW" and int(dataset.BitsAllocated) <= 8
    return _Header(dataset, start, int(dataset.get("NumberOfFrames") or 1), compressed, is_swapped)


def _pixels(
    fetch: Fetch, size_bytes: int, header: _Header, numbers: Several[int], once: Once
) -> Iterator[bytes | ImageError]:
    """The bytes of the pixels of each frame, as they stand in the attribute `PixelData` of a single frame."""
    if not numbers:
        return
    if header.compressed:
        yield from _compressed(fetch, size_bytes, header, numbers, once)
        return
    from pydicom.pixels.utils import get_expected_length

    all_bits = 8 * get_expected_length(header.dataset, "pixels") // header.frames * header.dataset.BitsAllocated
    if all_bits % 64:
        raise ImageError("unsupported", "its frames do not begin at whole bytes")
    each = get_expected_length(header.dataset) // header.frames
    before = numbers[0] * each % 2 * header.swapped  # words are read whole
    start = header.pixels + numbers[0] * each - before
    length = before + len(numbers) * each
    data = fetch(start, min(length + length % 2 * header.swapped, max(0, size_bytes - start)))
    if header.swapped:
        data = _swapped(data)[before:]
    for place in range(-(-len(data) // each) if each else 0):
        yield data[place * each : (place + 1) * each]


def _swapped(data: bytes) -> bytes:
    words = array("H", data[: len(data) // 2 * 2])
    words.byteswap()
    return words.tobytes()


def _compressed(
    fetch: Fetch, size_bytes: int, header: _Header, numbers: Several[int], once: Once
) -> Iterator[bytes | ImageError]:
    spans = once(lambda: _spans(fetch, size_bytes, header))
    if isinstance(spans, ImageError):
        raise spans
    for start, end in spans[numbers[0] : numbers[-1] + 1]:
        items = _whole_items(fetch(start, end - start))
        if items is None:
            yield ImageError("truncated", "its compressed pixels are cut, or not where its table of offsets says")
        else:
            yield _NO_OFFSETS + items + _END


def _spans(fetch: Fetch, size_bytes: int, header: _Header) -> Spans:
    """Where each frame is, by the table of offsets, or by the fragments where there is none that can be right."""
    head = fetch(header.pixels, min(8, size_bytes - header.pixels))
    if head[:4] != _ITEM:
        return ImageError("truncated", "its compressed pixels have no table of offsets")
    length = int.from_bytes(head[4:8], "little")
    first = header.pixels + 8 + length
    offsets = _extended(header.dataset)
    if not offsets and length == 4 * header.frames and length <= _MOST_OFFSETS and first <= size_bytes:
        table = fetch(header.pixels + 8, length)
        offsets = [int.from_bytes(table[at : at + 4], "little") for at in range(0, length, 4)]
    is_right = len(offsets) == header.frames and offsets[0] == 0 and all(a < b for a, b in pairwise(offsets))
    if is_right:
        starts = [first + offset for offset in offsets if first + offset < size_bytes]  # a cut file lacks the others
        return list(pairwise([*starts, size_bytes]))
    return _by_fragments(fetch, size_bytes, header, first)


def _by_fragments(fetch: Fetch, size_bytes: int, header: _Header, first: int) -> Spans:
    """Where each frame is: one fragment each, else up to the fragment that ends a picture."""
    fragments = list(islice(_fragments(fetch, size_bytes, first), _MOST_FRAGMENTS + 1))
    if len(fragments) > _MOST_FRAGMENTS:
        return ImageError("truncated", f"it has more than {_MOST_FRAGMENTS:,} fragments of compressed pixels")
    meta = getattr(header.dataset, "file_meta", None)
    if len(fragments) == header.frames or (meta and meta.get("TransferSyntaxUID") == _RLE):
        return [(start, end) for start, end, _ in fragments]
    ends = [end for _, end, is_last in fragments if is_last]
    if not ends:
        return ImageError("truncated", "its compressed pixels do not tell where a frame ends")
    return list(pairwise([first, *ends]))


def _fragments(fetch: Fetch, size_bytes: int, first: int) -> Iterator[tuple[int, int, bool]]:
    """Where each whole fragment begins and ends, and whether a picture ends in it; reads little of large ones."""
    at, previous, begins, held = first, first, first, b""
    while at + 8 <= size_bytes:
        if not begins <= at <= begins + len(held) - 8:
            begins = max(first, at - _NEAR_END)
            held = fetch(begins, min(_WALK_BYTES, size_bytes - begins))
        here = at - begins
        if at > first:
            yield previous, at, _END_OF_PICTURE in held[max(0, here - _NEAR_END) : here]
        if held[here : here + 4] != _ITEM:
            return
        previous, at = at, at + 8 + int.from_bytes(held[here + 4 : here + 8], "little")
    if first < at <= size_bytes:
        yield previous, at, _END_OF_PICTURE in fetch(max(first, at - _NEAR_END), min(_NEAR_END, at - first))


def _whole_items(data: bytes) -> bytes | None:
    """The items at the beginning of `data`; None where there is none, or one is cut."""
    at = 0
    while data[at : at + 4] == _ITEM:
        at += 8 + int.from_bytes(data[at + 4 : at + 8], "little")
    return data[:at] if 0 < at <= len(data) else None


def _extended(dataset: "Dataset") -> list[int]:
    """The extended table of offsets, of 64 bits each (PS3.3, C.7.6.3.1.8); empty where there is none."""
    table = dataset.get("ExtendedOffsetTable") or b""
    return [int.from_bytes(table[at : at + 8], "little") for at in range(0, len(table), 8)]


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
            syntax = header.dataset.file_meta.get("TransferSyntaxUID")
            is_public = syntax is None or (syntax.is_transfer_syntax and not syntax.is_private)
            order = (None, None) if is_public else (implicit, little)
            dcmwrite(sink, alone, implicit_vr=order[0], little_endian=order[1])
        else:
            dcmwrite(sink, alone, implicit_vr=implicit, little_endian=little)
        return sink.getvalue()
    except Exception as exc:  # noqa: BLE001  damaged files raise nearly every type there is
        return ImageError("truncated", f"its header makes no file of one frame ({type(exc).__name__})")
