"""A shard without Ray: what one worker does."""

from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest
from support.imaging.images import image_bytes
from support.models.bundles import CLASSES
from support.scoring.runs import brightness

from brainray import storage
from brainray.config import ImageSpec
from brainray.errors import BrainrayError
from brainray.imaging.decode import decode
from brainray.inputs.reader import Reader
from brainray.scoring import parts, shard, shard_task
from brainray.scoring.manifest import MANIFEST_SCHEMA, Shard, rows_digest
from brainray.scoring.prediction_schema import prediction_schema

SPEC = ImageSpec(image_px=16)
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def write_manifest(folder, files):
    rows = [
        {"uri": str(f), "size_bytes": 1, "version": "1", "label": "glioma", "shard_id": "ab", "gone": False}
        for f in files
    ]
    table = pa.Table.from_pylist(rows, schema=MANIFEST_SCHEMA)
    storage.write_parquet(f"{folder}/manifest.parquet", table)
    return Shard("ab", rows_digest(table), f"{folder}/manifest.parquet", 0, len(table))


def write(folder, files):
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return [folder / name for name in files]


def score(folder, files, predict=brightness, review_below=0.5):
    target = shard_task.Target(
        run_uri=f"{folder}/run",
        fingerprint="f" * 32,
        classes=CLASSES,
        review_below=review_below,
        kept=(),
        writer=storage.Writer(),
    )
    state = shard_task.open_shard(write_manifest(folder, files), target)
    decoded = shard.decode_shard(state.pending, SPEC, reader=Reader(), clock=lambda: NOW)
    info = shard.predict_shard(state, decoded, predict, target, clock=lambda: NOW)
    return info, storage.read_parquet(parts.part_uri(target.run_uri, "ab"))


def test_what_is_not_sure_enough_is_for_review_and_what_failed_is_neither(tmp_path):
    files = write(tmp_path, {f"{i}.jpg": image_bytes(i) for i in range(6)} | {"bad.jpg": b"no image"})
    _, table = score(tmp_path, files)
    confidence = sorted(row["confidence"] for row in table.to_pylist() if row["status"] == "ok")
    _, table = score(tmp_path / "again", files, review_below=confidence[3])
    rows = table.to_pylist()
    assert {row["review"] for row in rows if row["status"] == "error"} == {None}
    sure = {row["review"]: [r["confidence"] for r in rows if r["review"] == row["review"]] for row in rows}
    assert (len(sure[True]), len(sure[False])) == (3, 3)
    assert max(sure[True]) < min(sure[False])


def test_bad_images_keep_their_rows_and_disturb_no_neighbour(tmp_path):
    good = {f"{i}.jpg": image_bytes(i) for i in range(6)}
    bad = {"text.jpg": b"hello", "empty.jpg": b"", "cut.jpg": image_bytes(9)[:-40]}
    mixed = dict(sorted((good | bad).items()))
    files = [*write(tmp_path, mixed), tmp_path / "gone.jpg"]
    info, rows = score(tmp_path, files)
    assert (info.rows, info.failed) == (10, 4)
    by_name = {storage.name_of(row["uri"]): row for row in rows.to_pylist()}
    assert {name: row["error"] for name, row in by_name.items() if row["status"] == "error"} == {
        "text.jpg": "not_an_image",
        "empty.jpg": "empty",
        "cut.jpg": "truncated",
        "gone.jpg": "not_found",
    }
    assert all(by_name[name]["predicted"] is by_name[name]["prob_glioma"] is None for name in bad)
    assert (by_name["cut.jpg"]["width"], by_name["cut.jpg"]["format"]) == (40, "JPEG")  # what its header still says
    for name, content in good.items():
        alone = brightness(decode(content, SPEC).pixels[None])[0]
        assert by_name[name]["prob_glioma"] == alone[0], f"{name} has another image's prediction"


def test_a_row_has_every_column_with_its_type(tmp_path):
    _, rows = score(tmp_path, write(tmp_path, {"a.png": image_bytes(1, size=(30, 20), mode="RGB", kind="PNG")}))
    assert rows.schema.remove_metadata() == prediction_schema(CLASSES)
    (row,) = rows.to_pylist()
    assert (row["width"], row["height"], row["format"]) == (30, 20, "PNG")
    assert row["model"] == "f" * 32
    assert row["scored_at"] == NOW
    assert row["confidence"] == max(row[f"prob_{name}"] for name in CLASSES)
    assert row["margin"] == pytest.approx(row["confidence"] - sorted(row[f"prob_{n}"] for n in CLASSES)[-2], abs=1e-6)
    assert len(row["content_hash"]) == 64


def test_types_stay_where_every_image_failed(tmp_path):
    info, rows = score(tmp_path, write(tmp_path, {"a.jpg": b"", "b.jpg": b"no"}))
    assert info.failed == info.rows == 2
    assert rows.schema.remove_metadata() == prediction_schema(CLASSES)
    assert rows["predicted"].null_count == 2


def test_equal_files_have_equal_content_hashes(tmp_path):
    _, rows = score(
        tmp_path, write(tmp_path, {"a.jpg": image_bytes(1), "b.jpg": image_bytes(1), "c.jpg": image_bytes(2)})
    )
    first, second, third = rows["content_hash"].to_pylist()
    assert first == second != third


def test_a_model_that_gives_no_numbers_stops_the_run(tmp_path):
    def broken(images):
        return np.full((len(images), len(CLASSES)), np.nan, np.float32)

    with pytest.raises(BrainrayError, match="gives no number"):
        score(tmp_path, write(tmp_path, {"a.jpg": image_bytes()}), broken)
    assert not parts.present_shards(str(tmp_path / "run"))


def test_a_part_says_what_it_is(tmp_path):
    written, _ = score(tmp_path, write(tmp_path, {"a.jpg": image_bytes()}))
    info = parts.read_part_info(parts.part_uri(str(tmp_path / "run"), "ab"))
    assert info == written
    assert set(info.work[0].seconds) == {"read", "decode", "predict"}
