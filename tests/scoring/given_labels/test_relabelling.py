"""New labels for a run: its parts are rewritten side by side, and no image is read."""

import os
import shutil
import threading

import pytest
from support.imaging.images import image_bytes
from support.models.bundles import CLASSES
from support.scoring.runs import Stopped, contents, engine_of, request_for, rows, score_here, success

from brainray import storage
from brainray.commands import score as score_job
from brainray.commands.score import plan_only, score
from brainray.errors import OutputHeld, StorageError
from brainray.inputs.labels.answer_file import read_label_file
from brainray.scoring.run_folder import verify_run

SHARDS = 24  # more than are rewritten side by side, eight at a time, before an error in the sixteenth is noticed


def test_new_labels_change_rows_without_reading_an_image(run, begun, bundle, tmp_path):
    root = begun(images=2)
    os.rename(root / "glioma", tmp_path / "kept")
    run(root)
    request = request_for(root, run.uri, bundle, group_by="folder")
    outcome = score_here(request, engine_of(bundle, on_shard=lambda _: pytest.fail("a shard was scored")))
    assert outcome.scored == 0
    found = contents(run.uri)
    assert {row["group"] for uri, row in found.items() if "/notumor/" in uri} == {"notumor"}
    assert set(outcome.summary.figures["groups"]) == {"(none)", "meningioma", "notumor", "pituitary"}


@pytest.fixture(scope="module")
def many_shards(bundle, tmp_path_factory):
    """An archive and its run of as many shards of an image each, made once."""
    folder = tmp_path_factory.mktemp("many")
    root = folder / "archive"
    for number in range(SHARDS):
        path = root / CLASSES[number % 4] / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image_bytes(number))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("brainray.scoring.summary.build.draw_confusion", lambda *_: b"no plot")
        score_here(request_for(root, folder / "run", bundle, shard_size=1), engine_of(bundle))
    return root, folder / "run"


@pytest.fixture
def relabelling(run, many_shards, bundle):
    """A run of many shards of an image each, and how to give all of them a group; tells what the listener heard."""
    root, made = many_shards
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
    assert len(groups(run.uri)) == SHARDS
    assert None not in groups(run.uri)


def test_relabelling_tells_how_far_it_is(run, relabelling):
    heard, status = [], []

    def listener(progress):
        if heard and progress.phase == "updating":
            status.append(storage.read_json(f"{run.uri}/status.json"))
        heard.append(progress)

    relabelling(listener)
    assert [p.done for p in heard if p.phase == "updating"] == list(range(SHARDS + 1))
    assert {p.total for p in heard if p.phase == "updating"} == {SHARDS}
    assert status[-1]["phase"] == "updating"
    assert status[-1]["total"] == SHARDS


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
    relabelled = SHARDS - groups(run.uri).count(None)
    assert relabelled == 15
    assert not success(run.uri)
    assert len(relabelling().plan.pending) == SHARDS - relabelled
    assert None not in groups(run.uri)
    assert verify_run(run.uri).problems == ()


def test_a_run_that_was_taken_over_relabels_nothing_more(run, relabelling, monkeypatch):
    settle, lock, done = score_job.commit_unscored, threading.Lock(), []

    def taken_over(*args):
        with lock:  # one by one, for the takeover to stand between two of them
            held = storage.list_names(f"{run.uri}/.lease") if len(done) == 5 else []
            for epoch in held:  # none for those that come after the takeover
                storage.revoke(f"{run.uri}/.lease/{epoch}")
            info = settle(*args)
            done.append(info)
            return info

    monkeypatch.setattr(score_job, "commit_unscored", taken_over)
    with pytest.raises(OutputHeld):
        relabelling()
    assert len(done) == 5
    assert groups(run.uri).count(None) == SHARDS - 5


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
