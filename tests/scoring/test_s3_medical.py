"""DICOM, NIfTI and pages in a bucket: the rows are those of a disk, and each object takes few requests."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
import pytest
from support.imaging.dicoms import dicom, slice_pixels
from support.imaging.niftis import SHAPE, nifti
from support.imaging.paged import gif, moving, pages, tiff
from support.inputs.archives import tar_of, zip_of
from support.scoring.runs import brightness, engine_of, request_for, rows, score_here
from support.storage.s3_servers import decided_s3, s3_endpoints

from brainray import storage

__all__ = ["decided_s3", "s3_endpoints"]  # fixtures

WINDOW = {"WindowCenter": 1000, "WindowWidth": 2000}
FRAMES = 24
COLUMNS = ("status", "error", "confidence", "content_hash", "scan_modality", "slice_number", "width")


@cache
def large() -> bytes:
    """3 MiB."""
    return dicom(np.stack([slice_pixels(256, seed=seed) for seed in range(FRAMES)]), **WINDOW)


@cache
def files() -> dict[str, bytes]:
    return {
        **{f"series/{number}.dcm": dicom(slice_pixels(seed=number), **WINDOW) for number in range(6)},
        "large.dcm": large(),
        "head.nii.gz": nifti(),
        "plain.nii": nifti(packed=False),
        "stack.tif": tiff(pages(5)),
        "zipped.zip": zip_of(
            {"a.nii.gz": nifti(), "b.dcm": dicom(slice_pixels(seed=9), **WINDOW), "c.tif": tiff(pages(3))}
        ),
        "packed.tar": tar_of({"c.tif": tiff(pages(3)), "d.gif": gif(moving(3))}),
    }


def scored(root, output, bundle) -> dict[str, dict]:
    score_here(request_for(root, output, bundle, shard_size=40), engine_of(bundle, predict=brightness))
    return {row["uri"].removeprefix(f"{root}/"): {name: row[name] for name in COLUMNS} for row in rows(output)}


@pytest.fixture(scope="module")
def on_a_disk(tmp_path_factory, bundle) -> dict[str, dict]:
    folder = tmp_path_factory.mktemp("in")
    for name, content in files().items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    return scored(folder, tmp_path_factory.mktemp("run"), bundle)


def test_each_object_takes_few_requests_and_has_the_rows_of_a_disk(decided_s3, on_a_disk, bundle):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda item: decided_s3.put(f"in/{item[0]}", item[1]), files().items()))
    decided_s3.proxy.counts.clear()
    assert scored(f"{decided_s3.root}/in", f"{decided_s3.root}/run", bundle) == on_a_disk
    assert len(on_a_disk) == 6 + FRAMES + 3 * SHAPE[2] + 5 + (1 + 3) + 6
    prefix = f"/{decided_s3.bucket}/in/"
    asked = Counter()
    for (verb, path), count in decided_s3.proxy.counts.items():
        name = path.partition("?")[0].removeprefix(prefix)
        if name in files():
            asked[verb, name] += count
    assert {verb for verb, _ in asked} == {"GET"}, "the listing tells what a HEAD would"
    gets = {name: asked["GET", name] for name in files()}
    slices = [gets[f"series/{number}.dcm"] for number in range(6)]
    assert sorted(slices) == [1, 1, 1, 1, 1, 2], "gate and pixels take one GET; one slice is asked for its frames"
    shards = 2  # that have frames of the large file, each of which needs its header
    assert gets["large.dcm"] <= 1 + 2 * shards, "its first bytes when listed, then header and frames"
    assert gets["head.nii.gz"] <= 1 + shards
    assert gets["plain.nii"] <= 1 + shards
    assert gets["stack.tif"] <= 2 + shards
    assert gets["zipped.zip"] <= 8 + shards
    assert gets["packed.tar"] <= 4 + shards


def test_of_a_large_file_the_frames_that_are_wanted_are_read_and_no_others(decided_s3, tmp_path, bundle, monkeypatch):
    decided_s3.put("in/large.dcm", large())
    listed, read = tmp_path / "list.csv", storage.read_range
    listed.write_text(f"uri\n{decided_s3.root}/in/large.dcm#20\n")
    got: list[int] = []

    def counted(*place, **options) -> bytes:
        content = read(*place, **options)
        got.append(len(content))
        return content

    monkeypatch.setattr(storage, "read_range", counted)
    (row,) = scored(str(listed), tmp_path / "run", bundle).values()
    assert row["status"] == "ok"
    assert sum(got) < len(large()) / 4
