"""Maps that an earlier report made: a later one adds to them, and loses none."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from support.imaging.images import image_bytes
from support.scoring.runs import engine_of, request_for, score_here

from brainray.commands.report import report
from brainray.config import Explain, MaxFailed
from brainray.errors import BadRequest, BrainrayError, StorageError

pytestmark = pytest.mark.usefixtures("no_plot")


@pytest.fixture
def root(begun):
    """The images of `run`."""
    return begun(images=2)


@pytest.fixture
def run(root):
    """A run over four classes of two images."""
    return root.parent / "run"


def explain(run, asked):
    said = []
    report(str(run), say=said.append, explain=Explain.parse(asked))
    return said


def maps(run):
    return {row["uri"]: row for row in pq.read_table(run / "summary" / "maps.parquet").to_pylist()}


def remove_images(root):
    for path in root.glob("*/*.jpg"):
        path.unlink()


def test_a_later_report_makes_only_maps_that_are_not_there(run, root):
    assert explain(run, "3") == ["--explain: 3 maps"]
    first = maps(run)
    assert explain(run, "all") == ["--explain: 5 maps, and 3 that were there already"]
    every = maps(run)
    assert len(every) == 8 and first.items() <= every.items()
    before = (run / "summary" / "maps.parquet").read_bytes()
    remove_images(root)
    assert explain(run, "3") == ["--explain: 0 maps, and 3 that were there already"]
    assert (run / "summary" / "maps.parquet").read_bytes() == before


def test_maps_outlast_images_that_are_away_and_without_any_there_is_no_file(run, root):
    remove_images(root)
    (run / "summary" / "summary.json").unlink()
    with pytest.raises(BrainrayError, match=r"^--explain: no map could be made \(8 gone\); maps need the images"):
        explain(run, "all")
    assert not Path(run, "summary", "maps.parquet").exists()
    assert Path(run, "summary", "summary.json").exists()


def test_that_no_image_was_asked_for_is_told(bundle, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "1.jpg").write_bytes(b"no image")
    score_here(request_for(tmp_path / "in", tmp_path / "run", bundle, max_failed=MaxFailed(count=9)), engine_of(bundle))
    (line,) = explain(tmp_path / "run", "all")
    assert line == (
        "--explain: no map was made, because no scored image of this run is among those that were asked for"
    )


def test_a_report_of_a_run_that_cannot_be_written_to_says_what_to_do(run, monkeypatch):
    def forbidden(uri, *, write):
        raise StorageError("forbidden", f"{uri}: {uri} cannot be written to")

    monkeypatch.setattr("brainray.storage.check_access", forbidden)
    with pytest.raises(BadRequest, match=r"run cannot be written to, .* copy the run to another folder and give the"):
        report(str(run), say=print)


def test_an_image_of_another_content_gets_a_new_map_in_place_of_the_old(run, root, bundle):
    explain(run, "all")
    before = maps(run)
    changed = root / "glioma" / "0.jpg"
    changed.write_bytes(image_bytes(77))
    score_here(request_for(root, run, bundle), engine_of(bundle))
    assert explain(run, "all") == ["--explain: 1 maps, and 7 that were there already"]
    after = maps(run)
    assert {uri for uri in before if before[uri] != after[uri]} == {str(changed)}
    assert pq.read_table(run / "summary" / "maps.parquet").num_rows == 8
