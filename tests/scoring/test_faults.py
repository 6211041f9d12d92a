"""The process dies, or the file system fails, at every single step of a commit; then the same command runs again."""

import errno
import os
import shutil
import zipfile

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.bundles import derived
from support.faults import Killed, bury, failing
from support.images import image_bytes
from support.runs import brightness, contents, engine_of, request_for, score_here

from brainray import storage
from brainray.errors import BrainrayError
from brainray.scoring import summary
from brainray.scoring.run_folder import verify_run


class Site:
    """An archive, a run of it, and what a clean run of another output gives."""

    def __init__(self, folder, bundle, other):
        self.root, self.output = folder / "in", str(folder / "run")
        self._clean = folder / "clean"
        self.models = {"first": bundle, "other": other}
        self.root.mkdir()

    def write(self, name, seed):
        path = self.root / f"{name}.jpg"
        path.write_bytes(image_bytes(seed))
        os.utime(path, ns=(seed, seed))

    def write_container(self, *seeds):
        path = self.root / "more.zip"
        with zipfile.ZipFile(path, "w") as file:
            for seed in seeds:
                file.writestr(f"image{seed}.jpg", image_bytes(seed))
        os.utime(path, ns=(seeds[0], seeds[0]))

    def score(self, *, model="first", **options):
        bundle = self.models[model]
        return score_here(
            request_for(self.root, self.output, bundle, shard_size=2, **options), engine_of(bundle, predict=brightness)
        )

    def clean(self, *, model="first"):
        """The rows that one run gives that nothing has disturbed."""
        shutil.rmtree(self._clean, ignore_errors=True)
        bundle = self.models[model]
        score_here(request_for(self.root, self._clean, bundle, shard_size=2), engine_of(bundle, predict=brightness))
        return contents(self._clean)

    def check_reader(self):
        """What holds for whoever looks at the output at this moment."""
        if not storage.exists(f"{self.output}/predictions"):
            return
        found = contents(self.output)  # reads every part; fails for a doubled image
        if storage.exists(f"{self.output}/_SUCCESS"):
            assert verify_run(self.output).rows == storage.read_json(f"{self.output}/_SUCCESS")["rows"] == len(found)


@pytest.fixture
def site(tmp_path, bundle, monkeypatch):
    monkeypatch.setattr(summary, "draw_confusion", lambda *_: b"a picture takes 0.2 s")
    return Site(tmp_path, bundle, derived(bundle, tmp_path / "other"))


def begin(site):
    for i in range(3):
        site.write(f"image{i}", seed=i + 1)
    site.write_container(21, 22)


def extend(site):
    begin(site)
    site.score()
    site.write("image1", seed=11)
    site.write("new", seed=12)
    site.write_container(22, 23)
    (site.root / "image2.jpg").unlink()


SCENARIOS = {
    "a first run": (begin, {}),
    "an extended run": (extend, {"forget_missing": True}),
    "a new generation": (extend, {"model": "other", "rescore": True}),
}
# Every seventh step; BRAINRAY_EVERY_STEP=1 tries all of them, which takes half a minute for each scenario.
STRIDE = 1 if os.environ.get("BRAINRAY_EVERY_STEP") else 7


def prepared(site, tmp_path, prepare):
    """Lays out the same start again and again."""
    prepare(site)
    start = tmp_path / "start"
    if os.path.exists(site.output):
        shutil.copytree(site.output, start)

    def restart():
        shutil.rmtree(site.output, ignore_errors=True)
        if start.exists():
            shutil.copytree(start, site.output)

    return restart


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_run_killed_at_any_step_is_completed_by_the_same_command(scenario, site, tmp_path, monkeypatch):
    prepare, options = SCENARIOS[scenario]
    restart = prepared(site, tmp_path, prepare)
    expected = site.clean(model=options.get("model", "first"))
    with failing(monkeypatch, at=None) as counted:
        site.score(**options)
    for step in range(1 + counted.changes % STRIDE, counted.changes + 1, STRIDE):
        restart()
        with failing(monkeypatch, at=step), pytest.raises(Killed):
            site.score(**options)
        site.check_reader()
        bury(site.output)
        site.score(**options)
        assert contents(site.output) == expected, f"killed at step {step} of {counted.changes}"
        assert verify_run(site.output).rows == len(expected)
        assert not os.path.exists(f"{site.output}/.rescore")
        visible = os.listdir(f"{site.output}/predictions")
        assert not [name for name in visible if not name.startswith("part-")], "rests lie among the parts"


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_run_whose_disk_fails_at_any_step_ends_with_one_line_and_is_completed(scenario, site, tmp_path, monkeypatch):
    prepare, options = SCENARIOS[scenario]
    restart = prepared(site, tmp_path, prepare)
    expected = site.clean(model=options.get("model", "first"))
    with failing(monkeypatch, at=None) as counted:
        site.score(**options)
    told = 0
    for step in range(1, counted.changes + 1, STRIDE):
        restart()
        try:
            with failing(monkeypatch, at=step, error=OSError(errno.ENOSPC, "No space left on device")):
                site.score(**options)
        except BrainrayError as exc:
            told += 1
            assert "No space left on device" in str(exc), f"step {step}"
            site.check_reader()
            bury(site.output)
            site.score(**options)
        assert contents(site.output) == expected, f"failed at step {step} of {counted.changes}"
        assert verify_run(site.output).rows == len(expected)
    assert told > counted.changes // STRIDE // 2


names = st.sampled_from("abcdef")
steps = st.one_of(
    st.tuples(st.just("write"), names, st.integers(1, 5)),
    st.tuples(st.just("remove"), names),
    st.tuples(st.just("score"), st.fixed_dictionaries({"forget_missing": st.booleans(), "rescore": st.booleans()})),
    st.tuples(st.just("killed"), st.integers(1, 90), st.fixed_dictionaries({"rescore": st.booleans()})),
)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(history=st.lists(steps, max_size=9))
def test_any_history_ends_in_the_rows_that_one_clean_run_gives(history, site, monkeypatch):
    """Additions, changes, removals and deaths in any order."""
    shutil.rmtree(site.root)
    shutil.rmtree(site.output, ignore_errors=True)
    site.root.mkdir()
    site.write("always", seed=9)
    for what, *values in history:
        if what == "write":
            site.write(*values)
        elif what == "remove":
            (site.root / f"{values[0]}.jpg").unlink(missing_ok=True)
        elif what == "score":
            site.score(**values[0])
        else:
            step, options = values
            try:
                with failing(monkeypatch, at=step):
                    site.score(**options)
            except Killed:
                bury(site.output)
        site.check_reader()
    expected = site.clean()
    site.score()
    found = contents(site.output)
    assert {uri: found[uri] for uri in expected} == expected
    site.score(forget_missing=True)
    assert contents(site.output) == expected
    assert verify_run(site.output).rows == len(expected)
