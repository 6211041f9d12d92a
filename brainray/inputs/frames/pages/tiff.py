"""Pages of a TIFF file: where they are, and each as a TIFF of its own.

Layout: TIFF 6.0, section 2, and BigTIFF (https://www.awaresystems.be/imaging/tiff/bigtiff.html), whose numbers have 8
bytes. A page is taken over with the tags of its picture; text, EXIF and colour profiles stay behind.
"""

import struct
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from brainray.errors import ImageError, StorageError
from brainray.inputs.frames.sources import Fetch, Image, Once, Spans

HEAD_BYTES = 64 << 10  # most files of one page are read as far when they are listed, and its tags
MOST_PAGES = 10_000
_MOST_TAGS = 4_096
_MOST_VALUE_BYTES = 16 << 20  # of a tag
_MOST_PIECES = 1 << 20  # strips or tiles of a page
_GAP_BYTES = 1 << 20  # between pieces that are read at once
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_NUMBERS = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}  # types of whole numbers
_LONG, _LONG8 = 4, 16
_WIDTH, _HEIGHT = 256, 257
_SUBFILE, _OLD_SUBFILE = 254, 255
_REDUCED_OR_MASK, _OLD_REDUCED = 1 | 4, 2  # bits of the first, value of the second
# Tags that say where bytes of the picture are, and how many: strips, tiles, and the JPEG of old TIFF.
_PLACES = {273: 279, 324: 325, 513: 514}
_OLD_JPEG = (519, 520, 521)  # places of tables, which are left where they are: such pages are not taken out
# Descriptions, XMP, IPTC, Photoshop, profiles, EXIF, GPS and pages within pages: nothing that a picture needs.
_LEFT_OUT = (270, 305, 306, 315, 316, 330, 700, 33432, 33723, 34377, 34665, 34675, 34853, 40965, 50838, 50839)


class _Layout(NamedTuple):
    order: str  # of `struct`
    big: bool

    @property
    def number(self) -> str:
        """The format of places and counts."""
        return self.order + ("Q" if self.big else "I")

    @property
    def width(self) -> int:
        """The bytes of such a number, and of a value that stands in its tag."""
        return 8 if self.big else 4

    @property
    def tag_bytes(self) -> int:
        return 4 + 2 * self.width

    @property
    def tags(self) -> str:
        """The format of the number of tags."""
        return self.order + ("Q" if self.big else "H")


class _Tag(NamedTuple):
    tag: int
    kind: int
    values: int
    value: bytes  # as it stands in the tag: the value, or its place


class _Damaged(Exception):
    pass


class _Window:
    """Reads a file by few requests: what is near what was read last is there."""

    def __init__(self, fetch: Fetch, size_bytes: int) -> None:
        self._fetch, self.size_bytes = fetch, size_bytes
        self._start, self._data = 0, b""

    def read(self, start: int, length: int) -> bytes:
        """Raises `_Damaged` where the file ends before."""
        if start + length > self.size_bytes:
            raise _Damaged
        if not self._start <= start <= start + length <= self._start + len(self._data):
            self._start = start
            self._data = self._fetch(start, min(max(length, HEAD_BYTES), self.size_bytes - start))
        found = self._data[start - self._start :][:length]
        if len(found) < length:
            raise _Damaged
        return found


def pages_of(fetch: Fetch, size_bytes: int) -> list[tuple[int, int]]:
    """Where the tags of each page begin and end, at most one page above `MOST_PAGES`; none of a file that is no TIFF.

    The first picture is a page whatever it says of itself. Raises `StorageError` as `fetch` does.
    """
    window = _Window(fetch, size_bytes)
    pages: list[tuple[int, int]] = []
    seen: set[int] = set()
    try:
        layout, at = _begin(window)
        while at and at not in seen and len(seen) <= 2 * MOST_PAGES and len(pages) <= MOST_PAGES:
            seen.add(at)
            tags, end, following = _tags(window, layout, at)
            if not pages or _is_page(layout, tags):
                pages.append((at, end))
            at = following
    except _Damaged:
        pass  # pages before the damage are there
    return pages


