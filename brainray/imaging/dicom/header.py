"""Reads the header of a DICOM file with pydicom, whatever the bytes. Decodes no pixels.

What pydicom says may quote values of attributes, names of people among them: its errors are replaced by words of our
own; `inputs.frames.library` silences its warnings and log.
"""

import io
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from brainray.errors import ImageError, ImageReason
from brainray.inputs.frames.header import DEFLATED, HEAD_BYTES, deflated_at, plain_meta
from brainray.inputs.frames.inflated import InflatedFile
from brainray.inputs.frames.library import pydicom_library

if TYPE_CHECKING:
    from pydicom import Dataset
    from pydicom.tag import BaseTag

NO_PIXELS = "it is a DICOM object without pixels, such as a report, a plan or a directory"
_TEXTS = frozenset(("CS", "LO", "SH", "UI", "DS", "IS"))  # types whose values are separated by a backslash
_ESCAPE, _BLANKS = b"\x1b", "\0 \t\r\n\f\v"  # of another character set; what pads a value
_SHARED, _PER_FRAME = "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"
_PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")


def read_header(data: bytes, *, most_inflated: int) -> "Dataset":
    """The data set of a DICOM file. `most_inflated` bytes are unpacked of a deflated one. Raises `ImageError`."""
    pydicom = pydicom_library()
    with as_image_error("truncated", "its DICOM header cannot be read"):
        try:
            dataset: Dataset = pydicom.dcmread(_plain(data, most_inflated), force=True)
        except OSError:  # it looks far back, for the end of a value that does not tell its length
            _check_inflated(data, most_inflated)
            dataset = pydicom.dcmread(io.BytesIO(data), force=True)
        if not len(dataset):
            raise ImageError("truncated", "it ends before its first DICOM attribute")
    return dataset


@contextmanager
def as_image_error(reason: ImageReason, words: str) -> Iterator[None]:
    """Everything that pydicom and its decoders raise becomes an `ImageError`, without their words."""
    try:
        yield
    except ImageError:
        raise
    except MemoryError as exc:
        raise ImageError("too_large", "it takes too much memory to decode") from exc
    except Exception as exc:  # damaged files raise nearly every type there is; none may take down a shard
        raise ImageError(reason, f"{words} ({type(exc).__name__})") from exc


def has(dataset: "Dataset", keyword: str) -> bool:
    """Whether an attribute is there, with a value or not."""
    return _tag(keyword) in dataset.keys()  # noqa: SIM118  asked of the data set itself, it takes five times as long


def value_of(dataset: "Dataset", keyword: str) -> Any:  # noqa: ANN401  an attribute has a value of any type
    """The value of an attribute; None where it is missing, empty or damaged."""
    if not has(dataset, keyword):
        return None
    try:
        value = dataset[_tag(keyword)].value
    except Exception:  # noqa: BLE001  a value is converted when it is asked for, and damaged ones raise anything
        return None
    return None if value is None or value == "" else value


def raw_value(dataset: "Dataset", keyword: str) -> tuple[str, bytes] | None:
    """Type and bytes of an attribute that was not converted yet: pydicom takes ten times as long to convert it."""
    from pydicom.dataelem import RawDataElement

    tag = _tag(keyword)
    try:
        element = dataset.get_item(tag) if has(dataset, keyword) else None
    except Exception:  # noqa: BLE001  one without bytes is converted here, and damaged ones raise anything
        return None
    if not isinstance(element, RawDataElement) or not isinstance(element.value, bytes):
        return None
    if element.VR is None or not element.is_little_endian:
        return (_type(keyword), element.value) if element.is_little_endian else None
    return element.VR, element.value


@cache
def _type(keyword: str) -> str:
    from pydicom.datadict import dictionary_VR

    return dictionary_VR(_tag(keyword))


@cache
def _tag(keyword: str) -> "BaseTag":
    from pydicom.datadict import tag_for_keyword
    from pydicom.tag import Tag

    return Tag(tag_for_keyword(keyword))  # type: ignore[arg-type]  # every keyword here is one of the standard


def texts_of(dataset: "Dataset", keyword: str) -> tuple[str, ...]:
    """The values of a text attribute in capitals, without blanks around them; empty where there are none."""
    raw = raw_value(dataset, keyword)
    if raw is not None and raw[0] in _TEXTS and raw[1].isascii() and _ESCAPE not in raw[1]:
        return tuple(text for each in raw[1].decode("ascii").split("\\") if (text := each.strip(_BLANKS).upper()))
    value = value_of(dataset, keyword)
    if value is None:
        return ()
    values = value if hasattr(value, "__iter__") and not isinstance(value, str | bytes) else (value,)
    return tuple(text for each in values if (text := str(each).strip().upper()))


