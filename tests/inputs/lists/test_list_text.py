"""Lists of text: encoding, compression, separator and kind are taken from the bytes; columns have many names."""

import codecs
import gzip
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import orc
from support.each import each
from support.scoring.runs import request_for

from brainray.errors import BadRequest
from brainray.inputs.labels.answer_file import read_label_file
from brainray.inputs.labels.group_file import read_group_file
from brainray.inputs.lists.file_lists import open_file_list, open_table
from brainray.inputs.tables.text_stream import TextStream
from brainray.scoring.plan import plan_run

TEXT = "image,patient\nglïoma/1.jpg,007\n2.jpg,\n"
LINES = '{"image": "glïoma/1.jpg", "patient": "007"}\n\n{"image": "2.jpg", "more": [1]}\n'
WANTED = [("glïoma/1.jpg", '["007"]'), ("2.jpg", "[null]")]


def rows_of(path, data, keep=()):
    path.write_bytes(data)
    found = list(open_file_list(str(path)).rows(keep))
    return [(row.uri.removeprefix(f"{path.parent}/"), row.kept) for row in found]


def plan_of(root, bundle, tmp_path):
    return plan_run(request_for(root, tmp_path / "run", bundle), str(tmp_path / "scratch"))


def names_of(path, data):
    return [uri for uri, _ in rows_of(path, data)]


@each("name", ["list.csv", "list.csv.gz", "list.tsv", "list.txt", "List.TXT.GZ", "list.jsonl"])
@each(
    "data",
    [
        TEXT.encode("utf-8-sig"),
        TEXT.encode("utf-16"),
        codecs.BOM_UTF16_BE + TEXT.encode("utf-16-be"),
        gzip.compress(TEXT.encode("utf-32")),
        gzip.compress(TEXT[:20].encode()) + gzip.compress(TEXT[20:].encode()),
        TEXT.replace(",", ";").encode(),
        TEXT.replace(",", "\t").encode(),
        TEXT.replace(",", "|").replace("\n", "\r\n").encode(),
        TEXT.replace("\n", "\r").encode(),
        (TEXT + ",\n , \n\n").encode(),
        LINES.encode(),
        gzip.compress(LINES.encode("utf-16")),
    ],
    ids=["mark", "utf-16", "utf-16-be", "gzip", "gzip2", ";", "tab", "|", "cr", "blank rows", "json", "json.gz"],
)
def test_bytes_tell_the_format_and_names_do_not(tmp_path, data, name):
    assert rows_of(tmp_path / name, data, keep=("patient",)) == WANTED


def test_a_column_that_names_images_tells_the_separator(tmp_path):
    assert names_of(tmp_path / "l.csv", b"path;a, b, c\n1.jpg;x\n") == ["1.jpg"]


@each("data", [b'a b.jpg\r\n\r\nx/5"c,d|e;f.jpg\r\n', 'a b.jpg\nx/5"c,d|e;f.jpg'.encode("utf-16")])
def test_a_text_may_hold_a_path_in_each_line(tmp_path, data):
    assert names_of(tmp_path / "list.txt", data) == ["a b.jpg", 'x/5"c,d|e;f.jpg']


@each("first", ["a/1\t2.jpg", "a/1.jpg\t", "\ta/1.jpg", "a\tb\tc/1.jpg"])
def test_a_path_may_have_tabs(tmp_path, first):
    assert names_of(tmp_path / "list.txt", f"{first}\nb/2.jpg\n".encode()) == [first, "b/2.jpg"]


@each(
    ("line", "told"),
    [
        ("Some notes on the scans.", "first line 'Some notes on the scans.' is neither a path nor a header"),
        ("name,age", "first line 'name,age' is neither"),
        ("a/1.jpg,glioma", "first line 'a/1.jpg,glioma' is more than a path; add a header, as image,label"),
        ("a/b c.jpg 0", "is more than a path"),
        ("0\t1.0\ta/1.jpg", "is more than a path"),
        ("12\t1\t0.5\ta/1.jpg", "is more than a path"),
        ("a/1.jpg\tglioma", "is more than a path"),
    ],
)
def test_lines_that_are_no_paths_are_refused(tmp_path, line, told):
    with pytest.raises(BadRequest, match=told):
        names_of(tmp_path / "l.txt", f"\n{line}\n".encode())