def read_pages(fetch: Fetch, size_bytes: int, numbers: Sequence[int], once: Once) -> tuple[Image, ...]:
    """The pages at these places, from 0, each as a file of its own. `once` may keep the places of a file."""
    pages = once(lambda: _spans(fetch, size_bytes))
    if isinstance(pages, ImageError):
        return (pages,) * len(numbers)
    return tuple(_page(fetch, size_bytes, pages, number) for number in numbers)


def _spans(fetch: Fetch, size_bytes: int) -> Spans:
    return pages_of(fetch, size_bytes) or ImageError("truncated", "it is no TIFF with pages, as it was when listed")


def _page(fetch: Fetch, size_bytes: int, pages: list[tuple[int, int]], number: int) -> Image:
    if number >= len(pages):
        return ImageError("truncated", "the file has no such page")
    try:
        return _alone(_Window(fetch, size_bytes), pages[number][0])
    except StorageError:
        raise
    except ImageError as exc:
        return exc
    except _Damaged:
        return ImageError("truncated", "the file ends within this page, or its tags are damaged")


def _begin(window: _Window) -> tuple[_Layout, int]:
    """The layout, and the place of the first tags."""
    head = window.read(0, 8)
    order = {b"II": "<", b"MM": ">"}.get(head[:2])
    if order is None:
        raise _Damaged
    version = struct.unpack_from(order + "H", head, 2)[0]
    if version not in (42, 43):
        raise _Damaged
    layout = _Layout(order, version == 43)
    at = struct.unpack(layout.number, window.read(8, 8) if layout.big else head[4:])[0]
    return layout, at


def _tags(window: _Window, layout: _Layout, at: int) -> tuple[list[_Tag], int, int]:
    """The tags of a page, where they end, and the place of those of the next page, 0 for none."""
    (count,) = struct.unpack(layout.tags, window.read(at, struct.calcsize(layout.tags)))
    if not 0 < count <= _MOST_TAGS:
        raise _Damaged
    first = at + struct.calcsize(layout.tags)
    end = first + count * layout.tag_bytes + layout.width
    try:
        raw = window.read(first, end - first)
    except _Damaged:  # without the place of the next page, which readers do without, too
        end -= layout.width
        raw = window.read(first, end - first) + bytes(layout.width)
    tags = []
    for place in range(0, count * layout.tag_bytes, layout.tag_bytes):
        tag, kind = struct.unpack_from(layout.order + "HH", raw, place)
        (values,) = struct.unpack_from(layout.number, raw, place + 4)
        value = raw[place + 4 + layout.width : place + layout.tag_bytes]
        tags.append(_Tag(tag, kind, values, value))
    return tags, end, struct.unpack(layout.number, raw[-layout.width :])[0]


def _is_page(layout: _Layout, tags: list[_Tag]) -> bool:
    """Whether tags are those of a picture of its own."""
    small = {tag.tag: _first(layout, tag) for tag in tags if tag.tag in (_SUBFILE, _OLD_SUBFILE)}
    is_copy = small.get(_SUBFILE, 0) & _REDUCED_OR_MASK or small.get(_OLD_SUBFILE) == _OLD_REDUCED
    return not is_copy and {_WIDTH, _HEIGHT} <= {tag.tag for tag in tags}


def _first(layout: _Layout, tag: _Tag) -> int:
    """The value of a tag with one number, which stands in the tag; 0 for any other."""
    kind = layout.order + _NUMBERS.get(tag.kind, "")
    fits = len(kind) == 2 and tag.values == 1 and struct.calcsize(kind) <= layout.width
    return int(struct.unpack_from(kind, tag.value)[0]) if fits else 0


def _alone(window: _Window, at: int) -> bytes:
    """A page as a file of its own. Raises `ImageError` and `_Damaged`."""
    layout, _ = _begin(window)
    tags, _, _ = _tags(window, layout, at)
    if any(tag.tag in _OLD_JPEG for tag in tags):
        raise ImageError("unsupported", "it is a page of old-style JPEG; save it as PNG first")
    by_tag = {tag.tag: tag for tag in tags}
    kept = {tag.tag: tag for tag in tags if tag.tag not in _LEFT_OUT and tag.kind in _SIZES}
    pieces: dict[int, list[bytes]] = {}
    for places, lengths in _PLACES.items():
        if places in by_tag:
            starts = _values(window, layout, by_tag[places])
            pieces[places] = _pieces(window, starts, _lengths(window, layout, by_tag.get(lengths), len(starts)))
    return _file(layout, {tag: (each, _value(window, layout, each)) for tag, each in sorted(kept.items())}, pieces)


