"""Images as the cells of a Parquet column hold them: encoded, or as pixels in Spark's image schema.

Also says what a column holds that looks like images and is not read.
"""

from typing import Any

import pyarrow as pa
from pyarrow import types

from brainray.errors import ImageError

# Names of columns of images. The first that exists holds the images, where several columns are binary.
BYTES_COLUMNS = ("image", "img", "bytes", "image_bytes", "content", "data", "jpg", "jpeg", "png")
_LONGEST_TYPE, _LONGEST_PATH = 80, 200  # characters in a message
# https://spark.apache.org/docs/latest/ml-datasource.html#image-data-source
_SPARK_FIELDS = {"origin", "height", "width", "nChannels", "mode", "data"}
_PIXEL_FORMATS = {0: (1, b"P5"), 16: (3, b"P6")}  # OpenCV's CV_8UC1 and CV_8UC3 -> channels, magic of PGM and PPM


class NotAnArchive(Exception):
    """The Parquet file has no column of images, such as a table of labels."""


def image_path(field: pa.Field) -> str | None:
    """The path of a column of images: binary, `bytes` in a struct (Hugging Face), Spark's schema; None for others."""
    kind = field.type
    if is_binary(kind) or (types.is_fixed_size_binary(kind) and _is_named_image(field)) or is_spark_image(kind):
        return str(field.name)
    return f"{field.name}.bytes" if _has_bytes(kind) else None


def is_binary(kind: pa.DataType) -> bool:
    kind = kind.value_type if types.is_dictionary(kind) else kind
    return any(fits(kind) for fits in (types.is_binary, types.is_large_binary, types.is_binary_view))


def is_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if types.is_dictionary(kind) else kind
    return any(fits(kind) for fits in (types.is_string, types.is_large_string, types.is_string_view))


def is_spark_image(kind: pa.DataType) -> bool:
    named = types.is_struct(kind) and {field.name for field in kind} >= _SPARK_FIELDS
    return bool(named and is_binary(kind[kind.get_field_index("data")].type))


def encoded(value: Any, row: str) -> bytes | ImageError:  # noqa: ANN401 - what the column holds
    """The image of a row as a file. The pixels of Spark's schema become a PGM or PPM."""
    if value is None or (isinstance(value, dict) and value["data"] is None):
        return ImageError("empty", f"row {row} has no image")
    return _portable_pixmap(value) if isinstance(value, dict) else value


def is_empty(image: bytes | ImageError | None) -> bool:
    return isinstance(image, ImageError) and image.reason == "empty"


def path_column(schema: pa.Schema, image_column: str) -> str | None:
    """The path of `path` beside the `bytes` of Hugging Face's images; None where there is none."""
    name, dot, _ = image_column.rpartition(".bytes")
    kind = schema.field(name).type if dot and name in schema.names else None
    if kind is None or (k := kind.get_field_index("path")) < 0:
        return None
    return f"{name}.path" if is_text(kind[k].type) else None


def only_a_path(row: str, path: str) -> ImageError:
    shown = path if len(path) <= _LONGEST_PATH else f"...{path[-_LONGEST_PATH:]}"
    return ImageError(
        "unsupported", f"row {row} has no bytes, only the path {shown!r}; list such paths in a column uri"
    )


def not_read(schema: pa.Schema) -> str | None:
    """Which column looks like images, and why it is not read; None where none does."""
    for field in schema:
        kind = getattr(field.type, "storage_type", field.type)  # of an extension type, such as Hugging Face's Array2D
        why = None
        if _is_list(kind) and (is_binary(kind.value_type) or _has_bytes(kind.value_type)):
            why = "several images a row; write one image a row"
        elif not _is_named_image(field):
            continue
        elif _is_list(kind):
            why = "pixels; write encoded images (JPEG, PNG) as binary"
        elif is_text(kind):
            why = "text; decode base64 to binary, and name a column of paths uri"
        elif types.is_struct(kind):
            why = "without binary bytes; write encoded images (JPEG, PNG) as binary"
        if why is not None:
            return f"its column {field.name} is {str(field.type)[:_LONGEST_TYPE]}, {why}"
    return None


def _portable_pixmap(image: dict[str, Any]) -> bytes | ImageError:
    """Spark's image as a PGM or PPM: rows from the top, and RGB in place of OpenCV's BGR."""
    width, height, mode, data = (image[name] for name in ("width", "height", "mode", "data"))
    if mode not in _PIXEL_FORMATS:
        return ImageError("unsupported", f"has OpenCV's type {mode}; only 0 (grey) and 16 (BGR) are read")
    channels, magic = _PIXEL_FORMATS[mode]
    if not width or not height or min(width, height) < 0 or len(data) != width * height * channels:
        return ImageError("truncated", f"has {len(data):,} bytes for {width} x {height} x {channels} pixels")
    pixels = bytearray(data)
    if channels == 3:
        pixels[0::3], pixels[2::3] = data[2::3], data[0::3]
    return b"%s\n%d %d\n255\n%s" % (magic, width, height, pixels)


def _is_named_image(field: pa.Field) -> bool:
    return field.name.strip().lower() in (*BYTES_COLUMNS, "images")


def _has_bytes(kind: pa.DataType) -> bool:
    return bool(types.is_struct(kind) and (k := kind.get_field_index("bytes")) >= 0 and is_binary(kind[k].type))


def _is_list(kind: pa.DataType) -> bool:
    return any(fits(kind) for fits in (types.is_list, types.is_large_list, types.is_fixed_size_list))
