"""Which images of a run get features: the same whatever their order, and each once."""

import numpy as np
import pyarrow as pa
import pytest
from support.imaging.images import image_bytes
from support.models.bundles import untrained
from support.scoring.runs import Stopped, brightness, engine_of, request_for, rows, score_here

from brainray import storage
from brainray.models.reference import COUNT
from brainray.scoring import feature_sample
from brainray.scoring.feature_sample import hash_limit, sample_features

IMAGES = 12


def encode(images):
    """A stand-in for the encoder: the mean of an image in each feature."""
    means = images.reshape(len(images), -1).mean(axis=1)
    return np.repeat(means[:, None], COUNT, axis=1).astype(np.float32)


@pytest.fixture
def archive(tmp_path):
    folder = tmp_path / "archive"
    folder.mkdir()
    for i in range(IMAGES):
        (folder / f"{i}.jpg").write_bytes(image_bytes(i))
    return folder


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return untrained(tmp_path_factory.mktemp("model"))


def engine(bundle, **given):
    return engine_of(bundle, predict=brightness, encode=encode, **given)


def sampled(run):
    return {row["content_hash"] for row in rows(run) if row["features"] is not None}


def test_the_sample_is_that_of_the_lowest_hashes_however_shards_are_cut_and_files_are_named(
    archive, bundle, tmp_path, monkeypatch
):
    monkeypatch.setattr(feature_sample, "SAMPLE", 4)
    for size in (3, 12):
        score_here(request_for(archive, tmp_path / f"run{size}", bundle, shard_size=size), engine(bundle))
    for file in archive.iterdir():
        file.rename(file.with_name(f"renamed-{file.name}"))
    score_here(request_for(archive, tmp_path / "renamed", bundle, shard_size=5), engine(bundle))
    found = sampled(tmp_path / "run3")
    hashes = sorted(row["content_hash"] for row in rows(tmp_path / "run3"))
    assert 0 < len(found) < IMAGES and found == set(hashes[: len(found)])
    assert sampled(tmp_path / "run12") == sampled(tmp_path / "renamed") == found


def test_a_run_that_was_stopped_and_goes_on_has_each_image_of_the_sample_once(archive, bundle, tmp_path):
    request = request_for(archive, tmp_path / "run", bundle, shard_size=3)
    with pytest.raises(Stopped):
        score_here(request, engine(bundle, only=2))
    score_here(request, engine(bundle))
    score_here(request_for(archive, tmp_path / "whole", bundle, shard_size=3), engine(bundle))
    stopped, whole = ({row["uri"]: row["features"] for row in rows(tmp_path / name)} for name in ("run", "whole"))
    assert stopped == whole and None not in whole.values()
    kept = storage.read_parquet(f"{tmp_path}/run/summary/features.parquet")
    assert sorted(kept["uri"].to_pylist()) == sorted(whole)


def test_an_image_that_cannot_be_read_has_none_and_costs_the_others_nothing(archive, bundle, tmp_path):
    (archive / "0.jpg").write_bytes(b"no image")
    score_here(request_for(archive, tmp_path / "run", bundle), engine(bundle))
    missing = [row["uri"] for row in rows(tmp_path / "run") if row["features"] is None]
    assert missing == [str(archive / "0.jpg")]


def test_features_stay_with_their_image_and_are_rounded_as_those_of_a_reference():
    hashes = pa.chunked_array([["f" * 64, "0" * 64, "1" * 64]])
    images = np.stack([np.full((4, 4), value, np.uint8) for value in (10, 20, 30)])
    found = sample_features(hashes, images, 0.5, lambda taken: encode(taken) / 3).to_pylist()
    assert found[0] is None
    assert [row[0] for row in found[1:]] == [float(np.float16(20 / 3)), float(np.float16(10))]


def test_a_large_run_takes_a_share_of_all_hashes():
    assert hash_limit(0) == hash_limit(1_000) == 1
    assert hash_limit(1_000_000) == pytest.approx(0.00115)
