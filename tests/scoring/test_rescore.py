"""A run that is scored anew beside the old one, and replaces it."""

import os

import pytest
from support.imaging.images import image_bytes
from support.scoring.runs import contents, parts, request_for, rows, success
from support.storage.faults import Killed, mark_lease_dead

from brainray import storage
from brainray.commands.compare import compare
from brainray.commands.report import report
from brainray.commands.score import plan_only
from brainray.errors import OtherModel, StorageError
from brainray.scoring import rescore
from brainray.scoring.run_folder import verify_run


def test_rescoring_leaves_the_old_run_whole_until_the_new_one_is(run, begun, bundle, other):
    root = begun(images=3)
    before, names = contents(run.uri), set(parts(run.uri))
    run(root, model=other, rescore=True, only=1)
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
def test_rescoring_that_is_killed_in_the_switch_is_not_done_a_second_time(where, run, begun, monkeypatch):
    root = begun(images=3)

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


def test_a_report_completes_a_switch_that_was_killed_between_two_parts(run, archive, other, monkeypatch):
    """Its rows are of two models, of which no command may make figures."""
    root = archive(images=3)
    run(root)
    copy = storage.Writer.copy

    def copy_a_part_and_die(self, source, target):
        copy(self, source, target)
        if "/part-" in target:
            raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(storage.Writer, "copy", copy_a_part_and_die)
        run(root, model=other, rescore=True)
    with pytest.raises(StorageError, match=r"--rescore was stopped .* run the same `score` command again"):
        compare(run.uri, run.uri, output=None, thumbnails=False, say=lambda _: None)
    mark_lease_dead(run.uri)
    assert report(run.uri, say=lambda _: None).figures["totals"]["images"] == 12
    assert verify_run(run.uri).rows == 12 and success(run.uri)
    assert {row["model"] for row in rows(run.uri)} == {other.fingerprint}


@pytest.fixture
def undeleted(run, begun, monkeypatch):
    """An archive that was scored anew, by a run that was killed before it deleted the new generation."""
    root = begun(images=2)
    with monkeypatch.context() as patch:
        patch.setattr(storage.Writer, "delete_tree", lambda *_, **__: None)
        run(root, rescore=True)
    return root


def test_a_generation_that_was_switched_in_is_removed_by_the_next_run(run, undeleted):
    root = undeleted
    assert os.path.exists(f"{run.uri}/.rescore")
    (root / "glioma" / "new.jpg").write_bytes(image_bytes(99))
    run(root)
    assert not os.path.exists(f"{run.uri}/.rescore")
    assert run(root, rescore=True).scored == 9, "a later wish to score everything anew must not find old work"


def test_rescoring_takes_new_images_in_and_drops_those_that_are_gone(run, begun, other):
    root = begun(images=3)
    (root / "glioma" / "1.jpg").unlink()
    (root / "glioma" / "new.jpg").write_bytes(image_bytes(99))
    run(root, model=other, rescore=True)
    assert sorted(contents(run.uri)) == sorted(map(str, root.rglob("*.jpg")))


def test_a_plan_of_rescoring_tells_the_images_that_it_will_score(run, archive, bundle, other):
    """Else a user who asks for its time and cost is told that there is nothing to do."""
    root = archive(images=2)
    run(root)
    again, by_other = (request_for(root, run.uri, model, rescore=True) for model in (bundle, other))
    assert (plan_only(again).todo_images, plan_only(by_other).todo_images) == (8, 8)
    run(root, rescore=True, only=1)
    assert (plan_only(again).todo_images, plan_only(by_other).todo_images) == (2, 8)
    assert plan_only(again).uri == run.uri


def test_an_image_that_goes_while_a_new_generation_is_unfinished_has_no_row_in_it(run, archive, other):
    root = archive(images=2)
    run(root)
    run(root, model=other, rescore=True, only=1)
    (root / "glioma" / "1.jpg").unlink()
    assert run(root, model=other, rescore=True).plan.run_json["gone"] == 0
    assert sorted(contents(run.uri)) == sorted(map(str, root.rglob("*.jpg")))


def test_images_of_nights_between_a_killed_rescoring_and_its_end_are_never_in_two_parts(
    run, archive, other, monkeypatch
):
    """Each night has a shard of its own, while the new generation has the images of all these nights in one."""
    root = archive(images=1)
    run(root)
    run(root, model=other, rescore=True, only=0)
    for number in range(2):
        (root / "glioma" / f"night {number}.jpg").write_bytes(image_bytes(91 + number))
        run(root)
    copy, copied = storage.Writer.copy, []

    def copy_and_look(self, source, target):
        copy(self, source, target)
        copied.append(contents(run.uri))  # fails for a doubled image

    monkeypatch.setattr(storage.Writer, "copy", copy_and_look)
    run(root, model=other, rescore=True)
    assert len(copied) > 2 and len(contents(run.uri)) == 6


def test_rescoring_with_the_same_model_scores_every_image_again(run, begun):
    root = begun(images=2)
    before, scored_at = contents(run.uri), {row["scored_at"] for row in rows(run.uri)}
    assert run(root, rescore=True).scored == 8
    assert contents(run.uri) == before
    assert scored_at.isdisjoint(row["scored_at"] for row in rows(run.uri))


def test_rescoring_in_another_precision_does_not_go_on_with_rows_of_the_first(run, begun):
    """Else half of the rows would be of a precision that run.json does not tell."""
    root = begun(images=3)
    run(root, rescore=True, only=1)
    assert run(root, rescore=True, precision="bf16").scored == 12
    assert run(root, precision="bf16").plan.complete


def test_rescoring_after_an_update_does_not_go_on_with_rows_that_were_decoded_otherwise(run, archive):
    """They are why a user is told to rescore."""
    root = archive(images=2)
    run(root)
    run(root, rescore=True, only=1)
    begun = storage.read_json(f"{run.uri}/.rescore/run.json")
    storage.write_json(f"{run.uri}/.rescore/run.json", begun | {"versions": {}})
    assert run(root, rescore=True).scored == 8


def test_rows_of_a_generation_that_was_being_deleted_are_scored_again(run, undeleted):
    """A bucket deletes object by object: one that is killed there leaves parts without their run."""
    for name in ("_SUCCESS", "run.json"):
        os.unlink(f"{run.uri}/.rescore/{name}")
    assert run(undeleted, rescore=True).scored == 8, "images were said to be scored anew, and were not"
