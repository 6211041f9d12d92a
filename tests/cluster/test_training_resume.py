"""Training that is killed or interrupted: the same command ends with the same model.

`test_elastic_training.py` has one that loses a worker.
"""

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import psutil
import pyarrow.parquet as pq
import pytest
import ray
import ray.train
import ray.train.torch
import torch
from support.machine.waiting import wait_for
from support.training.hanging import hanging

from brainray import storage
from brainray.cli.app import run
from brainray.cluster import train as ray_train
from brainray.cluster import train_worker
from brainray.config import ModelSpec, TrainOptions
from brainray.errors import BadRequest, BrainrayError, OutputHeld
from brainray.imaging.phantom import write_archive
from brainray.models.bundle import load_bundle
from brainray.training.state import WorkFolder
from brainray.training.trainer import FitSpec

ROOT = Path(__file__).resolve().parents[2]
EPOCHS = 7  # a worker does two and hangs in the third; two of them are harmed
TRAIN = """
from brainray.cluster import train
from support.training.hanging import hanging
train.train_worker = hanging(train.train_worker, after=2)
from brainray.cli.app import main
main()
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("resume")
    write_archive(str(folder / "data"), images=48, seed=1)
    return folder


def command(root, name, *, epochs=EPOCHS):
    options = ["--workers", "1", "--epochs", epochs, "--patience", epochs, "--batch-size", "8"]
    options += ["--image-px", "32", "--width", "0.25"]
    return ["train", "--data", str(root / "data"), "--output", str(root / name), *map(str, options)]


def epochs_done(output):
    return len(WorkFolder.of(str(output)).history())


def wait_for_epoch(output, epoch):
    wait_for(lambda: epochs_done(output) >= epoch, f"epoch {epoch} is done")


def interrupt(output):
    """Press Ctrl-C when this process has trained two epochs."""

    def wait_and_press():
        wait_for_epoch(output, epochs_done(output) + 2)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=wait_and_press, daemon=True).start()


@pytest.fixture(scope="module")
def dying(root):
    """A command in a process of its own, which is killed with all of its Ray after two epochs; waits for that.

    It runs beside the reference, for it waits for Ray most of its time.
    """
    with (root / "killed.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", TRAIN, *command(root, "killed")],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    with ThreadPoolExecutor(1) as pool:
        killed = pool.submit(kill_after_epoch, process, root / "killed", 2)
        yield lambda: killed.result(300)


def kill_after_epoch(process, output, epoch):
    try:
        wait_for_epoch(output, epoch)
    finally:
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        for member in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
        process.wait(120)
        psutil.wait_procs(family, 120)
    return output


@pytest.fixture(scope="module")
def reference(root, dying, local_ray):
    """The model of a training that nothing happened to: the worker's loop in this process, without Ray Train."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ray_train, "train", train_here)
        assert run(command(root, "reference")) == 0
    return load_bundle(str(root / "reference"))


def train_here(job, *, shares, pool, say):
    alone = SimpleNamespace(get_world_rank=lambda: 0, get_world_size=lambda: 1)
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ray.train, "get_context", lambda: alone)
        patch.setattr(ray.train, "report", lambda figures: None)
        patch.setattr(ray.train.torch, "prepare_model", lambda model, move_to_device: model)
        train_worker.train_worker({"job": job, "shares": shares})
    torch.set_num_threads(threads)


