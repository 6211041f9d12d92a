"""Runs whose summary an earlier version wrote: `score` that finds nothing new builds it anew, and shows it."""

import io
from pathlib import Path

import pytest
from rich.console import Console
from support.scoring.runs import engine_of, request_for, score_here

from brainray import storage
from brainray.cli.console import show_outcome
from brainray.cli.score import _totals
from brainray.errors import BadRequest
from brainray.scoring.summary.build import SCHEMA_VERSION

pytestmark = pytest.mark.usefixtures("no_plot")
LATER = ("measured", "seen", "group_levels", "groups_above", "labels_given")  # figures that version 1 lacked


def as_of_version_1(run):
    """Make summary.json what it was before version 2; its tables were the same, but for `level`."""
    uri = f"{run}/summary/summary.json"
    figures = storage.read_json(uri)
    groups = {
        name: {key: value for key, value in group.items() if key not in LATER}
        for name, group in figures["groups"].items()
    }
    kept = {name: value for name, value in figures.items() if name not in LATER}
    storage.write_json(uri, kept | {"schema_version": 1, "groups": groups})
    return figures


@pytest.mark.parametrize("group_by", [None, "folder"], ids=["", "with groups"])
def test_a_complete_run_gets_the_figures_that_are_shown(archive, bundle, tmp_path, group_by):
    request = request_for(archive(images=2), tmp_path / "run", bundle, group_by=group_by)
    score_here(request, engine_of(bundle))
    figures = as_of_version_1(request.output)
    before = {path: path.read_bytes() for path in Path(request.output, "predictions").iterdir()}
    outcome = score_here(request, engine_of(bundle))
    assert outcome.scored == 0
    console = Console(file=io.StringIO(), width=200)
    show_outcome(console, outcome)
    assert "on 8 labelled images" in " ".join(console.file.getvalue().split())
    assert ("Worst first by group" in console.file.getvalue()) == bool(group_by)
    assert _totals(outcome)["totals"]["images"] == 8
    assert storage.read_json(f"{request.output}/summary/summary.json") == figures
    assert before == {path: path.read_bytes() for path in Path(request.output, "predictions").iterdir()}
    assert Path(request.output, "_SUCCESS").exists() and figures["schema_version"] == SCHEMA_VERSION
    assert not Path(request.output, "summary", "report.html").exists(), "none was asked for"


def test_it_is_written_with_the_lease_and_only_once(archive, bundle, tmp_path):
    request = request_for(archive(images=1), tmp_path / "run", bundle)
    score_here(request, engine_of(bundle))
    as_of_version_1(request.output)
    holders = [sorted(path.name for path in Path(request.output, ".lease").iterdir())]
    for _ in range(2):
        score_here(request, engine_of(bundle))
        holders.append(sorted(path.name for path in Path(request.output, ".lease").iterdir()))
    assert holders[0] != holders[1], "the summary was written by whoever held the output"
    assert holders[1] == holders[2], "nothing was left to do"


def test_on_an_output_that_cannot_be_written_to_the_way_out_is_told(archive, bundle, tmp_path, monkeypatch):
    request = request_for(archive(images=1), tmp_path / "run", bundle)
    score_here(request, engine_of(bundle))
    as_of_version_1(request.output)

    def forbidden(option, uri):
        raise BadRequest(f"{option} {uri}: {uri} cannot be written to")

    monkeypatch.setattr(storage, "check_writable", forbidden)
    with pytest.raises(BadRequest, match=r"every image has its row, .* run `brainray report` on the copy"):
        score_here(request, engine_of(bundle))
