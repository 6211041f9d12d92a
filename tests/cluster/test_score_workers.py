"""Scoring with Ray on machines of several sizes. Each size is a process of its own, for one process has one Ray."""

import math
import os
import pickle
import secrets
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.imaging.images import image_bytes
from support.models.bundles import derived

from brainray import storage
from brainray.cli.app import run
from brainray.cluster import score_workers

# As Ray counts in a container whose cpu.max is "50000 100000": one slow processor. With none, a run would wait ten
# minutes for a machine that nothing will start.
HALF_A_PROCESSOR = """
import ray._private.utils
ray._private.utils._get_docker_cpus = lambda *_: 0.5
"""
# As Slurm gives with a GPU unless it is asked for more processors.
ONE_AND_A_GPU = """
import ray
from brainray.cluster.start_internals import without_monitor_processes
with without_monitor_processes():
    ray.init(num_cpus=1, num_gpus=1, include_dashboard=False, log_to_driver=False)
"""
SCRIPT = """
import sys
from brainray.cli.app import run
sys.exit(run({arguments!r}))
"""


@pytest.fixture
def mixed(archive):
    """Good and bad files, in folders that share names."""
    root = archive(images=9)
    (root / "glioma" / "empty.jpg").write_bytes(b"")
    (root / "notumor" / "text.jpg").write_bytes(b"no image")
    (root / "notumor" / "cut.jpg").write_bytes(image_bytes(5)[:200])
    (root / "pituitary" / "new\nline 脳.png").write_bytes(image_bytes(6, mode="RGB", kind="PNG"))
    return root


def score(root, bundle, output, *, begin, extra=()):
    arguments = ["score", "--input", str(root), "--model", bundle.uri, "--output", str(output), *extra]
    code = begin + SCRIPT.format(arguments=arguments)
    # A token of its own: `ray.init` would leave one in the home folder.
    environment = os.environ | {"RAY_AUTH_TOKEN": secrets.token_hex(32)}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=250, check=False
    )


@pytest.mark.ray
@pytest.mark.parametrize("begin", [HALF_A_PROCESSOR, ONE_AND_A_GPU], ids=["half a CPU", "a CPU and a GPU"])
def test_every_image_has_its_row_on_a_machine_with(begin, mixed, bundle, tmp_path):
    done = score(mixed, bundle, tmp_path / "run", begin=begin, extra=["--shard-size", "7"])
    assert done.returncode == 3, done.stderr  # 3 of 40 failed, more than 1 %
    rows = pq.read_table(tmp_path / "run" / "predictions").to_pylist()
    assert sorted(row["uri"] for row in rows) == sorted(str(p) for p in mixed.rglob("*.*"))
    failed = {storage.name_of(row["uri"]): row["error"] for row in rows if row["status"] == "error"}
    assert failed == {"empty.jpg": "empty", "text.jpg": "not_an_image", "cut.jpg": "truncated"}
    assert storage.read_json(f"{tmp_path}/run/_SUCCESS")["rows"] == 40
    assert storage.read_json(f"{tmp_path}/run/summary/summary.json")["totals"]["labelled"] == 40
    assert "3 of 40 images failed" in done.stdout
    assert done.stderr.splitlines()[-1].startswith("brainray: 3 of 40 images failed, more than --max-failed 1%")


def test_a_failure_in_a_worker_is_one_line_and_publishes_nothing(local_ray, mixed, bundle, tmp_path, capfd):
    broken = derived(bundle, tmp_path / "broken", factor=math.nan)  # a fingerprint that fits, and no numbers
    assert run(["score", "--input", str(mixed), "--model", broken.uri, "--output", str(tmp_path / "run")]) == 1
    told = capfd.readouterr().err
    assert told.splitlines()[-1].startswith(f"brainray: model {broken.fingerprint} gives no number for some images"), (
        told
    )
    assert "Traceback" not in told
    assert not storage.exists(f"{tmp_path}/run/_SUCCESS")


class Chain:
    """Stands in for Ray Data: a batch a shard, each with what its worker remarked."""

    def __init__(self, *remarks):
        self._remarks = remarks

    def iter_batches(self, **_):
        for number, remarks in enumerate(self._remarks):
            columns = {"part": [pickle.dumps(number)], "remarks": [pickle.dumps(remarks)]}
            yield {name: pa.array(values, pa.binary()) for name, values in columns.items()}


def test_what_several_workers_remark_is_told_once(monkeypatch):
    chain = Chain(["slow (TypeError)"], [], ["slow (TypeError)"], ["slow (TypeError)", "something else"])
    monkeypatch.setattr(score_workers, "score_chain", lambda *_: chain)
    monkeypatch.setattr(score_workers, "check_alive", lambda: None)
    said = []
    parts = score_workers.score_shards([], None, None, stall_timeout_s=60, check=lambda: None, say=said.append)
    assert list(parts) == [0, 1, 2, 3]
    assert said == ["slow (TypeError)", "something else"]
