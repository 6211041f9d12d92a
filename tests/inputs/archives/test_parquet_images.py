"""The layouts of images in Parquet that other tools write, and what is said of those that are not read."""

import io

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from support.each import each
from support.inputs.archive_rows import contents, parquet_of

from brainray.errors import BadRequest
from brainray.inputs.archives import NotAnArchive, list_members
from brainray.inputs.lists.file_lists import open_file_list

HF = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
SPARK = pa.struct(
    {"origin": pa.string(), "height": pa.int32(), "width": pa.int32(), "nChannels": pa.int32(), "mode": pa.int32()}
    | {"data": pa.binary()}
)


@each("kind", [pa.large_binary(), pa.binary_view(), pa.binary(2), "dictionary"])
@each("group", [1, 5])
def test_every_binary_type_is_read(kind, group):
    values = [b"x1", b"x2", b"x1", None]
    column = pa.array(values).dictionary_encode() if kind == "dictionary" else pa.array(values, kind)
    found = contents("parquet", parquet_of({"image": column, "id": list("abcd")}, row_group_size=group))
    assert str(found.pop("3")) == "empty: row 3 has no image"
    assert found == {"0": b"x1", "1": b"x2", "2": b"x1"}


def test_a_row_with_a_path_only_says_so():
    images = [{"bytes": None, "path": "a/1.jpg"}, {"bytes": b"x", "path": None}, None, {"bytes": None, "path": None}]
    images += [{"bytes": None, "path": "2" * 300}] * 40
    found = contents("parquet", parquet_of({"image": pa.array(images, HF)}, row_group_size=30))
    told = "unsupported: row 0 has no bytes, only the path 'a/1.jpg'; list such paths in a column uri"
    assert str(found["0"]) == told
    assert (found["1"], str(found["2"]), str(found["3"])) == (b"x", *(f"empty: row {k} has no image" for k in (2, 3)))
    assert "row 43 has no bytes, only the path '...222" in str(found["43"])


def spark_image(pixels, mode, **changed):
    height, width = pixels.shape[:2]
    data = np.ascontiguousarray(pixels[..., ::-1] if pixels.ndim == 3 else pixels).tobytes()
    image = {"origin": "file:/1.jpg", "height": height, "width": width, "nChannels": 1, "mode": mode, "data": data}
    return image | changed


def test_pixels_in_the_image_schema_of_spark_are_read():
    colour = np.arange(36, dtype=np.uint8).reshape(3, 4, 3)
    grey = colour[..., 0]
    images = [spark_image(colour, 16), spark_image(grey, 0), spark_image(grey, 24), spark_image(colour, 16, width=5)]
    images += [spark_image(grey, 0, data=None), None]
    found = contents("parquet", parquet_of({"image": pa.array(images, SPARK)}))
    for row, pixels in (("0", colour), ("1", grey)):
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(found[row]))), pixels)
    assert str(found["2"]) == "unsupported: has OpenCV's type 24; only 0 (grey) and 16 (BGR) are read"
    assert str(found["3"]) == "truncated: has 36 bytes for 5 x 3 x 3 pixels"
    assert [found[row].reason for row in "45"] == ["empty", "empty"]


@each(
    ("columns", "seen"),
    [
        ({"images": pa.array([[{"bytes": b"x", "path": "1"}]], pa.list_(HF))}, "images is list<.*several images a row"),
        ({"views": pa.array([[b"x"]])}, "views is list<.*several images a row"),
        ({"image": pa.array([[[1, 2], [3, 4]]])}, "image is list<.*pixels; write encoded images"),
        ({"image": ["/9j/4AAQSkZJRg=="]}, "image is string, text; decode base64 to binary"),
        ({"img": pa.array([{"bytes": "/9j/", "path": "1"}])}, "img is struct<.*without binary bytes"),
    ],
)
def test_what_looks_like_images_and_is_not_read_is_told(tmp_path, columns, seen):
    data = parquet_of({"id": [1], **columns})
    with pytest.raises(NotAnArchive, match=rf"Parquet without images \(its column {seen}"):
        list(list_members("parquet", io.BytesIO(data)))
    (tmp_path / "t.parquet").write_bytes(data)
    told = f"is no list of images.*has id, .*; its column {seen}"
    if "base64" in seen:  # a column of text may name the images, too: its values tell
        told = "row 1 has '/9j/.*' … in its column image, which is no name of an image"
    with pytest.raises(BadRequest, match=told):
        list(open_file_list(str(tmp_path / "t.parquet")).rows())


def test_a_digest_of_fixed_size_is_no_image():
    with pytest.raises(NotAnArchive, match=r"^Parquet without images$"):
        list(list_members("parquet", io.BytesIO(parquet_of({"id": [1], "md5": pa.array([b"x" * 16], pa.binary(16))}))))
