"""Label files are text: types, encodings, compression, separators and names of columns."""

import codecs
import gzip

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.each import each
from support.inputs.labelling import CLASSES, labels_of

from brainray.errors import BadRequest
from brainray.inputs.labels.answer_file import read_label_file

TEXT = "image,label\nglïoma/1.jpg,pituitary\n"
WANTED = {"glïoma/1.jpg": "pituitary"}


def labelled(tmp_path, data, name="labels.csv", images=("glïoma/1.jpg",)):
    (tmp_path / name).write_bytes(data)
    return labels_of(tmp_path / "in", list(images), tmp_path / name)


def test_a_number_labels_the_image_that_has_it_as_text(tmp_path):
    (tmp_path / "l.csv").write_text("image,label\n01,pituitary\n")
    found = labels_of(tmp_path / "in", ["n/1", "n/01"], tmp_path / "l.csv", as_list=True)
    assert found == {"n/1": None, "n/01": "pituitary"}


def test_a_message_shows_names_as_they_are_written(tmp_path):
    (tmp_path / "l.csv").write_text("image,label\n00001,glioma\n")
    with pytest.raises(BadRequest, match="'00001'"):
        labels_of(tmp_path / "in", ["a.jpg"], tmp_path / "l.csv")


@each("key", [pa.array([1]), pa.array([1.0]), pa.array([True]), pa.array([[1]]), pa.array([b"1"])])
def test_names_in_parquet_that_are_no_text_are_refused(tmp_path, key):
    pq.write_table(pa.table({"image": key, "label": ["glioma"]}), tmp_path / "l.parquet")
    with pytest.raises(BadRequest, match=r"the column 'image' holds .*; write it as text"):
        read_label_file(str(tmp_path / "l.parquet"), CLASSES)


def test_nested_labels_in_parquet_are_refused(tmp_path):
    pq.write_table(pa.table({"image": ["1.jpg"], "label": [["glioma"]]}), tmp_path / "l.parquet")
    with pytest.raises(BadRequest, match="the column 'label' holds list"):
        read_label_file(str(tmp_path / "l.parquet"), CLASSES)


@each("kind", [pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())])
def test_every_type_of_text_is_read(tmp_path, kind):
    table = pa.table({"image": pa.array(["01.jpg"], kind), "label": pa.array(["glioma"], kind), "x": [[1]]})
    pq.write_table(table, tmp_path / "l.parquet")
    assert labels_of(tmp_path / "in", ["01.jpg"], tmp_path / "l.parquet") == {"01.jpg": "glioma"}


@each(
    "data",
    [
        TEXT.encode(),
        TEXT.encode("utf-8-sig"),
        TEXT.encode("utf-16"),
        codecs.BOM_UTF16_BE + TEXT.encode("utf-16-be"),
        TEXT.encode("utf-32"),
        gzip.compress(TEXT.encode()),
        gzip.compress(TEXT.encode("utf-16")),
        gzip.compress(TEXT[:12].encode()) + gzip.compress(TEXT[12:].encode()),
        TEXT.replace(",", ";").encode(),
        TEXT.replace(",", "\t").encode(),
        TEXT.replace(",", "|").encode(),
        TEXT.replace("\n", "\r\n").encode(),
        TEXT.replace("\n", "\r").encode(),
        ("\n\n" + TEXT + ",\n\n").encode(),
    ],
    ids=[
        "utf-8",
        "utf-8 with its mark",
        "utf-16",
        "utf-16-be",
        "utf-32",
        "gzip",
        "gzip of utf-16",
        "gzip in two pieces",
        "semicolons",
        "tabs",
        "bars",
        "crlf",
        "cr",
        "empty lines",
    ],
)
@each("name", ["labels.csv", "labels.csv.gz", "labels.tsv", "labels.parquet"])
def test_bytes_tell_the_format_and_names_do_not(tmp_path, data, name):
    assert labelled(tmp_path, data, name) == WANTED


def test_parquet_may_have_any_name(tmp_path):
    pq.write_table(pa.table({"image": ["glïoma/1.jpg"], "label": ["pituitary"]}), tmp_path / "l")
    assert labelled(tmp_path, (tmp_path / "l").read_bytes()) == WANTED


