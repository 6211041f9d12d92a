"""A run on disk, scored in this process without Ray, one shard after the other."""

import os
import shutil
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow.parquet as pq
import pytest
from support.imaging.images import image_bytes
from support.models.bundles import untrained
from support.scoring.runs import contents, engine_of, parts, request_for, rows, score_here, success

from brainray import storage
from brainray.commands.score import plan_only, score
from brainray.errors import BadRequest, OtherModel
from brainray.scoring.summary.build import build_summary, read_summary


def manifest(uri):
    return {row["uri"]: row for row in pq.read_table(f"{uri}/manifest").to_pylist()}


def test_a_whole_run_has_a_row_an_image_and_says_so(run, begun, bundle):
    root = begun(images=4)
    assert sorted(contents(run.uri)) == sorted(map(str, root.rglob("*.jpg")))
    assert storage.read_json(f"{run.uri}/_SUCCESS") == {"rows": 16, "failed": 0, "fingerprint": bundle.fingerprint}
    assert storage.read_json(f"{run.uri}/run.json")["classes"] == list(bundle.classes)


def test_with_nothing_new_nothing_is_written(run, begun):
    root = begun(images=2)
    before = {path: os.stat(path).st_mtime_ns for path, *_ in os.walk(run.uri)}
    outcome = run(root, only=None)
    assert outcome.plan.complete and outcome.scored == 0
    assert {path: os.stat(path).st_mtime_ns for path, *_ in os.walk(run.uri)} == before


def test_an_interrupted_run_goes_on_where_it_stopped(run, archive):
    root = archive(images=4)
    run(root, only=1)
    assert not success(run.uri)
    finished = parts(run.uri)
    assert run(root).scored == 10
    assert finished.items() <= parts(run.uri).items()
    resumed = contents(run.uri)
    shutil.rmtree(run.uri)
    run(root)
    assert contents(run.uri) == resumed


def test_added_images_come_in_new_shards_and_no_part_is_touched(run, begun):
    root = begun(images=3)
    before = parts(run.uri)
    for i in range(4):
        (root / "glioma" / f"before-all-others-{i}.jpg").write_bytes(image_bytes(70 + i))
    assert run(root).scored == 4
    assert before.items() <= parts(run.uri).items()
    assert len(contents(run.uri)) == 16


def test_a_run_that_noted_fewer_libraries_is_read_and_extended(run, begun):
    """As one of an earlier version. What made a run does not keep it from being read."""
    root = begun(images=2)
    described = storage.read_json(f"{run.uri}/run.json")
    assert "opencv-python-headless" in described["versions"]
    storage.write_json(f"{run.uri}/run.json", described | {"versions": {"brainray": "0.1", "torch": "2.0"}})
    assert run(root).plan.complete
    (root / "glioma" / "later.jpg").write_bytes(image_bytes(70))
    assert run(root).scored == 1
    assert storage.read_json(f"{run.uri}/run.json")["versions"] == described["versions"] | {"brainray decoding": "1"}


def test_a_changed_image_alone_is_read_again_and_replaces_its_row(run, begun):
    root = begun(images=3)
    before, scored_at = contents(run.uri), {row["uri"]: row["scored_at"] for row in rows(run.uri)}
    changed = root / "glioma" / "0.jpg"
    changed.write_bytes(b"broken now")
    names = set(parts(run.uri))
    assert run(root).scored == 1
    after = contents(run.uri)
    assert after.pop(str(changed))["error"] == "not_an_image"
    del before[str(changed)]
    assert after == before
    assert set(parts(run.uri)) == names, "a changed image must stay in its part: else a glob sees it twice"
    again = {row["uri"] for row in rows(run.uri) if row["scored_at"] != scored_at[row["uri"]]}
    assert again == {str(changed)}


def test_an_image_that_disappeared_keeps_its_row_and_is_marked_as_gone(run, begun):
    root = begun(images=3)
    before, written = contents(run.uri), parts(run.uri)
    (root / "glioma" / "1.jpg").unlink()
    outcome = run(root)
    assert (outcome.scored, outcome.summary.figures["gone"]) == (0, 1)
    assert contents(run.uri) == before and parts(run.uri) == written
    assert [uri for uri, row in manifest(run.uri).items() if row["gone"]] == [str(root / "glioma" / "1.jpg")]
    assert success(run.uri) and run(root).plan.complete


def test_a_gone_image_that_returns_is_not_scored_again(run, begun):
    root = begun(images=2)
    image = root / "glioma" / "1.jpg"
    image.rename(root.parent / "kept.jpg")
    run(root)
    (root.parent / "kept.jpg").rename(image)
    assert run(root).scored == 0
    assert not manifest(run.uri)[str(image)]["gone"]


def test_forgetting_drops_the_rows_of_gone_images_and_reads_none(run, begun):
    root = begun(images=3)
    (root / "glioma" / "1.jpg").unlink()
    shutil.rmtree(root / "notumor")
    run(root)
    assert len(contents(run.uri)) == 12
    assert run(root, forget_missing=True, on_shard=lambda _: pytest.fail("a shard was scored")).scored == 0
    assert sorted(contents(run.uri)) == sorted(manifest(run.uri)) == sorted(map(str, root.rglob("*.jpg")))


def test_an_image_gone_before_it_was_scored_has_a_row_that_says_so(run, archive):
    root = archive(images=10)
    run(root, only=1)
    shutil.rmtree(root / "pituitary")  # so many that reading them would pass for an outage
    run(root)
    found = contents(run.uri)
    assert len(found) == 40
    assert {row["error"] for uri, row in found.items() if "/pituitary/" in uri} == {"not_found"}


