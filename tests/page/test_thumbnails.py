"""Images of an archive -> thumbnails, or why there is none."""

import base64
import hashlib
import io
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from support.each import each
from support.imaging.dicoms import dicom, slice_pixels
from support.imaging.images import image_bytes
from support.imaging.niftis import nifti
from support.models.bundles import untrained
from support.page.html_pages import read_page
from support.scoring.runs import engine_of, request_for, score_here

from brainray.config import PageOptions
from brainray.errors import BadRequest, BrainrayError, ImageError, StorageError
from brainray.page import thumbnails
from brainray.page.thumbnails import ROWS_SCHEMA, make_thumbnails
from brainray.scoring.summary.build import build_summary


def rows(*images):
    """Rows of the manifest, with the hash of `content` where it is given."""
    made = []
    for uri, values in images:
        content = values.pop("content", None)
        digest = hashlib.sha256(content).hexdigest() if content is not None else None
        made.append({"uri": uri, "content_hash": digest} | values)
    return pa.Table.from_pylist(made, schema=ROWS_SCHEMA)


def picture_of(thumbnail):
    kind, _, data = thumbnail.data_uri.partition(",")
    assert kind == "data:image/jpeg;base64"
    return Image.open(io.BytesIO(base64.b64decode(data)))


def test_a_thumbnail_is_the_whole_image_on_a_black_square(tmp_path):
    content = image_bytes(3, size=(300, 150))
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    picture = picture_of(make_thumbnails(rows((str(path), {"content": content})))[str(path)])
    assert picture.size == (192, 192)
    assert picture.mode == "L"
    pixels = np.asarray(picture)
    assert pixels[:40].max() < 20
    assert pixels[96].max() > 40


def test_colours_stay_and_no_picture_is_large(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (400, 400, 3), np.uint8)
    path = tmp_path / "a.png"
    Image.fromarray(noise).save(path)
    found = make_thumbnails(rows((str(path), {})))[str(path)]
    assert picture_of(found).mode == "RGB"
    assert len(found.data_uri) < 13_000


@each(
    ("content", "scored", "missing"),
    [
        (None, None, "no longer there"),
        (b"hello", b"hello", "cannot be decoded: not_an_image"),
        (image_bytes(1), image_bytes(2), "the file has changed since it was scored"),
    ],
)
def test_an_image_that_cannot_be_shown_says_why(tmp_path, content, scored, missing):
    path = tmp_path / "a.jpg"
    if content is not None:
        path.write_bytes(content)
    assert make_thumbnails(rows((str(path), {"content": scored})))[str(path)].missing == missing


def test_a_store_that_fails_leaves_the_page_without_that_picture():
    def failing(read):
        raise StorageError("forbidden", f"{read.uri}: no permission")

    found = make_thumbnails(rows(*[(f"/{i}.jpg", {}) for i in range(100)]), read=failing, decode=pytest.fail)
    assert {each.missing for each in found.values()} == {"unreadable: forbidden"}


def test_no_more_is_read_than_the_page_is_worth(monkeypatch):
    monkeypatch.setattr(thumbnails, "_READ_BYTES", 100)
    monkeypatch.setattr(thumbnails, "_ALL_BYTES", 250)
    asked = []

    def read(one):
        asked.append(one.uri)
        return (b"",)

    sizes = {"/a": 90, "/b": 101, "/c": 90, "/d": 90, "/e": 60}
    found = make_thumbnails(rows(*[(uri, {"size_bytes": size}) for uri, size in sizes.items()]), read=read)
    assert sorted(asked) == ["/a", "/c", "/e"]
    assert [uri for uri, each in found.items() if each.missing == "too large to be read for this page"] == ["/b", "/d"]


def test_a_storage_that_is_misconfigured_or_slow_costs_pictures_only():
    def refusing(read):
        raise BadRequest("no credentials")

    images = rows(*[(f"/{i}.jpg", {}) for i in range(40)])
    found = make_thumbnails(images, read=refusing, decode=pytest.fail)
    assert {each.missing for each in found.values()} == {"unreadable: read_failed"}
    hours = iter(range(0, 3_600_000, 3_600))
    late = make_thumbnails(images, read=pytest.fail, decode=pytest.fail, clock=lambda: float(next(hours)))
    assert len(late) == 40
    assert {each.missing for each in late.values()} == {"unreadable: read_failed"}


def test_a_decoder_that_does_not_start_is_tried_once():
    tries = []

    def broken(content):
        tries.append(content)
        raise BrainrayError("the process to decode apart does not start")

    images = rows(*[(f"/{i}.jpg", {}) for i in range(20)])
    found = make_thumbnails(images, read=lambda one: (b"x",) * one.images, decode=broken)
    assert len(tries) == 1
    assert len(found) == 20
    assert all(each.missing for each in found.values())