def test_an_object_is_named_by_bucket_and_key_rather_than_by_a_name(tmp_path):
    assert names_of(tmp_path / "l.csv", b"image,bucket,key\nno 5,scans,5.jpg\n") == ["s3://scans/5.jpg"]


@each(
    "name",
    ["image", "Filename", "file", "image_path", "ImagePath", "IMAGE PATH", "key", "Key", "uri", "path", "file-name"],
)
@each("suffix", ["csv", "parquet"])
def test_many_names_name_the_image(tmp_path, name, suffix):
    path = tmp_path / f"list.{suffix}"
    pq.write_table(pa.table({"age": ["5"], name: ["1.jpg"], "Label": ["glioma"]}), path)
    data = path.read_bytes() if suffix == "parquet" else f"age,{name},Label\n5,1.jpg,glioma\n".encode()
    assert names_of(path, data) == ["1.jpg"]
    assert [row.label for row in open_file_list(str(path)).rows()] == ["glioma"]


def test_the_fullest_name_of_an_image_counts(tmp_path):
    assert names_of(tmp_path / "l.csv", b"filename,image_path\n1.jpg,a/1.jpg\n") == ["a/1.jpg"]


def test_numbers_in_json_stay_as_they_are_written(tmp_path):
    rows = rows_of(tmp_path / "l.jsonl", b'{"key": 1e2, "a": 1.50, "b": true, "c": null}\n', keep=("a", "b", "c"))
    assert rows == [("1e2", json.dumps(["1.50", "true", None]))]


@each(
    ("data", "told"),
    [
        (TEXT.encode("latin-1"), r"line 2 is not UTF-8 \(byte 0xef\)"),
        ("uri,âge\n1.jpg,1\n".encode("latin-1"), r"line 1 is not UTF-8 \(byte 0xe2\)"),
        (gzip.compress(b"uri\n" + b"1.jpg\n" * 700_000 + b"\xe9\n"), "line 700,002 is not UTF-8"),
        (TEXT.encode("utf-16-le"), "UTF-16 without a byte-order mark"),
        (TEXT.encode("utf-16")[:-1], "is damaged UTF-16 text"),
        (gzip.compress(TEXT.encode() * 99)[:-12], "is a damaged gzip file"),
        (b"PAR1" + bytes(9), "is a Parquet file; give it a name that ends with .parquet"),
        (b"PK\x03\x04" + bytes(9), "is a zip archive or a spreadsheet"),
        (b"uri,a\n1.jpg,1\n2.jpg,1,2\n", "row 2 has 3 value.s. in place of 2: '2.jpg,1,2'"),
        (b"uri,a\n1.jpg,1\n,5\n", "row 2 names no image"),
        (b"image\n1.jpg\n/9j/4AAQSkZJRg==\n", "row 2 has '/9j/4AAQSkZJRg==' … in its column image, which is no name"),
        (b"image\n" + b"A" * 9000 + b"\n", "row 1 has 'AAAAAAAAAAAAAAAAAAAA' … in its column image"),
        (b"Uri,URI\n1.jpg,1\n", r"has 2 columns named uri \('Uri', 'URI'\); keep one"),
        (b"uri,a\n1.jpg," + b"x" * (9 << 20), "a row has more than 4,194,304 bytes"),
        (b'[{"uri": "a"},\n{"uri": "b"}]\n', "line 1 is no JSON object of its own"),
        (b'{"uri": "a.jpg"}\n{"uri": {"path": "b.jpg"}}\n', "line 2: its 'uri' is nested; write it as text"),
        (b'{"uri": "a.jpg"}\n{"age": 5}\n', "row 2 names no image"),
    ],
)
def test_what_cannot_be_read_is_refused_in_one_line(tmp_path, data, told):
    with pytest.raises(BadRequest, match=told) as refused:
        rows_of(tmp_path / "list.csv", data)
    assert str(refused.value).startswith(f"--input {tmp_path}/list.csv: ")
    assert "\n" not in str(refused.value)