def test_success_is_gone_while_a_run_is_extended(run, begun):
    root = begun(images=3)
    (root / "pituitary" / "new.jpg").write_bytes(b"x")
    run(root, only=0)
    assert not success(run.uri)


def test_another_model_is_refused_and_touches_nothing(run, begun, bundle, other):
    root = begun(images=1)
    before = storage.read_bytes(f"{run.uri}/run.json")
    with pytest.raises(OtherModel, match=rf"{bundle.fingerprint}.*{other.fingerprint}"):
        run(root, model=other)
    assert storage.read_bytes(f"{run.uri}/run.json") == before
    assert success(run.uri)


def test_another_precision_is_refused(run, begun):
    root = begun(images=1)
    with pytest.raises(BadRequest, match="a run with --precision auto, not fp32"):
        run(root, precision="fp32")


def test_other_inputs_are_refused_and_more_inputs_extend_the_run(run, archive, bundle):
    first, second = archive("first", images=1), archive("second", images=1)
    run(first)
    with pytest.raises(BadRequest, match=f"holds a run of --input {first} too"):
        run(second)
    plan = plan_only(request_for((first, second), run.uri, bundle))
    assert (plan.images, plan.todo_images) == (8, 4)
    assert success(run.uri)


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda p: p.write_text("x"), "is a file"),
        (lambda p: (p.mkdir(), (p / "thesis.doc").write_text("x")), "holds other files and no run"),
    ],
)
def test_an_output_that_is_not_ours_is_left_alone(run, archive, tmp_path, make, complaint):
    make(tmp_path / "run")
    with pytest.raises(BadRequest, match=complaint):
        run(archive(images=1))


@pytest.mark.parametrize(
    ("files", "complaint"),
    [
        ((), "no image files found; the folder is empty"),
        (("a.txt", "b.txt"), r"no image files found \(passed over: 2 suffix .txt\)"),
    ],
)
def test_an_input_without_images_is_refused_and_nothing_is_written(run, tmp_path, files, complaint):
    (tmp_path / "in").mkdir()
    for name in files:
        (tmp_path / "in" / name).write_text("x")
    with pytest.raises(BadRequest, match=complaint):
        run(tmp_path / "in")
    assert not os.path.exists(run.uri)


def test_a_summary_is_read_back_as_it_was_written(run, archive):
    run(archive(images=2))
    read, built = read_summary(run.uri), build_summary(run.uri)
    assert read.figures == built.figures
    assert read.confusion == built.confusion
    assert read.per_class.equals(built.per_class)


@pytest.mark.parametrize("ahead", [timedelta(hours=-2), timedelta(hours=2)])
def test_the_rate_does_not_depend_on_the_clocks_of_other_machines(ahead, bundle, archive, tmp_path):
    """A worker's clock that is two hours ahead made thousands of images a second."""
    begun = datetime.now(UTC) + ahead
    work = {"started_at": begun.isoformat(), "finished_at": (begun + timedelta(seconds=10)).isoformat()}
    engine, rates = engine_of(bundle), []

    def elsewhere(request, plan, lease):
        for info in engine(request, plan, lease):
            yield replace(info, work=(replace(info.work[-1], **work),))

    score(
        request_for(archive(images=2), tmp_path / "run", bundle),
        listener=lambda progress: rates.append(progress.images_per_s),
        say=lambda _: None,
        engine=elsewhere,
        clock=lambda: 5.0,
    )
    assert [rate for rate in rates if rate] == [6 / 10, 8 / 10]


def test_a_plan_writes_nothing(bundle, archive, tmp_path):
    plan = plan_only(request_for(archive(images=2), tmp_path / "run", bundle))
    assert (plan.todo_images, len(plan.todo)) == (8, 2)
    assert not (tmp_path / "run").exists()


def test_unread_images_are_read_again_on_request(run, archive):
    root = archive(images=2)
    lost, kept = root / "glioma" / "1.jpg", root.parent / "elsewhere.jpg"
    lost.rename(kept)
    lost.symlink_to(kept.parent / "later.jpg")
    run(root)
    assert contents(run.uri)[str(lost)]["error"] == "not_found"
    kept.rename(kept.parent / "later.jpg")
    stamp = os.stat(lost, follow_symlinks=False).st_mtime_ns
    os.utime(kept.parent / "later.jpg", ns=(stamp, stamp))
    outcome = run(root, retry_unread=True)
    assert outcome.scored == 1
    assert contents(run.uri)[str(lost)]["status"] == "ok"
    assert run(root, retry_unread=True).scored == 0


@pytest.mark.parametrize("classes", [("healthy", "sick"), ("a", "b", "c", "d", "e")], ids=["2", "5"])
def test_nothing_assumes_four_classes(classes, archive, tmp_path):
    model = untrained(tmp_path / "model", classes=classes)
    root, run = archive("other", images=3, classes=classes), tmp_path / "run"
    outcome = score_here(request_for(root, run, model), engine_of(model))
    assert (outcome.scored, outcome.failed) == (3 * len(classes), 0)
    for row in rows(run):
        probs = [row[f"prob_{name}"] for name in model.classes]
        assert sum(probs) == pytest.approx(1, abs=1e-5)
        assert row["predicted"] == model.classes[int(np.argmax(probs))]
    figures = build_summary(str(run)).figures
    assert figures["classes"] == list(model.classes)
    assert figures["totals"]["scored_and_labelled"] == 3 * len(classes)
