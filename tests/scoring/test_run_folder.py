"""A run on disk, scored in this process without Ray, one shard after the other."""

import json
import os
import shutil
import threading

import numpy as np
import pyarrow.parquet as pq
import pytest
from support.bundles import CLASSES, derived, untrained
from support.faults import Killed, mark_lease_dead
from support.images import image_bytes
from support.runs import Stopped, contents, engine_of, request_for, rows, score_here

from brainray import storage
from brainray.commands import score as score_job
from brainray.commands.score import plan_only, score
from brainray.errors import BadRequest, OtherModel, OutputHeld, StorageError, VerificationError
from brainray.inputs.labels.label_file import read_label_file
from brainray.scoring import rescore
from brainray.scoring.parts import part_uri
from brainray.scoring.run_folder import verify_run
from brainray.scoring.summary.build import build_summary, read_summary


@pytest.fixture
def run(bundle, tmp_path, no_plot):
    """Scores into one output. `only` stops it dead after so many shards, as a killed run is."""

    def start(root, *, only=None, model=bundle, on_shard=None, **options):
        request = request_for(root, start.uri, model, **options)
        engine = engine_of(model, only=only, on_shard=on_shard)
        if only is None:
            return score_here(request, engine)
        with pytest.raises(Stopped):
            score_here(request, engine)
        return None

    start.uri = str(tmp_path / "run")
    return start


@pytest.fixture
def other(bundle, tmp_path):
    """Another model: the same weights with another temperature."""
    return derived(bundle, tmp_path / "other")


def parts(uri):
    """Name and time of writing of each part."""
    folder = f"{uri}/predictions"
    return {name: os.stat(f"{folder}/{name}").st_mtime_ns for name in os.listdir(folder)}


def manifest(uri):
    return {row["uri"]: row for row in pq.read_table(f"{uri}/manifest").to_pylist()}


def success(uri):
    return storage.exists(f"{uri}/_SUCCESS")


def test_a_whole_run_has_a_row_an_image_and_says_so(run, archive, bundle):
    root = archive(images=4)
    run(root)
    assert sorted(contents(run.uri)) == sorted(map(str, root.rglob("*.jpg")))
    assert storage.read_json(f"{run.uri}/_SUCCESS") == {"rows": 16, "failed": 0, "fingerprint": bundle.fingerprint}
    assert storage.read_json(f"{run.uri}/run.json")["classes"] == list(bundle.classes)


def test_with_nothing_new_nothing_is_written(run, archive):
    root = archive(images=2)
    run(root)
    before = {path: os.stat(path).st_mtime_ns for path, *_ in os.walk(run.uri)}
    outcome = run(root, only=None)
    assert outcome.plan.complete and outcome.scored == 0
    assert {path: os.stat(path).st_mtime_ns for path, *_ in os.walk(run.uri)} == before


def test_an_interrupted_run_goes_on_where_it_stopped(run, archive):
    root = archive(images=4)
    run(root, only=2)
    assert not success(run.uri)
    finished = parts(run.uri)
    assert run(root).scored == 10
    assert finished.items() <= parts(run.uri).items()
    resumed = contents(run.uri)
    shutil.rmtree(run.uri)
    run(root)
    assert contents(run.uri) == resumed


def test_added_images_come_in_new_shards_and_no_part_is_touched(run, archive):
    root = archive(images=3)
    run(root)
    before = parts(run.uri)
    for i in range(4):
        (root / "glioma" / f"before-all-others-{i}.jpg").write_bytes(image_bytes(70 + i))
    assert run(root).scored == 4
    assert before.items() <= parts(run.uri).items()
    assert len(contents(run.uri)) == 16


def test_a_run_that_noted_fewer_libraries_is_read_and_extended(run, archive):
    """As one of an earlier version. What made a run does not keep it from being read."""
    root = archive(images=2)
    run(root)
    described = storage.read_json(f"{run.uri}/run.json")
    assert "opencv-python-headless" in described["versions"]
    storage.write_json(f"{run.uri}/run.json", described | {"versions": {"brainray": "0.1", "torch": "2.0"}})
    assert run(root).plan.complete
    (root / "glioma" / "later.jpg").write_bytes(image_bytes(70))
    assert run(root).scored == 1
    assert storage.read_json(f"{run.uri}/run.json")["versions"] == described["versions"]


def test_a_changed_image_alone_is_read_again_and_replaces_its_row(run, archive):
    root = archive(images=3)
    run(root)
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