def test_images_that_decode_slowly_leave_the_others_without_a_picture():
    now = [0.0]

    def slow(content):
        now[0] += 20
        raise ImageError("unsupported", "its decoder took longer than 10 s")

    images = rows(*[(f"/{i}.jpg", {}) for i in range(20)])
    found = make_thumbnails(images, read=lambda one: (b"x",) * one.images, decode=slow, clock=lambda: now[0])
    assert now[0] <= 60
    assert len(found) == 20


@pytest.fixture(scope="module")
def mixed_run(tmp_path_factory):
    """A scored archive of files and a tar, of which one file is gone since."""
    from support.inputs.archives import tar_of

    root = tmp_path_factory.mktemp("mixed")
    (root / "archive").mkdir()
    for i in range(4):
        (root / "archive" / f"{i}.jpg").write_bytes(image_bytes(i))
    members = {f"m{i}.jpg": image_bytes(10 + i) for i in range(3)}
    (root / "archive" / "members.tar").write_bytes(tar_of(members))
    bundle = untrained(root / "model")
    score_here(request_for(root / "archive", root / "run", bundle, report=True), engine_of(bundle))
    return root


def tiles_of(run):
    page = read_page(Path(run, "summary", "report.html").read_text())
    return {tile.attributes["data-uri"]: tile for tile in page.classed("tile")}


def test_scoring_writes_a_page_with_the_images_of_files_and_of_archives(mixed_run):
    tiles = tiles_of(mixed_run / "run")
    assert len(tiles) == 7
    for tile in tiles.values():
        (image,) = tile.all("img")
        assert image.attributes["src"].startswith("data:image/jpeg;base64,")
        assert image.attributes["alt"]


def test_a_rebuilt_page_says_which_images_are_gone(mixed_run):
    gone = mixed_run / "archive" / "2.jpg"
    content = gone.read_bytes()
    os.remove(gone)
    try:
        build_summary(str(mixed_run / "run"))
        tiles = tiles_of(mixed_run / "run")
        assert "No picture: no longer there" in tiles[str(gone)].text
        assert sum(len(list(tile.all("img"))) for tile in tiles.values()) == 6
    finally:
        gone.write_bytes(content)


def test_a_damaged_manifest_costs_the_pictures_and_not_the_summary(mixed_run):
    (manifest,) = (mixed_run / "run" / "manifest").iterdir()
    content = manifest.read_bytes()
    manifest.write_bytes(content[:100])
    try:
        build_summary(str(mixed_run / "run"))
    finally:
        manifest.write_bytes(content)
    assert {tile.text.count("the manifest does not hold it") for tile in tiles_of(mixed_run / "run").values()} == {1}


def test_without_thumbnails_no_image_is_read(mixed_run, monkeypatch):
    monkeypatch.setattr(thumbnails, "RangeReader", pytest.fail)
    build_summary(str(mixed_run / "run"), page=PageOptions(thumbnails=False))
    text = Path(mixed_run, "run", "summary", "report.html").read_text()
    assert "data:image/jpeg" not in text
    assert "Made without thumbnails" in text


def test_frames_of_a_file_that_is_larger_than_a_page_may_read_have_thumbnails(tmp_path, monkeypatch):
    content = dicom(np.stack([slice_pixels(seed=seed) for seed in (1, 2, 3)]))
    path = tmp_path / "a.dcm"
    path.write_bytes(content)
    monkeypatch.setattr(thumbnails, "_READ_BYTES", len(content) // 2)
    monkeypatch.setattr(thumbnails, "_ALL_BYTES", len(content))
    place = {"container": str(path), "stored_bytes": len(content), "size_bytes": len(content) // 3}
    made = make_thumbnails(rows(*((f"{path}#{number}", place | {"offset": number - 1}) for number in (1, 3))))
    assert [each.missing for each in made.values()] == [None, None]


def test_all_slices_of_a_volume_that_a_page_may_read_once_have_thumbnails(tmp_path, monkeypatch):
    content = nifti()
    path = tmp_path / "a.nii.gz"
    path.write_bytes(content)
    monkeypatch.setattr(thumbnails, "_ALL_BYTES", len(content))
    place = {"container": str(path), "stored_bytes": len(content), "size_bytes": 1440}
    made = make_thumbnails(rows(*((f"{path}#z={number}", place | {"offset": number}) for number in (9, 10, 11))))
    assert [each.missing for each in made.values()] == [None] * 3