@pytest.mark.timeout(600)
def test_killed_and_interrupted_it_ends_with_the_same_weights(root, reference, dying, capfd):
    """Killed as a whole, then with Ctrl-C; who does the last epochs is no matter."""
    killed = dying()
    done = epochs_done(killed)
    assert done == 2
    interrupt(killed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ray_train, "train_worker", hanging(train_worker.train_worker, after=2))
        assert run(command(root, "killed")) == 130
    told = capfd.readouterr().err
    assert "Traceback" not in told
    wait_for(lambda: not train_workers(), "they end with their controller, also in a Ray that goes on")
    assert epochs_done(killed) == 4 < EPOCHS, "it ends without the epochs that remain"

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ray_train, "train", train_here)
        assert run(command(root, "killed")) == 0
    told += capfd.readouterr().err
    numbers = [int(line[len("epoch") : -len("/")]) for line in re.findall(r"^epoch +\d+/", told, re.MULTILINE)]
    assert numbers == sorted({*numbers}) and numbers[0] > done and numbers[-1] == EPOCHS, "none is done twice"
    bundle = load_bundle(str(killed))
    history = pq.read_table(killed / "training" / "history.parquet").to_pylist()
    assert [row["epoch"] for row in history] == list(range(1, EPOCHS + 1))
    assert bundle.fingerprint == reference.fingerprint
    assert bundle.metrics == reference.metrics
    assert storage.list_names(bundle.uri) == ["bundle.json", "model.safetensors", "training"]
    assert not storage.exists(WorkFolder.of(bundle.uri).uri)


def train_workers():
    return [p for p in psutil.Process().children(recursive=True) if "RayTrainWorker" in command_line(p)]


def command_line(process):
    with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
        return " ".join(process.cmdline())
    return ""


class Runs:
    """Stands in for Ray Train: each run finishes so many epochs, then fails, or ends well where there is no failure."""

    def __init__(self, *runs):
        self._runs = list(runs)

    def __call__(self, job, pool, scratch, shares):
        self._job = job
        return self

    def fit(self):
        epochs, failure = self._runs.pop(0)
        done = job_history(epochs_done_before=len(self._job.work.history()), more=epochs)
        self._job.writer.write_json(self._job.work.progress, {"history": done})
        if failure:
            raise failure


def job_history(*, epochs_done_before, more):
    return [{"epoch": epoch} for epoch in range(1, epochs_done_before + more + 1)]


@pytest.fixture
def train(tmp_path, monkeypatch):
    """Train in these runs; gives what was said."""

    def start(*runs):
        said = []
        monkeypatch.setattr(ray_train, "_trainer", Runs(*runs))
        monkeypatch.setattr(ray_train, "cluster_nodes", list)
        job = train_worker.TrainJob(
            fit_spec=FitSpec(
                options=TrainOptions(epochs=9), model=ModelSpec(classes=("a", "b")), class_counts=(1, 1), init=None
            ),
            data={},
            threads=1,
            work=WorkFolder.of(str(tmp_path)),
            writer=storage.Writer(),
        )
        ray_train.train(job, shares=None, pool=None, say=said.append)
        return said

    return start


def lost():
    text = "Traceback ...\n  The actor died. It is advised to look at a page of advice."
    return ray.train.WorkerGroupError(text, {0: RuntimeError("died")})


def test_workers_may_be_lost_again_and_again_while_epochs_are_finished(train):
    said = train(*[(1, lost())] * 8, (1, None))
    assert len(said) == 8
    assert said[-1] == "a worker failed (The actor died); going on after epoch 8 of 9"


def test_a_training_that_gets_nowhere_ends_after_three_failures(train):
    with pytest.raises(BrainrayError, match=r"failed 3 times .* without finishing an epoch: The actor died$"):
        train((0, lost()), (0, lost()), (0, lost()), (9, None))
    with pytest.raises(BrainrayError, match=r"failed 3 times"):
        train((0, lost()), (0, lost()), (4, ray.exceptions.RaySystemError("x")), (0, lost()), (0, lost()), (9, None))


def test_who_has_lost_the_output_does_not_try_again(train):
    held = ray.train.WorkerGroupError("brainray.errors.OutputHeld: another run has taken over", {})
    with pytest.raises(BrainrayError, match="another run has taken over") as raised:
        train((1, held), (9, None))
    assert raised.value.exit_code == OutputHeld.exit_code


def test_a_wrong_request_that_only_a_worker_finds_is_not_tried_again(train):
    wrong = ray.train.WorkerGroupError("brainray.errors.BadRequest: --weights imagenet: they are missing", {})
    with pytest.raises(BrainrayError, match="they are missing") as raised:
        train((0, wrong), (9, None))
    assert raised.value.exit_code == BadRequest.exit_code