@each(
    "name",
    ["image", "filename", "file_name", "image_path", "ImagePath", "key", "uri", "path", "file", "url", "Image Path "],
)
def test_many_names_name_the_image(tmp_path, name):
    assert labelled(tmp_path, TEXT.replace("image", name).replace("label", "Class").encode()) == WANTED


@each(
    ("data", "complaint"),
    [
        (TEXT.encode("latin-1"), r"line 2 is not UTF-8 \(byte 0xef\)"),
        ("imäge,label\n1.jpg,glioma\n".encode("latin-1"), "line 1 is not UTF-8"),
        (gzip.compress(TEXT.encode("latin-1")), "line 2 is not UTF-8"),
        (TEXT.encode("utf-16-le"), "UTF-16 without a byte-order mark"),
        (TEXT.encode("utf-16")[:-1], "is damaged UTF-16 text"),
        (gzip.compress(TEXT.encode() * 99)[:-12], "is a damaged gzip file"),
        (b"\x1f\x8bnothing", "is a damaged gzip file"),
        (b"PK\x03\x04" + bytes(40), "is a zip archive or a spreadsheet"),
        (b"PAR1" + bytes(40), r"labels\.csv: no readable Parquet \("),
        (
            b'image,label\na.jpg,glioma\n"b.jpg,glioma\nc.jpg,glioma\n',
            "the quote in line 3 is not closed",
        ),
        (b"image,label\na.jpg,glioma,x\n", "row 1 has 3 value.s. in place of 2"),
        (b"image,label\n,glioma\n", "row 1 names no image"),
        (b"image,label,Label\na.jpg,glioma,notumor\n", "has 2 columns named label"),
        (bytes(100), "is no text"),
        (b"", "is empty, so no readable CSV"),
    ],
)
def test_what_cannot_be_read_is_refused_in_one_line(tmp_path, data, complaint):
    with pytest.raises(BadRequest, match=complaint) as refused:
        labelled(tmp_path, data)
    assert str(refused.value).startswith(f"--labels {tmp_path}/labels.csv: ")
    assert "\n" not in str(refused.value)


def test_a_quoted_name_may_hold_separators_and_line_ends(tmp_path):
    assert labelled(tmp_path, b'label,image\nglioma,"a;b,\nc.jpg"\n', images=["a;b,\nc.jpg"]) == {
        "a;b,\nc.jpg": "glioma"
    }


@each("spelled", ["", " ", "NA", "n/a", "NaN", "null", "Unknown"])
def test_no_label_is_counted_and_labels_nothing(tmp_path, spelled):
    (tmp_path / "labels.csv").write_text(f"image,label\nglioma/1.jpg,{spelled}\n2.jpg,glioma\n")
    assert labels_of(tmp_path / "in", ["glioma/1.jpg", "2.jpg"], tmp_path / "labels.csv") == {
        "glioma/1.jpg": None,
        "2.jpg": "glioma",
    }
    assert read_label_file(str(tmp_path / "labels.csv"), CLASSES).without_label == 1


def test_unknown_is_a_label_where_it_is_a_class(tmp_path):
    (tmp_path / "l.csv").write_text("image,label\n1.jpg,unknown\n")
    assert read_label_file(str(tmp_path / "l.csv"), ("glioma", "unknown")).without_label == 0


@each("suffix", ["csv", "parquet"])
def test_bucket_and_key_name_an_object(tmp_path, suffix):
    path = tmp_path / f"l.{suffix}"
    path.write_text("label,Bucket,name,Key\nglioma,scans,x,a/1.jpg\n")
    if suffix == "parquet":
        pq.write_table(pa.table({"label": ["glioma"], "bucket": ["scans"], "key": ["a/1.jpg"]}), path)
    label_file = read_label_file(str(path), CLASSES)
    images = (pa.array([name]) for name in ("s3://scans/a/1.jpg", "a/1.jpg", "1.jpg"))
    assert label_file.labels_of(*images).to_pylist() == ["glioma"]


def test_labels_may_be_json_lines(tmp_path):
    data = b'{"image_path": "gl\xc3\xafoma/1.jpg", "Label": "pituitary"}\n'
    assert labelled(tmp_path, gzip.compress(data), "labels.jsonl.gz") == WANTED
