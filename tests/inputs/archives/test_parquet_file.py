"""Images in Parquet files."""

import io
import random
import struct

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.each import each
from support.inputs.archive_rows import Counting, contents, huggingface_images, parquet_of, refusals, rows_of

from brainray.errors import ImageError
from brainray.inputs.archives import (
    NotAnArchive,
    parquet_file,
    parquet_rows,
)

CLASS_LABEL = {"info": {"features": {"label": {"names": ["glioma", "notumor"], "_type": "ClassLabel"}}}}


class TestParquet:
    def labels(self, columns, **options):
        return [row["label"] for row in rows_of("parquet", parquet_of(columns, **options))]

    def test_images_and_labels_as_hugging_face_writes_them(self):
        columns = {"image": huggingface_images([b"1", b"2", None, b"4"]), "label": [1, 0, -1, 7]}
        data = parquet_of(columns, huggingface=CLASS_LABEL, row_group_size=3)
        rows = rows_of("parquet", data)
        assert [row["label"] for row in rows] == ["notumor", "glioma", None, "7"]
        assert [(row["offset"], row["size_bytes"]) for row in rows] == [(0, None), (0, None), (0, None), (1, None)]
        found = contents("parquet", data)
        assert str(found.pop("2")) == "empty: row 2 has no image"
        assert found == {"0": b"1", "1": b"2", "3": b"4"}

    def test_labels_are_strings_as_they_are_and_numbers_only_with_names(self):
        images = {"image": [b"1", b"2"]}
        assert self.labels(images | {"Diagnosis": ["a", None]}) == ["a", None]
        assert self.labels(images | {"target": pa.array(["a", "b"]).dictionary_encode()}) == ["a", "b"]
        assert self.labels(images | {"label": [0, 1], "class": ["x", "y"]}) == ["x", "y"]
        assert self.labels(images | {"label": [0, 1]}) == self.labels(images) == [None, None]
        assert self.labels(images | {"label": ["x" * 2000, "y"]}) == ["x" * 1000, "y"]
        for damaged in ({"info": {"features": {"label": {"names": 7}}}}, {"info": []}, ["x"]):
            assert self.labels(images | {"label": [0, 1]}, huggingface=damaged) == [None, None]

    def test_the_image_column_is_known_by_its_name_or_by_being_the_only_one(self):
        data = parquet_of({"mask": [b"m"], "Image": [b"i"], "thumb": huggingface_images([b"t"])})
        assert contents("parquet", data) == {"0": b"i"}
        ((name, refused),) = refusals("parquet", parquet_of({"a": [b"1"], "b": [b"2"], "c": [3]})).items()
        assert (name, refused) == ("", "unsupported: has several binary columns (a, b); name one of them image")

    def test_a_table_of_labels_is_no_container(self):
        with pytest.raises(NotAnArchive, match="Parquet without images"):
            rows_of("parquet", parquet_of({"file": ["a.jpg"], "label": ["glioma"]}))

    def test_rows_come_in_the_order_asked_for_and_foreign_ones_are_not_found(self):
        data = parquet_of({"image": [b"%d" % k for k in range(100)]}, row_group_size=50)
        found = parquet_rows(io.BytesIO(data), [1], ["99", "50", "99", "0", "x"])
        assert found[:3] == [b"99", b"50", b"99"]
        assert [error.reason for error in found[3:]] == ["not_found", "not_found"]
        assert [error.reason for error in parquet_rows(io.BytesIO(data), [9], ["0"])] == ["truncated"]

    def test_the_listing_reads_no_image(self):
        pictures = [random.Random(k).randbytes(50_000) for k in range(40)]
        file = Counting(parquet_of({"image": pictures, "label": ["a"] * 40}, row_group_size=10))
        assert len(rows_of("parquet", file)) == 40
        assert file.given < 100_000

    def test_giant_row_groups_are_refused(self, monkeypatch):
        monkeypatch.setattr(parquet_file, "MOST_GROUP_BYTES", 5000)
        data = parquet_of({"image": [b"1", b"2" * 9000]}, row_group_size=1)
        assert refusals("parquet", data) == {"1": "too_large: row group of 0.0 GiB; write smaller row groups"}

    def test_absurdly_many_rows_are_refused(self):
        data = parquet_of({"image": [b"1", b"2"]})
        assert refusals("parquet", data, most=1) == {"": "too_large: more than 1 members; write several smaller files"}

    @each(
        ("data", "refused"),
        [
            (b"", "empty: the file has no bytes"),
            (b"<html>" * 20, "not_an_image: is named .parquet but is none"),
            (b"PAR1" + bytes(90), "truncated: its footer is missing"),
            (b"PAR1" + bytes(90) + b"PARE", "unsupported: is encrypted"),
            (b"PAR1" + b"\xff" * 90 + struct.pack("<L", 80) + b"PAR1", "truncated: "),
            (b"PAR1" + bytes(90) + struct.pack("<L", 1 << 30) + b"PAR1", "truncated: footer of 1,073,741,824 bytes"),
        ],
        ids=["empty", "html", "no footer", "encrypted", "damaged footer", "giant footer"],
    )
    def test_what_is_no_whole_parquet_says_so(self, data, refused):
        ((name, told),) = refusals("parquet", data).items()
        assert name == ""
        assert told.startswith(refused)

    def damaged(self, column):
        """Of three row groups, the data of one column of the second are lost."""
        pictures = [random.Random(k).randbytes(900) for k in range(9)]
        columns = {"image": pictures, "label": [f"class {k}" for k in range(9)]}
        data = parquet_of(columns, row_group_size=3, compression="gzip", use_dictionary=False)
        place = pq.ParquetFile(io.BytesIO(data)).metadata.row_group(1).column(column)
        at, length = place.data_page_offset, place.total_compressed_size
        return data[:at] + b"\xff" * length + data[at + length :], dict(zip("012345678", pictures, strict=True))

    def test_damaged_images_get_error_rows_and_the_others_are_read(self):
        data, pictures = self.damaged(0)
        found = contents("parquet", data)
        assert {name for name in found if isinstance(found[name], ImageError)} == {"3", "4", "5"}
        assert {found[name].reason for name in "345"} == {"truncated"}
        assert all(found[name] == pictures[name] for name in "012678")

    def test_several_row_groups_are_read_at_once_and_a_damaged_one_spoils_no_other(self):
        data, pictures = self.damaged(0)
        file = Counting(data)
        found = dict(zip(pictures, parquet_rows(file, [0, 1, 2], list(pictures)), strict=True))
        assert {name for name in found if isinstance(found[name], ImageError)} == {"3", "4", "5"}
        assert all(found[name] == pictures[name] for name in "012678")
        assert [length > 8100 for length in file.lengths].count(True) == 1, "of 2,700 bytes of pictures each"

    def test_row_groups_that_lie_far_apart_are_read_one_by_one(self, monkeypatch):
        monkeypatch.setattr(parquet_file, "_MOST_STRETCH_BYTES", 1000)
        pictures = [random.Random(k).randbytes(900) for k in range(4)]
        data = parquet_of({"image": pictures}, row_group_size=2)
        assert parquet_rows(io.BytesIO(data), [0, 1], list("0123")) == pictures

    def test_a_changed_byte_is_found_where_the_file_has_checksums(self):
        data = bytearray(parquet_of({"image": [b"pixels " * 99]}, compression="none", write_page_checksum=True))
        data[data.index(b"pixels") + 200] ^= 1
        assert contents("parquet", bytes(data))["0"].reason == "truncated"

    def test_damaged_labels_leave_the_images_and_are_told(self):
        data, pictures = self.damaged(1)
        found = contents("parquet", data)
        assert found.pop("").detail.startswith("labels are missing")
        assert found == pictures
        labels = [row["label"] for row in rows_of("parquet", data)]
        assert labels == [
            *(f"class {k}" for k in range(3)),
            None,
            None,
            None,
            *(f"class {k}" for k in range(6, 9)),
            None,
        ]
