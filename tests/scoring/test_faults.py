"""The process dies, or the file system fails, at every single step of a commit; then the same command runs again."""

import errno
import os
import shutil
import zipfile
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from support.imaging.images import image_bytes
from support.models.bundles import derived
from support.scoring.runs import brightness, contents, engine_of, request_for, score_here
from support.storage.faults import Killed, failing, mark_lease_dead

from brainray import storage
from brainray.errors import BrainrayError
from brainray.scoring.run_folder import verify_run


class ArchiveRun:
    """A folder with an archive in it, a run of it, and what a clean run of another output gives."""

    def __init__(self, folder, bundle, other):
        self.root, self.output = folder / "in", str(folder / "run")
        self.names = folder / "names"  # behind the pseudonyms of runs that have them
        self._clean = folder / "clean"
        self.models = {"first": bundle, "other": other}
        self.root.mkdir()

    def write(self, name, seed):
        path = self.root / f"{name}.jpg"
        path.write_bytes(image_bytes(seed))
        os.utime(path, ns=(seed, seed))

    def write_archive(self, *seeds):
        path = self.root / "more.zip"
        with zipfile.ZipFile(path, "w") as file:
            for seed in seeds:
                file.writestr(f"image{seed}.jpg", image_bytes(seed))
        os.utime(path, ns=(seeds[0], seeds[0]))

    def score(self, *, model="first", pseudonymised=False, **options):
        bundle = self.models[model]
        if pseudonymised:
            options["pseudonymise_uris"] = str(self.names)
        return score_here(
            request_for(self.root, self.output, bundle, shard_size=2, **options), engine_of(bundle, predict=brightness)
        )

    def clean(self, *, model="first"):
        """The rows that one run gives that nothing has disturbed."""
        shutil.rmtree(self._clean, ignore_errors=True)
        bundle = self.models[model]
        score_here(request_for(self.root, self._clean, bundle, shard_size=2), engine_of(bundle, predict=brightness))
        return contents(self._clean)

    def contents(self):
        """The rows of the output, with the names behind their pseudonyms."""
        if not self.names.exists():
            return contents(self.output)
        table = pq.read_table(self.names / "names")
        real = dict(zip(table["pseudonym"].to_pylist(), table["real"].to_pylist(), strict=True))
        return {real[uri]: row | {"uri": real[uri]} for uri, row in contents(self.output).items()}

    def check_reader(self):
        """What holds for whoever looks at the output at this moment."""
        if not storage.exists(f"{self.output}/predictions"):
            return
        found = self.contents()  # reads every part; fails for a doubled image, and for one without a name
        if storage.exists(f"{self.output}/_SUCCESS"):
            assert verify_run(self.output).rows == storage.read_json(f"{self.output}/_SUCCESS")["rows"] == len(found)


@pytest.fixture
def archive_run(tmp_path, bundle, no_plot):
    return ArchiveRun(tmp_path, bundle, derived(bundle, tmp_path / "other"))


def begin(archive_run):
    for i in range(3):
        archive_run.write(f"image{i}", seed=i + 1)
    archive_run.write_archive(21, 22)


def extend(archive_run, **options):
    begin(archive_run)
    archive_run.score(**options)
    archive_run.write("image1", seed=11)
    archive_run.write("new", seed=12)
    archive_run.write_archive(22, 23)
    (archive_run.root / "image2.jpg").unlink()


SCENARIOS = {
    "a first run": (begin, {}),
    "an extended run": (extend, {"forget_missing": True}),
    "a new generation": (extend, {"model": "other", "rescore": True}),
}
WITH_PSEUDONYMS = {
    "a first run with pseudonyms": (begin, {"pseudonymised": True}),
    "an extended run with pseudonyms": (
        partial(extend, pseudonymised=True),
        {"pseudonymised": True, "forget_missing": True},
    ),
}
# Every 47th step; BRAINRAY_EVERY_STEP=1 tries all of them, which takes half a minute for each scenario.
STRIDE = 1 if os.environ.get("BRAINRAY_EVERY_STEP") else 47


def prepared(archive_run, tmp_path, prepare):
    """Lays out the same start again and again."""
    prepare(archive_run)
    start = tmp_path / "start"
    folders = [Path(archive_run.output), archive_run.names]
    for folder in folders:
        if folder.exists():
            shutil.copytree(folder, start / folder.name)

    def restart():
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)
            if (start / folder.name).exists():
                shutil.copytree(start / folder.name, folder)

    return restart


