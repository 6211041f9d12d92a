"""A whole search with Ray Tune on a few drawn images."""

import csv

import pytest

from brainray.cli.app import run


@pytest.fixture
def searched(archive, tmp_path, capfd, local_ray):
    """Run a search of so many trials; gives its table and what was said."""
    root = archive(images=8, classes=("a", "b"))

    def search(trials):
        given = ["--epochs", "4", "--image-px", "32,40", "--width", "0.25,0.5", "--batch-size", "4"]
        code = run(["tune", "--data", str(root), "--output", str(tmp_path / "found"), "--trials", str(trials), *given])
        said = capfd.readouterr()
        assert code == 0, said.err
        return list(csv.DictReader((tmp_path / "found" / "trials.csv").open())), said

    return search


@pytest.mark.timeout(600)
def test_a_search_ranks_its_trials_and_goes_on_where_it_ended(searched, tmp_path):
    rows, said = searched(1)
    assert [row["trial"] for row in rows] == ["0"]
    assert all(3 <= int(row["epochs"]) <= 4 and float(row["gmac"]) > 0 and not row["failure"] for row in rows)
    assert "brainray train --data DATA --output MODEL" in said.out
    assert "chosen by these figures, so they flatter it" in said.out
    assert "Tune" not in said.out + said.err, "Ray's own table is noise"
    assert {path.name for path in (tmp_path / "found").iterdir()} - {".lease"} == {
        "search.json",
        "trials",
        "trials.csv",
    }

    more, said = searched(2)
    assert more[:1] == rows and len(more) == 2
    assert "1 of 2 trials have ended before" in said.err
    assert "trial 1 (" in said.err and "trial 0 (" not in said.err
