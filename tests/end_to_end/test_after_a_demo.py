"""What somebody does after the demo: a head, and jobs on it, with no variable set and an environment not activated."""

import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from support.cluster.heads import BIN, a_head, done

from brainray import storage

pytest_plugins = ("support.cluster.head_fixtures",)


@pytest.mark.ray
@pytest.mark.timeout(800)
def test_jobs_on_a_head_that_is_started_after_a_run_without_one(plain, archive, bundle, tmp_path):
    """The last job also tells what was uploaded, and makes a wrong request: each job takes its time to start."""
    runs = [tmp_path / f"run-{i}" for i in range(3)]
    score = ["--input", str(archive(images=2)), "--model", bundle.uri, "--workers", "1", "--output"]
    # Only so that no other Ray of this machine is found; it is not set for what follows.
    done({**plain, "RAY_ADDRESS": "local"}, BIN / "brainray", "score", *score, runs[0])
    assert not (tmp_path / "home" / ".ray").exists()
    with a_head(tmp_path, plain) as head:
        done(plain, BIN / "brainray", "submit", "--address", head.dashboard, "score", *score, runs[1])
        train = f"python jobs/train.py --data /none --output {tmp_path}/model; echo code $?"
        job = ["sh", "-c", f"find . -type f; {train}; python jobs/score.py {' '.join(score)} {runs[2]}"]
        told = done(plain, BIN / "ray", "job", "submit", "--address", head.dashboard, "--working-dir", ".", "--", *job)
    for run in runs:
        assert len(pq.read_table(run / "predictions")) == 8
        assert storage.exists(f"{run}/_SUCCESS")
    assert f"predictions and summary are in {runs[2]}" in told
    assert "brainray: --data /none: No such file" in told and "code 2" in told
    is_what_was_meant_to_go_along(re.findall(r"^\./(.*)", told, re.MULTILINE))


def is_what_was_meant_to_go_along(uploaded):
    assert {"brainray/cli/app.py", "jobs/score.py", "jobs/train.py"} <= {*uploaded}
    assert {Path(name).parts[0] for name in uploaded} <= {"brainray", "jobs", "pyproject.toml", "README.md"}
    assert not any("__pycache__" in name or name.endswith("/README.md") for name in uploaded)