def test_an_image_that_disappeared_keeps_its_row_and_is_marked_as_gone(run, archive):
    root = archive(images=3)
    run(root)
    before, written = contents(run.uri), parts(run.uri)
    (root / "glioma" / "1.jpg").unlink()
    outcome = run(root)
    assert (outcome.scored, outcome.summary.figures["gone"]) == (0, 1)
    assert contents(run.uri) == before and parts(run.uri) == written
    assert [uri for uri, row in manifest(run.uri).items() if row["gone"]] == [str(root / "glioma" / "1.jpg")]
    assert success(run.uri) and run(root).plan.complete


def test_a_gone_image_that_returns_is_not_scored_again(run, archive):
    root = archive(images=2)
    run(root)
    image = root / "glioma" / "1.jpg"
    image.rename(root.parent / "kept.jpg")
    run(root)
    (root.parent / "kept.jpg").rename(image)
    assert run(root).scored == 0
    assert not manifest(run.uri)[str(image)]["gone"]


def test_forgetting_drops_the_rows_of_gone_images_and_reads_none(run, archive):
    root = archive(images=3)
    run(root)
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


def test_new_labels_change_rows_without_reading_an_image(run, archive, bundle, tmp_path):
    root = archive(images=2)
    run(root)
    os.rename(root / "glioma", tmp_path / "kept")
    run(root)
    request = request_for(root, run.uri, bundle, group_by="folder")
    outcome = score_here(request, engine_of(bundle, on_shard=lambda _: pytest.fail("a shard was scored")))
    assert outcome.scored == 0
    found = contents(run.uri)
    assert {row["group"] for uri, row in found.items() if "/notumor/" in uri} == {"notumor"}
    assert set(outcome.summary.figures["groups"]) == {"(none)", "meningioma", "notumor", "pituitary"}


@pytest.fixture(scope="module")
def forty_shards(bundle, tmp_path_factory):
    """An archive and its run of 40 shards of an image each, made once: that takes a second."""
    folder = tmp_path_factory.mktemp("forty")
    root = folder / "archive"
    for number in range(40):
        path = root / CLASSES[number % 4] / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image_bytes(number))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("brainray.scoring.summary.build.draw_confusion", lambda *_: b"no plot")
        score_here(request_for(root, folder / "run", bundle, shard_size=1), engine_of(bundle))
    return root, folder / "run"


@pytest.fixture
def relabelling(run, forty_shards, bundle):
    """A run of 40 shards of an image each, and how to give all of them a group; tells what the listener heard."""
    root, made = forty_shards
    shutil.copytree(made, run.uri)
    request = request_for(root, run.uri, bundle, shard_size=1, group_by="folder")

    def start(listener=lambda _: None):
        engine = engine_of(bundle, on_shard=lambda _: pytest.fail("a shard was scored"))
        return score(request, listener=listener, say=lambda _: None, engine=engine)

    return start


def groups(uri):
    return [row["group"] for row in rows(uri)]


def test_parts_are_relabelled_side_by_side(run, relabelling, monkeypatch):
    together = threading.Barrier(8)
    settle = score_job.commit_unscored
    monkeypatch.setattr(score_job, "commit_unscored", lambda *args: (together.wait(timeout=60), settle(*args))[1])
    relabelling()
    assert len(groups(run.uri)) == 40
    assert None not in groups(run.uri)


def test_relabelling_tells_how_far_it_is(run, relabelling):
    heard, status = [], []

    def listener(progress):
        if heard and progress.phase == "updating":
            status.append(storage.read_json(f"{run.uri}/status.json"))
        heard.append(progress)

    relabelling(listener)
    assert [p.done for p in heard if p.phase == "updating"] == list(range(41))
    assert {p.total for p in heard if p.phase == "updating"} == {40}
    assert status[-1]["phase"] == "updating"
    assert status[-1]["total"] == 40


@pytest.mark.parametrize("interrupted", [False, True])
def test_relabelling_stops_at_the_first_error_and_goes_on_when_run_again(run, relabelling, monkeypatch, interrupted):
    settle, lock, begun, heard = score_job.commit_unscored, threading.Lock(), [], threading.Event()

    def fifteen(*args):
        """Fifteen succeed; the others fail, after Ctrl-C if there is to be one."""
        with lock:
            begun.append(args)
            number = len(begun)
        if number <= 15:
            return settle(*args)
        assert heard.wait(60)
        raise StorageError("read_failed", "the disk is full")

    def press(progress):
        if progress.phase == "updating" and progress.done == 10:
            heard.set()
            raise KeyboardInterrupt

    if not interrupted:
        heard.set()
    with monkeypatch.context() as patch:
        patch.setattr(score_job, "commit_unscored", fifteen)
        with pytest.raises(KeyboardInterrupt if interrupted else StorageError):
            relabelling(*[press] * interrupted)
    assert not any(thread.name.startswith("update") for thread in threading.enumerate())
    relabelled = 40 - groups(run.uri).count(None)
    assert relabelled == 15
    assert not success(run.uri)
    assert len(relabelling().plan.pending) == 40 - relabelled
    assert None not in groups(run.uri)
    assert verify_run(run.uri).problems == ()


