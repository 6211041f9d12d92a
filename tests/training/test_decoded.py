import tempfile

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from brainray.config import ImageSpec
from brainray.errors import BrainrayError
from brainray.training.decoded import DecodedRows, decode_rows, share_rows, take_rows


def rows_of(positions):
    values = np.array(positions, np.int64)
    pixels = np.repeat(values, 4).reshape(-1, 2, 2).astype(np.uint8)
    boxes = np.repeat(values, 4).reshape(-1, 4) / 100
    return {"position": values, "label": values % 2, "picture": values // 3, "pixels": pixels, "finding": boxes}


def test_wanted_rows_are_taken_with_their_pictures():
    taken = take_rows(rows_of([5, 3, 9, 1]), np.array([1, 4, 5, 8]), pictures=np.array([10, 40, 50, 80]))
    assert taken["position"].tolist() == [1, 5]
    assert taken["picture"].tolist() == [10, 50]
    assert taken["pixels"][:, 0, 0].tolist() == [1, 5]
    assert taken["finding"][:, 0].tolist() == [0.01, 0.05]


@given(
    positions=st.lists(st.integers(0, 40), unique=True),
    workers=st.integers(1, 5),
    by=st.sampled_from(("position", "picture")),
)
def test_workers_share_all_rows_without_rest_and_no_picture_lies_with_two(positions, workers, by):
    shares = [share_rows(rows_of(positions), by, (rank, workers)) for rank in range(workers)]
    assert sorted(number for share in shares for number in share["position"].tolist()) == sorted(positions)
    owned = [set(share[by].tolist()) for share in shares]
    assert sum(map(len, owned)) == len(set().union(*owned))


def test_kept_rows_are_in_order_of_position_however_they_arrive():
    kept = DecodedRows([rows_of([7, 2]), rows_of([]), rows_of([9, 1, 4])])
    assert kept.label.tolist() == [1, 0, 0, 1, 1]
    assert kept.pixels[:].reshape(5, 4).tolist() == [[value] * 4 for value in (1, 2, 4, 7, 9)]
    assert kept.pixels[np.array([4, 0, 4])][:, 0, 0].tolist() == [9, 1, 9]
    assert (100 * kept.finding[:, 0]).round().tolist() == [1, 2, 4, 7, 9]
    assert kept.pixels[1:3].dtype == np.uint8 and kept.pixels[1:3].shape == (2, 2, 2)


def test_a_worker_may_have_no_rows():
    """The model of all images is measured on none."""
    kept = DecodedRows([])
    assert (len(kept.label), len(kept.picture), len(kept.pixels[:])) == (0, 0, 0)


def test_a_full_disk_is_named_with_what_helps(monkeypatch):
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: open("/dev/full", "wb", buffering=0))  # noqa: SIM115
    with pytest.raises(BrainrayError, match=r"No space left on device; make room there, or set TMPDIR"):
        DecodedRows([rows_of([1])])


def test_boxes_of_findings_come_through_decoding_in_shares_of_the_pixels(tmp_path):
    """The descriptors of an image have a box of their own, that of the head."""
    pixels = np.zeros((100, 200), np.uint8)
    pixels[30:70, 40:160] = 90
    Image.fromarray(pixels).save(tmp_path / "a.png")
    box = (0.5, 0.4, 0.6, 0.5)
    table = pa.table(
        {
            "position": [0, 1],
            "uri": [f"{tmp_path}/a.png"] * 2,
            "label": [0, 0],
            "box": pa.array([box, (np.nan,) * 4], pa.list_(pa.float32(), 4)),
        }
    )
    whole = decode_rows(table, ImageSpec(image_px=100, crop="none"))["finding"]
    assert whole[0] == pytest.approx((0.5, 0.25 + 0.2, 0.6, 0.25 + 0.25)) and np.isnan(whole[1]).all()
    cropped = decode_rows(table, ImageSpec(image_px=96, crop="head"))["finding"]
    assert cropped[0] == pytest.approx((0.5, 0.417, 0.667, 0.5), abs=0.03)
    assert np.isnan(decode_rows(table.drop_columns("box"), ImageSpec(image_px=32))["finding"]).all()
