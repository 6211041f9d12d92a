"""`--keep-columns seen`: an earlier version allowed that name, which rows have now."""

import json

import pytest

from brainray.commands.score import read_request
from brainray.config import ScoreOptions
from brainray.errors import BadRequest


def request(folder, bundle, **options):
    images = folder / "images.csv"
    images.write_text("uri,seen\na.jpg,yes\n")
    chosen = ScoreOptions(keep_columns=("seen",), **options)
    return read_request([str(images)], model=bundle.uri, output=str(folder / "run"), labels=None, options=chosen)


def test_a_run_that_kept_it_keeps_it_until_all_is_scored_anew(tmp_path, bundle):
    with pytest.raises(BadRequest, match="--keep-columns seen: predictions have such a column already"):
        request(tmp_path, bundle)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text(json.dumps({"kept": [["seen", "string"]]}))
    assert request(tmp_path, bundle).kept == (("seen", "string"),)
    with pytest.raises(BadRequest, match="--keep-columns seen: predictions have such a column already"):
        request(tmp_path, bundle, rescore=True)
