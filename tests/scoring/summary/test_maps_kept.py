"""Maps that an earlier report made: a later one adds to them, and loses none."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from support.images import image_bytes
from support.runs import engine_of, request_for, score_here

from brainray.commands.report import report
from brainray.config import Explain

pytestmark = pytest.mark.usefixtures("no_plot")


@pytest.fixture
def run(archive, bundle, tmp_path):
    """A run over four classes of two images."""
    score_here(request_for(archive(images=2), tmp_path / "run", bundle), engine_of(bundle))
    return tmp_path / "run"


def explain(run, asked):
    said = []
    report(str(run), say=said.append, explain=Explain.parse(asked))
    return said


def maps(run):
    return {row["uri"]: row for row in pq.read_table(run / "summary" / "maps.parquet").to_pylist()}


def remove_images(root):
    for path in root.glob("*/*.jpg"):
        path.unlink()


def test_a_later_report_makes_only_maps_that_are_not_there(run, tmp_path):
    assert explain(run, "3") == ["--explain: 3 maps"]
    first = maps(run)
    assert explain(run, "all") == ["--explain: 5 maps, and 3 that were there already"]
    every = maps(run)
    assert len(every) == 8 and first.items() <= every.items()
    before = (run / "summary" / "maps.parquet").read_bytes()
    remove_images(tmp_path / "archive")
    assert explain(run, "3") == ["--explain: 0 maps, and 3 that were there already"]
    assert (run / "summary" / "maps.parquet").read_bytes() == before


def test_maps_outlast_images_that_are_away_and_without_any_there_is_no_file(run, tmp_path):
    remove_images(tmp_path / "archive")
    assert explain(run, "all") == ["--explain: 0 maps; without one: 8 gone"]
    assert not Path(run, "summary", "maps.parquet").exists()


def test_an_image_of_another_content_gets_a_new_map_in_place_of_the_old(run, archive, bundle, tmp_path):
    explain(run, "all")
    before = maps(run)
    changed = tmp_path / "archive" / "glioma" / "0.jpg"
    changed.write_bytes(image_bytes(77))
    score_here(request_for(tmp_path / "archive", run, bundle), engine_of(bundle))
    assert explain(run, "all") == ["--explain: 1 maps, and 7 that were there already"]
    after = maps(run)
    assert {uri for uri in before if before[uri] != after[uri]} == {str(changed)}
    assert pq.read_table(run / "summary" / "maps.parquet").num_rows == 8