def test_kept_columns_of_one_name_are_refused(tmp_path):
    (tmp_path / "l.csv").write_text("uri,a,a\n1.jpg,1,2\n")
    with pytest.raises(BadRequest, match=r"--keep-columns a: the list .* has several such columns"):
        open_file_list(str(tmp_path / "l.csv")).kept_types(["a"])


class Short(io.BytesIO):
    """A file that ends early without an error, as a network share may."""

    def size(self) -> int:
        return 1000


def test_a_file_that_reads_short_is_refused():
    stream = TextStream(Short(b"uri\n1.jpg\n"), source="--input l.csv")
    with pytest.raises(BadRequest, match=r"l\.csv: short read, got 10 of 1,000 bytes"):
        while stream.read():
            pass


def test_text_that_unpacks_without_end_is_refused():
    stream = TextStream(pa.BufferReader(gzip.compress(bytes(1 << 20))), source="--labels l", most_bytes=1 << 19)
    with pytest.raises(BadRequest, match="--labels l: holds more than 0 GiB of text"):
        while stream.read(1 << 16):
            pass


def test_a_table_of_image_names_and_digests_is_a_list(tmp_path):
    pq.write_table(pa.table({"ImagePath": ["1.jpg"], "sha256": [b"x"]}), tmp_path / "l.parquet")
    assert [row.uri for row in open_file_list(str(tmp_path / "l.parquet")).rows()] == [f"{tmp_path}/1.jpg"]


@each("image", [[1], [[[1, 2]]], [{"height": 5}]])
def test_a_column_of_images_names_none(tmp_path, image):
    pq.write_table(pa.table({"image": image, "key": ["1.jpg"]}), tmp_path / "l.parquet")
    assert [row.uri for row in open_file_list(str(tmp_path / "l.parquet")).rows()] == [f"{tmp_path}/1.jpg"]


@each("name", ["list.orc", "LIST.ORC", "list.csv"])
def test_an_orc_file_is_refused_with_the_way_out(tmp_path, name):
    orc.write_table(pa.table({"path": ["a.jpg"], "label": ["glioma"]}), str(tmp_path / name))
    with pytest.raises(BadRequest, match=r"is an ORC file; write its rows to a CSV or Parquet file"):
        open_table(str(tmp_path / name))


@each("read", [read_group_file, lambda uri: read_label_file(uri, ("glioma",))])
def test_so_is_one_of_labels_or_groups(tmp_path, read):
    orc.write_table(pa.table({"path": ["a.jpg"], "label": ["glioma"]}), str(tmp_path / "a.orc"))
    with pytest.raises(BadRequest, match=r"is an ORC file; write its rows"):
        read(str(tmp_path / "a.orc"))


@each(
    ("name", "told"),
    [("list.xlsx", r"this is a spreadsheet; save it as CSV"), ("list.json", r"this is JSON, .* as JSON Lines")],
)
def test_what_may_be_meant_as_a_list_is_told_where_nothing_else_is_found(tmp_path, bundle, name, told):
    """Beside images it is passed over, as `--input scans/*` names all files."""
    (tmp_path / name).write_text("[]")
    with pytest.raises(BadRequest, match=rf"no image files found \(passed over: 1 suffix .*\); {told}"):
        plan_of(tmp_path / name, bundle, tmp_path)
    image = tmp_path / "1.jpg"
    image.write_bytes(b"x")
    assert plan_of((image, tmp_path / name), bundle, tmp_path).listing.images == 1


def test_an_inventory_that_names_no_object_is_empty_and_no_other_json(tmp_path, bundle):
    manifest = {
        "sourceBucket": "b",
        "destinationBucket": "arn:aws:s3:::d",
        "fileFormat": "CSV",
        "fileSchema": "Bucket, Key",
    }
    (tmp_path / "manifest.json").write_text(json.dumps(manifest | {"files": []}))
    with pytest.raises(BadRequest, match=r"no image files found; the list of images is empty$"):
        plan_of(tmp_path / "manifest.json", bundle, tmp_path)