def test_a_run_that_was_taken_over_relabels_nothing_more(run, relabelling, monkeypatch):
    settle, lock, done = score_job.commit_unscored, threading.Lock(), []

    def taken_over(*args):
        with lock:  # one by one, for the takeover to stand between two of them
            if len(done) == 5:
                storage.revoke(f"{run.uri}/.lease/{storage.list_names(f'{run.uri}/.lease')[-1]}")
            info = settle(*args)
            done.append(info)
            return info

    monkeypatch.setattr(score_job, "commit_unscored", taken_over)
    with pytest.raises(OutputHeld):
        relabelling()
    assert len(done) == 5
    assert groups(run.uri).count(None) == 35


def test_labels_still_fit_when_an_image_is_gone_and_the_run_is_planned_twice(run, archive, bundle, tmp_path):
    root = archive(images=2)
    (tmp_path / "labels.csv").write_text("file,label\nglioma/0.jpg,pituitary\nglioma/1.jpg,notumor\n")
    label_file = read_label_file(str(tmp_path / "labels.csv"), bundle.classes)
    request = request_for(root, run.uri, bundle, label_file=label_file)
    with pytest.raises(Stopped):
        score_here(request, engine_of(bundle, only=1))
    (root / "glioma" / "1.jpg").unlink()
    plan_only(request)
    score_here(request, engine_of(bundle))
    found = contents(run.uri)
    assert found[str(root / "glioma" / "0.jpg")]["label"] == "pituitary"
    assert found[str(root / "glioma" / "1.jpg")]["label"] == "notumor"


def test_success_is_gone_while_a_run_is_extended(run, archive):
    root = archive(images=3)
    run(root)
    (root / "pituitary" / "new.jpg").write_bytes(b"x")
    run(root, only=0)
    assert not success(run.uri)


def test_another_model_is_refused_and_touches_nothing(run, archive, bundle, other):
    root = archive(images=1)
    run(root)
    before = storage.read_bytes(f"{run.uri}/run.json")
    with pytest.raises(OtherModel, match=rf"{bundle.fingerprint}.*{other.fingerprint}"):
        run(root, model=other)
    assert storage.read_bytes(f"{run.uri}/run.json") == before
    assert success(run.uri)


def test_another_precision_is_refused(run, archive):
    root = archive(images=1)
    run(root)
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


def test_a_plan_writes_nothing(bundle, archive, tmp_path):
    plan = plan_only(request_for(archive(images=2), tmp_path / "run", bundle))
    assert (plan.todo_images, len(plan.todo)) == (8, 3)
    assert not (tmp_path / "run").exists()


