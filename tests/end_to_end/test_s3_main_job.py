"""The whole main job on buckets: train, score, a kill, the rest, an incremental run, report."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.machine.waiting import wait_for
from support.scoring.runs import contents, engine_of, request_for, score_here
from support.storage.s3_servers import s3_endpoints, s3_environment, strict_s3  # noqa: F401  fixtures

from brainray import storage
from brainray.imaging.phantom import write_archive
from brainray.models.bundle import load_bundle
from brainray.scoring.run_folder import verify_run
from brainray.scoring.summary.build import build_summary


def brainray(*arguments, endpoint):
    return subprocess.Popen(
        [sys.executable, "-m", "brainray", *arguments],
        env=os.environ | s3_environment(endpoint),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def ended(command, code=0):
    out, err = command.communicate(timeout=250)
    assert command.returncode == code, err
    return out


def upload(folder, uri):
    for path in sorted(folder.rglob("*.*")):
        storage.write_bytes(f"{uri}/{path.relative_to(folder)}", path.read_bytes())


@pytest.mark.ray
@pytest.mark.timeout(600)
def test_the_main_job_runs_on_buckets_and_outlives_a_kill(strict_s3, bundle, tmp_path):  # noqa: F811
    write_archive(str(tmp_path / "in"), images=32, seed=3)
    names = ("in", "learn", "model", "trained", "run")
    data, to_learn, model, trained, run = (f"{strict_s3.root}/{name}" for name in names)
    for folder in (data, to_learn):
        upload(tmp_path / "in", folder)

    def command(*arguments):
        return brainray(*arguments, endpoint=strict_s3.proxy.endpoint)

    small = ("--epochs", "1", "--image-px", "32", "--width", "0.25", "--workers", "1")
    training = command("train", "--data", to_learn, "--output", trained, *small)
    upload(Path(bundle.uri), model)  # to be scored with meanwhile, for each waits for Ray most of its time
    options = ("--shard-size", "4", "--no-report", "--workers", "1")
    score = ("score", "--input", data, "--model", model, "--output", run, *options)
    strict_s3.proxy.add("slow", methods=("GET",), key="/in/", delay_s=0.4)
    killed = command(*score)
    done = f"{run}/predictions"
    wait_for(lambda: len(storage.list_names(done)) >= 3 or killed.poll() is not None, "three parts", step_s=0.1)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    time.sleep(1)  # a request that had left may still arrive
    kept = len(storage.list_names(done))
    assert 3 <= kept < 8
    assert not storage.exists(f"{run}/_SUCCESS")
    strict_s3.proxy.clear()
    request = request_for(data, run, load_bundle(model), shard_size=4)
    assert score_here(request, engine_of(request.bundle)).scored == 32 - 4 * kept
    assert len(contents(run)) == 32
    images = {target for method, target in strict_s3.proxy.counts if method == "GET" and "/in/" in target}
    assert len(images) == 32 - 4 * kept + 1, "a resumed run reads only the rest; one more look is for the permission"
    storage.write_bytes(f"{data}/glioma/new.jpg", b"no image")
    assert score_here(request_for(data, run, bundle, shard_size=4), engine_of(bundle)).scored == 1
    assert contents(run)[f"{data}/glioma/new.jpg"]["error"] == "not_an_image"
    assert (verify_run(run).rows, verify_run(run).failed) == (33, 1)
    assert build_summary(run).figures["totals"]["images"] == 33
    ended(training)
    learned = load_bundle(trained)
    outcome = score_here(request_for(data, f"{run}-2", learned, shard_size=20), engine_of(learned))
    assert (outcome.scored, outcome.failed) == (33, 1)
