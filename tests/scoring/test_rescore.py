"""A run that is scored anew beside the old one, and replaces it."""

import os

import pytest
from support.imaging.images import image_bytes
from support.scoring.runs import contents, parts, rows, success
from support.storage.faults import Killed, mark_lease_dead

from brainray import storage
from brainray.errors import OtherModel
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


def test_rows_of_a_generation_that_was_being_deleted_are_scored_again(run, undeleted):
    """A bucket deletes object by object: one that is killed there leaves parts without their run."""
    for name in ("_SUCCESS", "run.json"):
        os.unlink(f"{run.uri}/.rescore/{name}")
    assert run(undeleted, rescore=True).scored == 8, "images were said to be scored anew, and were not"