def number_of(dataset: "Dataset", keyword: str) -> float | None:
    """The first value of a numeric attribute; None where there is none, or it is no number."""
    raw = raw_value(dataset, keyword)
    value: Any
    if raw is not None and raw[0] in ("DS", "IS"):
        value = raw[1].partition(b"\\")[0].strip(b"\0 ")
    elif raw is not None and raw[0] == "US" and len(raw[1]) >= 2:
        value = int.from_bytes(raw[1][:2], "little")
    else:
        value = value_of(dataset, keyword)
    if isinstance(value, list | tuple) or (hasattr(value, "__getitem__") and not isinstance(value, str | bytes)):
        value = value[0] if len(value) else None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if abs(number) < float("inf") else None


def count_of(dataset: "Dataset", keyword: str, otherwise: int = 0) -> int:
    """An attribute that counts something, such as `Rows`."""
    number = number_of(dataset, keyword)
    return otherwise if number is None else int(number)


def has_pixels(dataset: "Dataset") -> bool:
    """Whether there are pixels, of whatever kind."""
    return any(has(dataset, keyword) for keyword in _PIXELS)


def is_no_image(dataset: "Dataset") -> bool:
    """Whether the object is none with pixels: by its class a report, a plan, a document or a directory.

    Scanners keep data of their own under private classes: such an object is no image where it has no rows, although
    it has attributes that come after them. An image that ends before its pixels is one with pixels; so is an object
    without a class.
    """
    from pydicom.uid import UID

    if has_pixels(dataset):
        return False
    meta = getattr(dataset, "file_meta", None)
    held = (*texts_of(dataset, "SOPClassUID"), *(texts_of(meta, "MediaStorageSOPClassUID") if meta is not None else ()))
    if not held:
        return False
    name = UID(held[0]).name
    if name != held[0]:  # a class that pydicom knows
        return "Storage" in name and "Image" not in name
    return not has(dataset, "Rows") and any(tag.group > _tag("Rows").group for tag in dataset.keys())  # noqa: SIM118


def frame_view(dataset: "Dataset") -> "Dataset":
    """The attributes of a frame: those of the data set, and of its functional groups, which enhanced MR has them in.

    Of several frames, those of the first (PS3.3, C.7.6.16).
    """
    if not has(dataset, _PER_FRAME) and not has(dataset, _SHARED):
        return dataset
    view: Dataset = pydicom_library().Dataset()
    view.update(dataset)
    for groups in (_SHARED, _PER_FRAME):
        for group in _items(dataset, groups)[:1]:
            for element in _elements(group):
                for item in _items(group, element)[:1]:
                    view.update(item)
    return view


def _items(dataset: "Dataset", keyword: str) -> list["Dataset"]:
    value = value_of(dataset, keyword)
    try:
        return [item for item in value if hasattr(item, "keys")] if value is not None else []
    except TypeError:
        return []


def _elements(group: "Dataset") -> list[str]:
    """The keywords of the attributes of a functional group, each of which is a sequence of one item."""
    from pydicom.datadict import keyword_for_tag

    return [keyword for tag in list(group.keys()) if (keyword := keyword_for_tag(tag)).endswith("Sequence")]


def _plain(data: bytes, most_inflated: int) -> BinaryIO:
    """The file as one whose data set is not deflated."""
    head = data[:HEAD_BYTES]
    at = deflated_at(head) if DEFLATED.encode() in head else None
    if at is not None:
        return cast("BinaryIO", InflatedFile(plain_meta(head, at), memoryview(data)[at:], most_inflated))
    _check_inflated(data, most_inflated)
    return io.BytesIO(data)


def _check_inflated(data: bytes, most: int) -> None:
    """Raise `too_large` for a deflated data set that would unpack to more bytes: pydicom unpacks all of it."""
    head = data[:HEAD_BYTES]
    if DEFLATED.encode() not in head:
        return
    length = re.search(rb"\x02\0\0\0UL\x04\0(.{4})", head, re.DOTALL)
    start = length.end() + int.from_bytes(length[1], "little") if length else 0
    unpacker, unpacked = zlib.decompressobj(-zlib.MAX_WBITS), 0
    rest = data[start:]
    while rest and not unpacker.eof and unpacked <= most:  # what follows the end stays in the tail for ever
        unpacked += len(unpacker.decompress(rest, 16 << 20))
        rest = unpacker.unconsumed_tail
    if unpacked > most:
        raise ImageError("too_large", f"its data set unpacks to more than {most:,} bytes")