def _lengths(window: _Window, layout: _Layout, tag: _Tag | None, pieces: int) -> list[int]:
    found = _values(window, layout, tag) if tag is not None else []
    if len(found) < pieces:
        raise ImageError("truncated", "a page does not say how many bytes its strips have")
    return found


def _value(window: _Window, layout: _Layout, tag: _Tag) -> bytes:
    length = tag.values * _SIZES.get(tag.kind, 1)
    if length <= layout.width:
        return tag.value[:length]
    if length > _MOST_VALUE_BYTES:
        raise _Damaged
    return window.read(struct.unpack(layout.number, tag.value)[0], length)


def _values(window: _Window, layout: _Layout, tag: _Tag) -> list[int]:
    kind = _NUMBERS.get(tag.kind)
    if kind is None or tag.values > _MOST_PIECES:
        raise _Damaged
    return list(struct.unpack(f"{layout.order}{tag.values}{kind}", _value(window, layout, tag)))


def _pieces(window: _Window, starts: list[int], lengths: list[int]) -> list[bytes]:
    """The strips or tiles of a page; those that the file does not hold are short, and will tell when unpacked."""
    size = window.size_bytes
    spans = [(min(start, size), min(start + length, size)) for start, length in zip(starts, lengths, strict=False)]
    if sum(end - start for start, end in spans) > size:
        raise ImageError("truncated", "strips of a page overlap")
    found = []
    for run in _runs(spans):
        begin = run[0][0]
        data = window.read(begin, run[-1][1] - begin) if run[-1][1] > begin else b""
        found += [data[start - begin : end - begin] for start, end in run]
    return found


def _runs(spans: list[tuple[int, int]]) -> list[list[tuple[int, int]]]:
    """The pieces, cut where one does not follow the other closely: each run is one read."""
    runs = [spans[:1]] if spans else []
    for before, span in pairwise(spans):
        if 0 <= span[0] - before[1] <= _GAP_BYTES:
            runs[-1].append(span)
        else:
            runs.append([span])
    return runs


def _file(layout: _Layout, tags: dict[int, tuple[_Tag, bytes]], pieces: dict[int, list[bytes]]) -> bytes:
    """A file of one page: header, tags, the values that do not fit into them, and the picture."""
    begin = 16 if layout.big else 8
    number = _LONG8 if layout.big else _LONG
    at = begin + struct.calcsize(layout.tags) + len(tags) * layout.tag_bytes + layout.width
    behind: list[bytes] = []

    def put(data: bytes) -> int:
        """Add bytes behind the tags, at an even place."""
        nonlocal at
        start, padded = at, data + b"\0" * (len(data) % 2)
        behind.append(padded)
        at += len(padded)
        return start

    entries = []
    for tag, (read, data) in tags.items():
        kind, count = read.kind, read.values
        if tag in pieces:
            places = [put(piece) for piece in pieces[tag]]
            kind, count, data = (
                number,
                len(places),
                struct.pack(f"{layout.order}{len(places)}{layout.number[1]}", *places),
            )
        value = data if len(data) <= layout.width else struct.pack(layout.number, put(data))
        entries.append(
            struct.pack(layout.order + "HH", tag, kind)
            + struct.pack(layout.number, count)
            + value.ljust(layout.width, b"\0")
        )
    mark = b"II" if layout.order == "<" else b"MM"
    head = mark + struct.pack(
        layout.order + ("HHHQ" if layout.big else "HI"), *((43, 8, 0, 16) if layout.big else (42, 8))
    )
    counted = struct.pack(layout.tags, len(entries))
    return b"".join((head, counted, *entries, bytes(layout.width), *behind))