def damage(path):
    """Turn over one byte of the data, as a bad disk does; the footer stays readable."""
    data = bytearray(path.read_bytes())
    data[len(data) // 4] ^= 0xFF
    path.write_bytes(bytes(data))


def rewrite(path, change):
    table = pq.read_table(path)
    pq.write_table(change(table).replace_schema_metadata(table.schema.metadata), path)


FAULTS = {
    "missing": (lambda p: p.unlink(), r"part-\w+\.parquet is missing, with the rows of .*glioma/0\.jpg"),
    "cut": (lambda p: p.write_bytes(p.read_bytes()[:-20]), r"part-\w+\.parquet is damaged"),
    "damaged": (damage, r"part-\w+\.parquet is damaged"),
    "doubled": (lambda p: rewrite(p, lambda t: t.take([0, 0, 2])), r"lacks .*1\.jpg.*more than one row for .*0\.jpg"),
    "another model": (
        lambda p: rewrite(p, lambda t: t.replace_schema_metadata(changed(t, model="another"))),
        "of model another",
    ),
}


def changed(table, **values):
    key = b"brainray"
    return {key: json.dumps(json.loads(table.schema.metadata[key]) | values)}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_part_harmed_later_is_found_and_made_anew(fault, run, archive):
    root = archive(images=3)
    run(root)
    before = contents(run.uri)
    (first,) = {row["shard_id"] for row in rows(run.uri) if row["uri"].endswith("glioma/0.jpg")}
    uri = part_uri(run.uri, first)
    harm, complaint = FAULTS[fault]
    if fault == "another model":
        table = pq.read_table(uri)
        pq.write_table(table.replace_schema_metadata(changed(table, model="another")), uri)
    else:
        harm(type(root)(uri))
    with pytest.raises(VerificationError, match=complaint):
        verify_run(run.uri)
    storage.delete(uri)
    assert run(root).scored == 3
    assert contents(run.uri) == before
    assert verify_run(run.uri).rows == 12


@pytest.mark.parametrize("fault", ["missing", "doubled", "damaged"])
def test_rows_that_do_not_add_up_are_named_and_never_published(fault, run, archive, bundle):
    root = archive(images=3)
    harm, complaint = FAULTS[fault]
    engine = engine_of(bundle)

    def harming(request, plan, lease):
        done = list(engine(request, plan, lease))
        harm(root.parent / "run" / "predictions" / f"part-{done[0].shard_id}.parquet")
        yield from done

    with pytest.raises(VerificationError, match=complaint):
        score_here(request_for(root, run.uri, bundle), harming)
    assert not success(run.uri)
    assert run(root).scored == 3, "the same command must score just the rows that were lost"
    assert len(contents(run.uri)) == 12 and success(run.uri)


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


def test_rescoring_leaves_the_old_run_whole_until_the_new_one_is(run, archive, bundle, other):
    root = archive(images=3)
    run(root)
    before, names = contents(run.uri), set(parts(run.uri))
    run(root, model=other, rescore=True, only=2)
    assert contents(run.uri) == before and success(run.uri)
    assert verify_run(run.uri).rows == 12
    assert run(root, model=other, rescore=True).scored == 6, "the new generation goes on where it stopped"
    assert {row["model"] for row in rows(run.uri)} == {other.fingerprint}
    assert set(parts(run.uri)) == names
    assert verify_run(run.uri).rows == 12
    assert storage.read_json(f"{run.uri}/_SUCCESS")["fingerprint"] == other.fingerprint
    assert not os.path.exists(f"{run.uri}/.rescore")
    assert run(root, model=other).plan.complete
    with pytest.raises(OtherModel):
        run(root)


@pytest.mark.parametrize("where", ["build_summary", "publish", "verification_of"])
def test_rescoring_that_is_killed_in_the_switch_is_not_done_a_second_time(where, run, archive, monkeypatch):
    root = archive(images=3)
    run(root)

    def die(*_, **__):
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(rescore, where, die)
        run(root, rescore=True)
    assert not success(run.uri)
    mark_lease_dead(run.uri)
    assert run(root, rescore=True, on_shard=lambda _: pytest.fail("a shard was scored twice")).scored == 0
    assert verify_run(run.uri).rows == 12
    assert not os.path.exists(f"{run.uri}/.rescore")


def test_a_generation_that_was_switched_in_is_removed_by_the_next_run(run, archive, monkeypatch):
    root = archive(images=2)
    run(root)
    with monkeypatch.context() as patch:
        patch.setattr(storage.Writer, "delete_tree", lambda *_, **__: None)
        run(root, rescore=True)
    assert os.path.exists(f"{run.uri}/.rescore")
    (root / "glioma" / "new.jpg").write_bytes(image_bytes(99))
    run(root)
    assert not os.path.exists(f"{run.uri}/.rescore")
    assert run(root, rescore=True).scored == 9, "a later wish to score everything anew must not find old work"


def test_rescoring_takes_new_images_in_and_drops_those_that_are_gone(run, archive, other):
    root = archive(images=3)
    run(root)
    (root / "glioma" / "1.jpg").unlink()
    (root / "glioma" / "new.jpg").write_bytes(image_bytes(99))
    run(root, model=other, rescore=True)
    assert sorted(contents(run.uri)) == sorted(map(str, root.rglob("*.jpg")))


def test_rescoring_with_the_same_model_scores_every_image_again(run, archive):
    root = archive(images=2)
    run(root)
    before, scored_at = contents(run.uri), {row["scored_at"] for row in rows(run.uri)}
    assert run(root, rescore=True).scored == 8
    assert contents(run.uri) == before
    assert scored_at.isdisjoint(row["scored_at"] for row in rows(run.uri))


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
