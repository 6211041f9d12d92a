"""Images to exclude from training: what cannot be excluded is said or refused, never learned from without a word."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.imaging.images import image_bytes
from support.inputs.archives import zip_of

from brainray.cluster import train_data
from brainray.commands.training_setup import list_images
from brainray.config import TrainOptions
from brainray.duplicates.descriptors import Descriptors
from brainray.errors import BadRequest
from brainray.training.decoded import decode_rows

OPTIONS = TrainOptions(image_px=32, val_fraction=0.4)


@pytest.fixture
def job(archive, tmp_path):
    """The training job with an `--exclude` that holds these files and a copy of the first image of class a."""
    data = archive(images=4, classes=("a", "b"))
    test = tmp_path / "test"
    test.mkdir()
    (test / "0.jpg").write_bytes((data / "a" / "0.jpg").read_bytes())

    def listed(files):
        said = []
        for name, content in files.items():
            (test / name).write_bytes(content)
        given = {"output": str(tmp_path / "model"), "exclude": str(test), "options": OPTIONS}
        return list_images(str(data), **given, say=said.append), said

    return listed


def parquet_of(columns):
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue().to_pybytes()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("test.zip", zip_of({f"{k}.png": image_bytes(k) for k in range(3)})),
        ("test.tar.gz", b"x"),
        ("test.7z", b"x"),
        ("test.parquet", parquet_of({"image": [image_bytes(1)]})),
        ("damaged.parquet", b"x"),
    ],
)
def test_an_archive_whose_images_would_be_learned_from_is_refused(job, name, content):
    with pytest.raises(BadRequest, match=rf"1 archive\(s\), such as .*/{name}, whose images .*; unpack them into"):
        job({name: content})


def test_what_is_passed_over_is_said_with_its_number(job):
    listed, said = job({"labels.csv": b"x", "labels.parquet": parquet_of({"uri": ["a"], "label": ["a"]})})
    assert len(listed.excluded) == 1
    assert "1 images in --exclude" in said
    assert "passed over in --exclude: 1 suffix .csv, 1 suffix .parquet" in said


def test_images_to_exclude_that_cannot_be_decoded_are_counted(job, monkeypatch):
    listed, _ = job({"bad.jpg": b"text", "empty.jpg": b""})

    def descriptors_of(rows):
        return Descriptors.from_columns(rows), rows["error"].astype(str), rows["series"].astype(str)

    monkeypatch.setattr(train_data, "decoded_dataset", lambda table, spec, **_: decode_rows(table, spec))
    monkeypatch.setattr(train_data, "descriptors_of", descriptors_of)
    said = []
    _, selected = train_data.decode(listed.training_set, listed.excluded, OPTIONS, cpus=1, say=said.append)
    assert selected.excluded == 1
    told = "2 of 3 images in --exclude cannot be read, so what they show is not left out: 1 empty, 1 not_an_image"
    assert told in said
