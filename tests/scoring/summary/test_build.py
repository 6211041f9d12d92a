"""The Parquet of a run -> `summary/`. Each run here is written as `score` writes it: run.json and part files."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.each import each
from support.scoring.run_rows import empty_row

from brainray import storage
from brainray.errors import BadRequest, StorageError
from brainray.evaluation import metrics
from brainray.scoring.parts import PartInfo, ShardWork, part_uri, write_part
from brainray.scoring.prediction_schema import prediction_schema
from brainray.scoring.summary.build import build_summary

CLASSES = ("glioma", "notumor")
START = datetime(2025, 1, 2, 3, tzinfo=UTC)
PNG = b"\x89PNG\r\n"


def run_folder(path, **values):
    storage.write_json(f"{path}/run.json", {"classes": list(CLASSES), "fingerprint": "f00d"} | values)
    return str(path)


def row(label=None, predicted=None, confidence=0.75, *, error=None, group=None, classes=CLASSES):
    """A scored image, or one that failed with `error`."""
    values = dict(empty_row(tuple(classes))) | {"uri": "/a.png", "label": label, "group": group}
    values |= {
        "shard_id": "0",
        "model": "f00d",
        "scored_at": START,
        "status": "error" if error else "ok",
        "error": error,
    }
    if error:
        return values
    rest = (1 - confidence) / (len(classes) - 1)
    probs = {f"prob_{name}": confidence if name == predicted else rest for name in classes}
    return values | probs | {"predicted": predicted, "confidence": confidence}


def part(run, shard_id, rows, *, start_s=0, end_s=10, seconds=None, retries=0, classes=CLASSES, model="f00d"):
    table = pa.Table.from_pylist(rows, schema=prediction_schema(classes))
    work = ShardWork(
        started_at=(START + timedelta(seconds=start_s)).isoformat(timespec="microseconds"),
        finished_at=(START + timedelta(seconds=end_s)).isoformat(timespec="microseconds"),
        images=len(rows),
        seconds=seconds or {"read": 1.0, "predict": 2.5},
    )
    info = PartInfo(
        shard_id=shard_id,
        digest="d",
        model=model,
        rows=len(rows),
        failed=sum(r["status"] == "error" for r in rows),
        unread=0,
        retries=retries,
        work=(work,),
    )
    write_part(run, table, info, writer=storage.Writer())


def small_run(path, **values):
    """Three glioma (one missed), one notumor, one failed glioma, one image without a label; in two parts."""
    run = run_folder(path, **values)
    part(run, "a1", [row("glioma", "glioma", group="x"), row("glioma", "notumor", group="y"), row(None, "glioma")])
    failed = row("glioma", error="truncated", group="y")
    part(run, "b2", [row("glioma", "glioma", 1.0, group="x"), row("notumor", "notumor", group="y"), failed])
    return run


def read(run, name):
    return pq.read_table(f"{run}/summary/{name}").to_pylist()


def test_totals_say_what_became_of_every_image(tmp_path):
    figures = build_summary(small_run(tmp_path, skipped={"txt": 3})).figures
    assert figures["totals"] == {
        "images": 6,
        "ok": 5,
        "failed": 1,
        "excluded": 0,
        "labelled": 5,
        "unlabelled": 1,
        "scored_and_labelled": 4,
    }
    assert figures["failures"] == {"truncated": 1}
    assert figures["skipped"] == {"txt": 3}
    assert figures["predicted"] == {"glioma": 3, "notumor": 2}
    assert figures["mean_confidence"] == 0.8


def test_accuracy_and_calibration_are_of_labelled_scored_images(tmp_path):
    figures = build_summary(small_run(tmp_path)).figures
    low, high = map(float, metrics.wilson(3, 4))
    assert figures["accuracy"] == {"value": 0.75, "low": low, "high": high}
    assert figures["macro_f1"] == pytest.approx((4 / 5 + 2 / 3) / 2)
    assert figures["balanced_accuracy"] == pytest.approx((2 / 3 + 1) / 2)
    assert figures["calibration"]["brier"] == pytest.approx((2 * 0.125 + 2 * 0.75**2) / 4)
    assert figures["calibration"]["ece"] == pytest.approx(3 / 4 * (0.75 - 2 / 3))
    assert sum(b["images"] for b in figures["calibration"]["bins"]) == 4


def test_confusion_table_is_the_full_grid_with_zeros(tmp_path):
    run = small_run(tmp_path)
    build_summary(run)
    cells = [tuple(r.values()) for r in read(run, "confusion.parquet")]
    assert cells == [
        ("all", "glioma", "glioma", 2),
        ("all", "glioma", "notumor", 1),
        ("all", "notumor", "glioma", 0),
        ("all", "notumor", "notumor", 1),
    ]


def test_per_class_table_holds_support_failures_and_intervals(tmp_path):
    run = small_run(tmp_path)
    build_summary(run)
    glioma = read(run, "per_class.parquet")[0]
    assert [glioma[k] for k in ("group", "class", "support", "failed", "predicted")] == ["all", "glioma", 3, 1, 2]
    assert (glioma["precision"], glioma["recall"], glioma["f1"]) == (1.0, 2 / 3, pytest.approx(4 / 5))
    for figure in ("precision", "recall", "f1"):
        assert glioma[f"{figure}_low"] < glioma[figure] <= glioma[f"{figure}_high"]


def test_tables_on_disk_have_fixed_types_and_are_what_is_returned(tmp_path):
    run = small_run(tmp_path)
    summary = build_summary(run)
    confusion, per_class = (pq.read_table(f"{run}/summary/{n}.parquet") for n in ("confusion", "per_class"))
    assert summary.confusion.equals(confusion)
    assert summary.per_class.equals(per_class)
    assert summary.figures == storage.read_json(f"{run}/summary/summary.json")
    assert confusion.schema.types == [pa.string()] * 3 + [pa.int64()]
    assert per_class.schema.types == [pa.string()] * 2 + [pa.int64()] * 3 + [pa.float64()] * 9 + [pa.string()]


def test_what_is_undefined_is_null_and_keeps_its_type(tmp_path):
    run = run_folder(tmp_path)
    part(run, "a1", [row(None, "glioma")])
    summary = build_summary(run)
    assert summary.per_class.schema.types[5:14] == [pa.float64()] * 9
    assert summary.per_class["precision"].to_pylist() == summary.per_class["f1_high"].to_pylist() == [None, None]
    assert [summary.figures[k] for k in ("accuracy", "macro_f1", "balanced_accuracy", "drift")] == [None] * 4
    assert summary.figures["calibration"]["ece"] is summary.figures["calibration"]["brier"] is None


def test_grouped_run_has_a_block_for_each_group_and_one_for_all(tmp_path):
    summary = build_summary(small_run(tmp_path, group_by="folder"))
    assert summary.confusion["group"].unique().to_pylist() == ["(none)", "x", "y"]
    assert sum(summary.confusion["images"].to_pylist()) == summary.figures["totals"]["scored_and_labelled"]
    assert summary.per_class["group"].to_pylist()[::2] == ["all", "(none)", "x", "y"]
    assert summary.per_class["failed"].to_pylist()[::2] == [1, 0, 0, 1]
    groups = summary.figures["groups"]
    assert {name: group["totals"]["images"] for name, group in groups.items()} == {"(none)": 1, "x": 2, "y": 3}
    assert {name: (g["accuracy"] or {}).get("value") for name, g in groups.items()} == {
        "(none)": None,
        "x": 1,
        "y": 0.5,
    }


def test_run_that_is_not_grouped_has_only_the_group_all(tmp_path):
    summary = build_summary(small_run(tmp_path))
    assert summary.figures["groups"] == {}
    assert set(summary.per_class["group"].to_pylist()) == set(summary.confusion["group"].to_pylist()) == {"all"}


def test_folder_named_all_is_not_taken_for_all_images(tmp_path):
    run = run_folder(tmp_path, group_by="folder")
    part(run, "a1", [row("glioma", "glioma", group="all"), row("glioma", "notumor", group="b")])
    summary = build_summary(run)
    assert list(summary.figures["groups"]) == ["all (group)", "b"]
    assert summary.per_class["support"].to_pylist()[::2] == [2, 1, 1]


def test_label_that_is_no_class_counts_as_unlabelled(tmp_path):
    run = run_folder(tmp_path)
    part(run, "a1", [row("zebra", "glioma"), row("zebra", error="empty"), row("glioma", "glioma")])
    totals = build_summary(run).figures["totals"]
    assert (totals["unlabelled"], totals["scored_and_labelled"], totals["images"]) == (2, 1, 3)


def test_reason_of_a_newer_version_is_counted_as_other(tmp_path):
    run = run_folder(tmp_path)
    part(run, "a1", [row(error="cursed"), row(error="empty")])
    assert build_summary(run).figures["failures"] == {"empty": 1, "other": 1}


def test_pauses_between_runs_do_not_count_as_working_time(tmp_path):
    run = run_folder(tmp_path)
    for shard_id, start_s, end_s in (("a1", 0, 10), ("b2", 5, 15), ("c3", 1000, 1005)):
        part(run, shard_id, [row(None, "glioma")] * 20, start_s=start_s, end_s=end_s)
    throughput = build_summary(run).figures["throughput"]
    assert (throughput["seconds"], throughput["images_per_second"]) == (20.0, 3.0)
    assert throughput["worker_seconds"] == {"predict": 7.5, "read": 3.0}
    assert throughput["worker_seconds_sum"] == 10.5


def test_first_and_last_scored_at_span_all_parts(tmp_path):
    run = run_folder(tmp_path)
    for shard_id, hours in (("a1", 5), ("b2", 0), ("c3", 2)):
        part(run, shard_id, [row(None, "glioma") | {"scored_at": START + timedelta(hours=hours)}])
    figures = build_summary(run).figures
    assert figures["first_scored_at"] == "2025-01-02T03:00:00.000000+00:00"
    assert figures["last_scored_at"] == "2025-01-02T08:00:00.000000+00:00"


def test_drift_is_measured_against_the_reference_of_the_model(tmp_path):
    probs = np.array([[0.75, 0.25]] * 3 + [[0.25, 0.75]] * 2)
    run = small_run(tmp_path, reference=metrics.reference_distribution(probs, CLASSES))
    drift = build_summary(run).figures["drift"]
    assert drift["predicted_psi"] == pytest.approx(0, abs=1e-12)
    assert drift["confidence_psi"] > 0.25  # a fifth of the run has confidence 1


def test_rebuilding_gives_the_same_bytes(tmp_path, plots):
    run = small_run(tmp_path, group_by="folder")
    build_summary(run)
    before = {p.name: p.read_bytes() for p in Path(run, "summary").iterdir()}
    build_summary(run)
    assert {p.name: p.read_bytes() for p in Path(run, "summary").iterdir()} == before
    assert sorted(before) == [
        "confusion.parquet",
        "confusion.png",
        "groups.parquet",
        "per_class.parquet",
        "report.html",
        "review.csv",
        "review.parquet",
        "summary.json",
    ]


def test_figures_do_not_depend_on_how_rows_were_cut_into_parts(tmp_path):
    rng = np.random.default_rng(0)
    rows = [row(*rng.choice(CLASSES, 2), float(c), group=str(rng.integers(3))) for c in rng.uniform(0.5, 1, 120)]
    found = []
    for parts in (1, 7, 40):  # more than one task of the reading threads
        run = run_folder(tmp_path / str(parts), group_by="folder")
        for i in range(parts):
            part(run, f"{i:x}", rows[i::parts])
        figures = build_summary(run).figures
        del figures["throughput"]
        found.append(json.dumps(figures))
    assert found[0] == found[1] == found[2]


def test_summary_json_is_written_last(tmp_path, monkeypatch):
    written = []
    write = storage.Writer.write_bytes

    def noting(writer, uri, data):
        written.append(storage.name_of(uri))
        write(writer, uri, data)

    monkeypatch.setattr(storage.Writer, "write_bytes", noting)
    run = small_run(tmp_path)
    written.clear()
    build_summary(run)
    assert written[-1] == "summary.json"


def test_part_without_rows_is_fine(tmp_path, plots):
    run = run_folder(tmp_path, group_by="folder")
    part(run, "a1", [])
    summary = build_summary(run)
    assert summary.figures["totals"]["images"] == 0
    assert summary.figures["first_scored_at"] is None
    assert summary.confusion.num_rows == 0


def test_folder_without_run_json_is_no_run(tmp_path):
    with pytest.raises(BadRequest, match=r"is no run: .*give the folder that `brainray score --output` wrote"):
        build_summary(str(tmp_path))


def test_run_without_parts_has_nothing_to_report(tmp_path):
    with pytest.raises(BadRequest, match="nothing is scored yet"):
        build_summary(run_folder(tmp_path))


def test_run_json_without_classes_is_named(tmp_path):
    storage.write_json(f"{tmp_path}/run.json", {"fingerprint": "f00d"})
    with pytest.raises(StorageError, match=r"run\.json: holds no 'classes'"):
        build_summary(str(tmp_path))


def damaged(run):
    storage.write_bytes(part_uri(run, "bad"), b"PAR1 and then nothing")


def other_model(run):
    part(run, "bad", [row(None, "glioma")], model="cafe")


def other_classes(run):
    part(run, "bad", [row(None, "a", classes=("a", "b"))], classes=("a", "b"))


def unknown_prediction(run):
    part(run, "bad", [row(None, "glioma") | {"predicted": "zebra"}])


def no_probability(run):
    part(run, "bad", [row(None, "glioma") | {"prob_glioma": None}])


def no_metadata(run):
    storage.write_parquet(part_uri(run, "bad"), pa.Table.from_pylist([], schema=prediction_schema(CLASSES)))


def no_clock(run):
    part(run, "bad", [row(None, "glioma")])
    table = pq.read_table(part_uri(run, "bad"))
    note = json.loads(table.schema.metadata[b"brainray"])
    note["work"][0]["started_at"] = "yesterday"
    storage.write_parquet(part_uri(run, "bad"), table.replace_schema_metadata({b"brainray": json.dumps(note)}))


@each("spoil", [damaged, other_model, other_classes, unknown_prediction, no_probability, no_metadata, no_clock])
def test_part_that_cannot_be_trusted_is_named(tmp_path, spoil):
    run = small_run(tmp_path)
    spoil(run)
    with pytest.raises(StorageError, match=r"predictions/part-bad\.parquet"):
        build_summary(run)
    assert not Path(run, "summary").exists()


@pytest.mark.parametrize(
    ("classes", "label"),
    [
        (tuple(f"class number {k}, with a name" for k in range(30)), 0),
        (("$x", "脑$_{"), 0),
        (("a", "b"), None),
    ],
)
def test_picture_is_drawn_for_any_classes_labelled_or_not(tmp_path, recwarn, plots, classes, label):
    run = run_folder(tmp_path, classes=list(classes))
    part(run, "a1", [row(label if label is None else classes[0], classes[1], classes=classes)], classes=classes)
    build_summary(run)
    assert Path(run, "summary", "confusion.png").read_bytes().startswith(PNG)
    assert not [str(w.message) for w in recwarn]