@pytest.mark.parametrize("scenario", [*SCENARIOS, *WITH_PSEUDONYMS])
def test_a_run_killed_or_without_room_at_any_step_is_completed_by_the_same_command(
    scenario, archive_run, tmp_path, monkeypatch
):
    prepare, options = (SCENARIOS | WITH_PSEUDONYMS)[scenario]
    restart = prepared(archive_run, tmp_path, prepare)
    expected = archive_run.clean(model=options.get("model", "first"))
    with failing(monkeypatch, at=None) as counted:
        archive_run.score(**options)
    for step in range(1 + counted.changes % STRIDE, counted.changes + 1, STRIDE):
        restart()
        with failing(monkeypatch, at=step), pytest.raises(Killed):
            archive_run.score(**options)
        archive_run.check_reader()
        mark_lease_dead(archive_run.output)
        archive_run.score(**options)
        assert archive_run.contents() == expected, f"killed at step {step} of {counted.changes}"
        assert verify_run(archive_run.output).rows == len(expected)
        assert not os.path.exists(f"{archive_run.output}/.rescore")
        visible = os.listdir(f"{archive_run.output}/predictions")
        assert not [name for name in visible if not name.startswith("part-")], "rests lie among the parts"
    if scenario in SCENARIOS:
        check_without_room(archive_run, monkeypatch, restart, expected, counted.changes, options)


def check_without_room(archive_run, monkeypatch, restart, expected, changes, options):
    """Where the disk is full at a step, the run ends with one line and is completed."""
    told = 0
    for step in range(1, changes + 1, STRIDE):
        restart()
        try:
            with failing(monkeypatch, at=step, error=OSError(errno.ENOSPC, "No space left on device")):
                archive_run.score(**options)
        except BrainrayError as exc:
            told += 1
            assert "No space left on device" in str(exc), f"step {step}"
            archive_run.check_reader()
            mark_lease_dead(archive_run.output)
            archive_run.score(**options)
        assert archive_run.contents() == expected, f"failed at step {step} of {changes}"
        assert verify_run(archive_run.output).rows == len(expected)
    assert told > changes // STRIDE // 2


names = st.sampled_from("abcdef")
steps = st.one_of(
    st.tuples(st.just("write"), names, st.integers(1, 5)),
    st.tuples(st.just("remove"), names),
    st.tuples(st.just("score"), st.fixed_dictionaries({"forget_missing": st.booleans(), "rescore": st.booleans()})),
    st.tuples(st.just("killed"), st.integers(1, 90), st.fixed_dictionaries({"rescore": st.booleans()})),
)

GONE_AND_BACK = [
    ("write", "a", 1),
    ("killed", 13, {"rescore": False}),
    ("remove", "a"),
    ("score", {"forget_missing": False, "rescore": False}),
    ("write", "a", 1),
]


@settings(max_examples=4, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(history=st.lists(steps, max_size=9))
@example(history=GONE_AND_BACK)
def test_any_history_ends_in_the_rows_that_one_clean_run_gives(history, archive_run, monkeypatch):
    """Additions, changes, removals and deaths in any order."""
    shutil.rmtree(archive_run.root)
    shutil.rmtree(archive_run.output, ignore_errors=True)
    archive_run.root.mkdir()
    archive_run.write("always", seed=9)
    for what, *values in history:
        if what == "write":
            archive_run.write(*values)
        elif what == "remove":
            (archive_run.root / f"{values[0]}.jpg").unlink(missing_ok=True)
        elif what == "score":
            archive_run.score(**values[0])
        else:
            step, options = values
            try:
                with failing(monkeypatch, at=step):
                    archive_run.score(**options)
            except Killed:
                mark_lease_dead(archive_run.output)
        archive_run.check_reader()
    expected = archive_run.clean()
    archive_run.score(retry_unread=True)  # an image that had gone before it was scored, and is back, needs that
    found = contents(archive_run.output)
    assert {uri: found[uri] for uri in expected} == expected
    archive_run.score(forget_missing=True)
    assert contents(archive_run.output) == expected
    assert verify_run(archive_run.output).rows == len(expected)
