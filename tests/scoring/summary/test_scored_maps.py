"""Maps that workers make while they score: what a run keeps of them when it is stopped, extended or scored anew."""

from pathlib import Path

import numpy as np
import pytest
from support.imaging.images import image_bytes
from support.models.bundles import derived
from support.scoring.runs import Stopped, contents, engine_of, request_for

from brainray import storage
from brainray.commands.report import report
from brainray.commands.score import score
from brainray.config import Explain

pytestmark = pytest.mark.usefixtures("no_plot")


def explained(root, output, bundle, asked="all", *, only=None, **options):
    """Score with maps; gives what was said."""
    said: list[str] = []
    request = request_for(root, output, bundle, explain=Explain.parse(asked), **options)
    score(request, listener=lambda _: None, say=said.append, engine=engine_of(bundle, only=only))
    return said


def maps(run):
    path = Path(run, "summary", "maps.parquet")
    return {row["uri"]: row for row in storage.read_parquet(str(path)).to_pylist()} if path.exists() else {}


@pytest.mark.parametrize("asked", ["review", "3"])
def test_they_are_those_that_a_report_makes_of_the_same_images_and_no_others(begun, bundle, tmp_path, asked):
    root = begun(images=2)
    assert explained(root, tmp_path / "scored", bundle, asked) == []
    reported = root.parent / "run"
    rows = contents(reported)
    report(str(reported), say=lambda _: None, explain=Explain.parse(asked))
    made, wanted = maps(tmp_path / "scored"), maps(reported)
    assert len(made) == (3 if asked == "3" else 8) and set(made) == set(wanted)
    for uri, row in made.items():
        other = wanted[uri]
        assert row["classes"] == other["classes"]
        np.testing.assert_allclose(row["values"], other["values"], atol=0.05)  # a run may compute in bf16
        box = [row[name] for name in ("left", "top", "right", "bottom")]
        assert box == [other[name] for name in ("left", "top", "right", "bottom")]
    assert contents(tmp_path / "scored") == rows
    assert not Path(tmp_path, "scored", "maps").exists()


def test_a_run_that_is_stopped_and_goes_on_has_the_maps_of_all_its_images(archive, bundle, tmp_path):
    root = archive(images=2)
    with pytest.raises(Stopped):
        explained(root, tmp_path / "run", bundle, only=1)
    assert len(list(Path(tmp_path, "run", "maps").iterdir())) == 1
    assert explained(root, tmp_path / "run", bundle) == []
    assert set(maps(tmp_path / "run")) == set(contents(tmp_path / "run"))


def test_images_that_come_later_get_theirs_and_the_others_keep_theirs(archive, bundle, tmp_path):
    root = archive(images=2)
    explained(root, tmp_path / "run", bundle)
    before = maps(tmp_path / "run")
    changed = next(iter(sorted(before)))
    Path(changed).write_bytes(image_bytes(1234, size=(90, 70)))
    (root / "glioma" / "new.jpg").write_bytes(image_bytes(99))
    assert explained(root, tmp_path / "run", bundle) == []
    after, rows = maps(tmp_path / "run"), contents(tmp_path / "run")
    assert set(after) == set(rows) == {*before, str(root / "glioma" / "new.jpg")}
    assert {uri for uri in before if after[uri] != before[uri]} == {changed}
    assert after[changed]["content_hash"] == rows[changed]["content_hash"]


def test_images_that_were_scored_without_are_counted_and_a_report_makes_theirs(begun, bundle):
    root = begun(images=2)
    run = root.parent / "run"
    assert explained(root, run, bundle) == [
        f"--explain: nothing is scored, so no map is made; `brainray report {run} --explain` makes more"
    ]
    (root / "glioma" / "new.jpg").write_bytes(image_bytes(99))
    (said,) = explained(root, run, bundle)
    assert said.startswith("--explain: 8 of 9 images of the page and the review list have no map, as they were scored")
    report(str(run), say=lambda _: None, explain=Explain.parse("all"))
    assert set(maps(run)) == set(contents(run))


def test_another_model_that_scores_all_anew_brings_its_own_maps(archive, bundle, tmp_path):
    root = archive(images=2)
    explained(root, tmp_path / "run", bundle)
    before = maps(tmp_path / "run")
    other = derived(bundle, tmp_path / "other", factor=3.0)
    assert explained(root, tmp_path / "run", other, rescore=True) == []
    after = maps(tmp_path / "run")
    assert set(after) == set(before)
    assert all(after[uri]["logits"] != before[uri]["logits"] for uri in after)
    assert not Path(tmp_path, "run", "maps").exists()


def test_an_image_that_changes_before_a_stopped_run_goes_on_costs_no_other_its_map(archive, bundle, tmp_path):
    root = archive(images=2)
    with pytest.raises(Stopped):
        explained(root, tmp_path / "run", bundle, only=1, shard_size=4)
    changed = sorted(root.glob("*/*.jpg"))[0]
    changed.write_bytes(image_bytes(77))
    assert explained(root, tmp_path / "run", bundle, shard_size=4) == []
    assert set(maps(tmp_path / "run")) == {str(path) for path in root.glob("*/*.jpg")}


def test_a_stopped_run_that_is_scored_anew_with_the_same_model_has_one_map_of_each_image(archive, bundle, tmp_path):
    root = archive(images=2)
    with pytest.raises(Stopped):
        explained(root, tmp_path / "run", bundle, only=1, shard_size=4)
    explained(root, tmp_path / "run", bundle, shard_size=4, rescore=True)
    path = tmp_path / "run" / "summary" / "maps.parquet"
    assert storage.read_parquet(str(path)).num_rows == len(maps(tmp_path / "run")) == 8
