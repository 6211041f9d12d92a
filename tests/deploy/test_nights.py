"""What a schedule relies on: overlap, missed runs, a run longer than its period, a new model, the heartbeat."""

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from support.imaging.images import image_bytes
from support.models.bundles import untrained
from support.scoring.runs import Stopped, contents, engine_of, request_for, rows, score_here

from brainray import storage
from brainray.errors import OtherModel, OutputHeld
from brainray.storage.lease import hold

ROOT = Path(__file__).resolve().parents[2]
SCHEDULES = ROOT / "jobs" / "schedules"
CRON = (SCHEDULES / "brainray.cron").read_text()


def snapshot(folder: Path) -> dict[str, bytes]:
    """Every file of a run but the lease, which changes hands."""
    files = [path for path in folder.rglob("*") if path.is_file() and ".lease" not in path.parts]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def add(root: Path, name: str, seed: int) -> None:
    (root / "glioma" / name).write_bytes(image_bytes(seed))


class TestPromises:
    @pytest.fixture
    def root(self, archive) -> Path:
        return archive(images=2)

    def test_a_run_that_overlaps_another_leaves_with_code_5_and_changes_nothing(self, root, tmp_path, bundle):
        output = tmp_path / "run"
        score_here(request_for(root, output, bundle), engine_of(bundle))
        add(root, "new.jpg", 77)
        before = snapshot(output)
        with hold(str(output), purpose="score", say=lambda _: None):
            with pytest.raises(OutputHeld) as caught:
                score_here(request_for(root, output, bundle), engine_of(bundle))
            assert caught.value.exit_code == 5
            assert snapshot(output) == before
        score_here(request_for(root, output, bundle), engine_of(bundle))
        assert f"{root}/glioma/new.jpg" in contents(output)

    def test_a_missed_night_leaves_the_same_rows_as_a_run_each_night(self, root, tmp_path, bundle):
        nightly, missed = tmp_path / "nightly", tmp_path / "missed"
        for night in range(3):
            add(root, f"night{night}.jpg", 100 + night)
            score_here(request_for(root, nightly, bundle), engine_of(bundle))
            if night != 1:
                score_here(request_for(root, missed, bundle), engine_of(bundle))
        assert contents(nightly) == contents(missed)
        assert len(contents(missed)) == 11

    def test_a_run_longer_than_its_period_ends_as_it_began_and_the_next_has_what_came_since(
        self, root, tmp_path, bundle
    ):
        output, refused = tmp_path / "run", []

        def next_night(_: str) -> None:
            add(root, "late.jpg", 200)
            with pytest.raises(OutputHeld) as caught:
                score_here(request_for(root, output, bundle), engine_of(bundle))
            refused.append(caught.value.exit_code)

        first = score_here(request_for(root, output, bundle), engine_of(bundle, on_shard=next_night))
        assert set(refused) == {5} and first.scored == 8 and storage.exists(f"{output}/_SUCCESS")
        assert f"{root}/glioma/late.jpg" not in contents(output)
        assert score_here(request_for(root, output, bundle), engine_of(bundle)).scored == 1
        assert len(contents(output)) == 9

    def test_a_model_exchanged_between_two_nights_ends_with_code_4_and_leaves_the_run_as_it_is(
        self, root, tmp_path, bundle
    ):
        output, other = tmp_path / "run", untrained(tmp_path / "other", seed=5)
        with pytest.raises(Stopped):
            score_here(request_for(root, output, bundle), engine_of(bundle, only=1))
        before = snapshot(output)
        with pytest.raises(OtherModel) as caught:
            score_here(request_for(root, output, other), engine_of(other))
        assert caught.value.exit_code == 4 and snapshot(output) == before
        score_here(request_for(root, output, bundle), engine_of(bundle))
        score_here(request_for(root, tmp_path / "of-its-own", other), engine_of(other))
        assert {row["model"] for row in rows(output)} == {bundle.fingerprint}
        assert {row["model"] for row in rows(tmp_path / "of-its-own")} == {other.fingerprint}

    def test_the_heartbeat_says_how_far_a_run_is_to_who_can_only_read_a_file(self, root, tmp_path, bundle):
        output, beats = tmp_path / "run", []

        def look(_: str) -> None:
            beats.append(json.loads((output / "status.json").read_bytes()))

        score_here(request_for(root, output, bundle), engine_of(bundle, on_shard=look))
        look("")
        assert beats[0]["phase"] == "starting" and beats[-1]["phase"] == "done"
        assert (beats[-1]["done"], beats[-1]["total"], beats[-1]["failed"]) == (8, 8, 0)
        for beat in beats:
            assert {"phase", "done", "failed", "total", "images_per_s", "last_progress", "holder"} <= set(beat)
            age = datetime.now(UTC) - datetime.fromisoformat(beat["last_progress"])
            assert timedelta(seconds=-1) < age < timedelta(minutes=2)
        named = set(re.search(r"status\.json says how far it is \(([^)]*)\)", CRON)[1].replace("#", "").split(", "))
        assert named <= set(beats[-1])
