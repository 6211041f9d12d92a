"""The list of what a model has learned from: what it finds, and what it holds."""

import hashlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.each import each
from support.imaging.pictures import head
from support.models.bundles import untrained

from brainray.duplicates import seen
from brainray.duplicates.seen import MOST_BITS, SeenPictures, hash_column, read_seen
from brainray.errors import BadRequest
from brainray.imaging.picture_hash import HASH_BYTES, hash_pictures
from brainray.models.bundle import load_bundle, save_bundle

RNG = np.random.default_rng(0)
BITS = 8 * HASH_BYTES


def content(number):
    return hashlib.sha256(str(number).encode()).hexdigest()


def listed(hash_NB, first=0):
    texts = [content(first + number) for number in range(len(hash_NB))]
    return SeenPictures.of_columns(pa.table({"content": texts, "picture": hash_column(hash_NB)}))


def random_hashes(count):
    return RNG.integers(1, 256, (count, HASH_BYTES), dtype=np.uint8)


def found(known, hash_NB):
    return known._find_hashes(hash_NB, known=np.zeros(len(hash_NB), bool))


def flipped(hash_B, bits):
    places = RNG.choice(BITS, bits, replace=False)
    return np.packbits(np.unpackbits(hash_B) ^ np.isin(np.arange(BITS), places))


@each(("bits", "least"), [(0, 1), (1, 1), (11, 1), (MOST_BITS, 0.95)])
def test_hashes_are_found_up_to_the_limit_wherever_the_bits_lie(bits, least):
    known = random_hashes(500)
    near = np.stack([flipped(each, bits) for each in known])
    assert found(listed(known), near).mean() >= least


@each("bits", [MOST_BITS + 1, 2 * MOST_BITS])
def test_hashes_beyond_the_limit_are_not_found(bits):
    known = random_hashes(500)
    assert not found(listed(known), np.stack([flipped(each, bits) for each in known])).any()


def test_a_file_is_found_by_its_content_and_a_picture_by_its_hash():
    images = RNG.integers(0, 255, (3, 64, 64), dtype=np.uint8)
    known = listed(hash_pictures(images[:2]))
    assert known.find([content(7)] * 3, images).tolist() == [True, True, False]
    assert known.find([content(0), content(9), content(1)], images[[2, 2, 2]]).tolist() == [True, False, True]
    assert known.find([], images[:0]).tolist() == []


@each("mirror", [np.s_[:, ::-1], np.s_[::-1], np.s_[::-1, ::-1]])
def test_mirror_images_are_found(mirror):
    pictures = [head(index) for index in (1, 2, 3)]
    known = listed(np.concatenate([hash_pictures(each[None]) for each in pictures[:2]]))
    flags = [known.find([content(9)], np.ascontiguousarray(each[mirror])[None])[0] for each in pictures]
    assert flags == [True, True, False]


def test_pictures_that_show_nothing_are_found_by_content_only():
    black = np.zeros((2, 64, 64), np.uint8)
    assert listed(hash_pictures(black)[:1]).find([content(0), content(1)], black).tolist() == [True, False]


def test_an_empty_list_finds_nothing():
    images = RNG.integers(0, 255, (2, 64, 64), dtype=np.uint8)
    assert not listed(hash_pictures(images)[:0]).find([content(0)] * 2, images).any()


def test_the_file_holds_each_image_once_in_a_few_bytes():
    hashes = random_hashes(2000)
    joined = listed(hashes[:1500]).joined(listed(hashes[1000:], first=1000))
    table = pq.read_table(pa.BufferReader(joined.to_bytes()))
    assert len(table) == 2000 and table["content"].to_pylist() == sorted(table["content"].to_pylist())
    assert len(joined.to_bytes()) < 36 * 2000
    again = SeenPictures.of_columns(table)
    assert found(again, hashes).all() and (again.content_N == joined.content_N).all()


@pytest.fixture
def bundle(tmp_path):
    plain = untrained(tmp_path / "plain", image_px=16)
    weights = (tmp_path / "plain" / "model.safetensors").read_bytes()
    files = {seen.FILE: listed(random_hashes(5)).to_bytes()}
    told = {"image": plain.image, "model": plain.model, "calibration": plain.calibration}
    return plain, save_bundle(str(tmp_path / "model"), weights=weights, files=files, **told)


def test_the_list_changes_no_fingerprint_and_older_bundles_have_none(bundle):
    plain, telling = bundle
    assert telling.fingerprint == plain.fingerprint
    assert read_seen(plain) is None and not seen.is_lost(plain)
    assert len(read_seen(load_bundle(telling.uri)).content_N) == 5


def test_a_damaged_list_is_refused_and_a_lost_one_told_apart(bundle, tmp_path):
    path = tmp_path / "model" / seen.FILE
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(BadRequest, match=r"seen\.parquet: it is damaged or was edited.*copy it again"):
        read_seen(bundle[1])
    path.unlink()
    assert read_seen(bundle[1]) is None and seen.is_lost(bundle[1])
