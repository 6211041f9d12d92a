"""Whatever is killed and whenever, the same command run again ends with one row an image, and nothing is scored twice.

Each command is a real process with a Ray of its own. `tests/bench/soak.py` does the same for hours, at every moment;
`tests/scoring/test_faults.py` kills at every step of a commit, without Ray.
"""

import hashlib
import os
import random
import socket
import time

import pytest
from support.imaging.images import image_bytes
from support.machine.processes import Faults, Workspace, check_reader, check_whole, finished, rows_seen
from support.machine.waiting import until
from support.models.bundles import CLASSES
from support.scoring.runs import brightness, engine_of, finish_here, request_for, score_here, undisturbed_rows

from brainray import storage

SLOW = Faults(read_ms=250)  # the four images of a shard are read side by side
GO_ON = "brainray: stopped; what was finished is kept, run the same command to go on"


@pytest.fixture
def rng():
    """The same harm after the same part each time, as far as that can be; KILL_SEED draws another."""
    return random.Random(int(os.environ.get("KILL_SEED", "1")))


@pytest.fixture
def workspace(archive, bundle, tmp_path):
    """96 images in 24 shards, none of them scored. One worker, for each takes 4 processor seconds to start."""
    folders = {"root": archive(images=24), "output": tmp_path / "run"}
    with Workspace(tmp_path, model=bundle.uri, options=["--workers", "1"], **folders) as workspace:
        yield workspace


@pytest.fixture
def expected(workspace, bundle, tmp_path):
    """The rows of a run that nobody disturbs."""
    return undisturbed_rows(workspace, bundle, tmp_path)


def begin(workspace, *, parts, faults=SLOW):
    """Start a slow run and wait until it has finished so many parts."""
    command = workspace.start(faults=faults)
    workspace.await_parts(command, parts)
    assert command.running, str(command)
    return command


def only_ours(lines):
    """Whether the standard error stream holds progress and what `brainray` says, and nothing of Ray's."""
    return all(line.startswith(("starting workers", "scoring: ", "adding up", "brainray: ")) for line in lines)


def tree(output):
    """Every file of a run but the lease, with its content and time of writing."""
    files = [path for path in output.rglob("*") if path.is_file() and ".lease" not in path.parts]
    return {str(path): (path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).digest()) for path in files}


@pytest.mark.timeout(600)
def test_after_a_kill_the_same_command_reads_and_scores_the_rest_and_no_more(workspace, expected, rng, tmp_path):
    """Until then a second run is refused, at any moment, and disturbs nobody."""
    kind, parts = rng.choice(["driver", "everything"]), rng.randrange(1, 16)
    killed = workspace.start("--workers", "2", faults=SLOW)
    assert until((workspace.output / "run.json").exists), str(killed)
    is_refused(workspace, workspace.start(), held_by=killed)
    workspace.await_parts(killed, parts)
    time.sleep(rng.uniform(0, 0.1))
    assert killed.running, str(killed)
    killed.kill(kind, rng)
    check_reader(workspace.output)
    assert until(killed.is_harmless), f"left behind: {killed.family()}"
    kept = finished(workspace.output)
    assert 0 < len(kept) < 24 and not (workspace.output / "_SUCCESS").exists()
    check_reader(workspace.output)
    has_row = {row["uri"] for row in rows_seen(workspace.output)}
    # Without its page, for which a few images are read again.
    again = workspace.score("--no-report", faults=Faults(log=str(tmp_path / "opened")))
    opened = [line for line in (tmp_path / "opened").read_text().splitlines() if not line.startswith("import ")]
    assert sorted(opened) == sorted(expected.keys() - has_row)
    check_whole(workspace.output, expected, kept=kept)
    assert f"scored {96 - 4 * len(kept)} images" in again.stdout.read_text()


def is_refused(workspace, command, *, held_by):
    assert command.wait() == 5, str(command)
    assert held_by.running, "the first one was to be in the midst of it"
    who = f"score on {socket.gethostname()}, process {held_by.process.pid}, since "
    (line,) = command.errors()
    assert line.startswith(f"brainray: {workspace.output} is held by another run: {who}")


def test_a_run_whose_ray_dies_ends_soon_and_says_how_to_go_on(workspace, bundle, expected, rng):
    command = begin(workspace, parts=rng.randrange(1, 8))
    command.kill("raylet", rng)
    assert command.wait() == 1, str(command)
    assert until(command.is_harmless), f"left behind: {command.family()}"  # a worker may end a part meanwhile
    kept = finished(workspace.output)
    check_reader(workspace.output)
    assert finish_here(workspace, bundle).scored == 96 - 4 * len(kept)
    check_whole(workspace.output, expected, kept=kept)
    last = command.errors()[-1]
    assert last.startswith("brainray: ") and "run the same command" in last, str(command)


@pytest.mark.parametrize("kind", ["SIGTERM"])  # SIGINT takes the same way, in the soak and in training
def test_a_run_that_is_told_to_stop_says_how_to_go_on_and_leaves_nothing_behind(kind, workspace, bundle, expected, rng):
    command = begin(workspace, parts=rng.randrange(1, 8))
    kept = finished(workspace.output)
    command.kill(kind, rng)
    assert command.wait() == 130, str(command)
    assert command.errors()[-1] == GO_ON and only_ours(command.errors()), str(command)
    assert until(command.is_alone), f"left behind: {command.family()}"
    assert storage.read_json(f"{workspace.output}/.lease/00000001/holder.json")["released"]
    assert not [name for name in os.listdir(command.scratch) if name.startswith("brainray-")]
    assert kept.items() <= finished(workspace.output).items() and not (workspace.output / "_SUCCESS").exists()
    check_reader(workspace.output)
    kept = finished(workspace.output)
    assert finish_here(workspace, bundle).scored == 96 - 4 * len(kept)
    check_whole(workspace.output, expected, kept=kept)


def test_a_run_that_slept_while_another_took_over_ends_and_writes_nothing_more(workspace, bundle, expected):
    slept = begin(workspace, parts=2)
    slept.pause()
    holder = storage.read_bytes(f"{workspace.output}/.lease/00000001/holder.json")
    assert storage.claim(f"{workspace.output}/.lease/00000002", holder)
    storage.revoke(f"{workspace.output}/.lease/00000001")  # as a run does that has waited for the end of the ttl
    before, kept = tree(workspace.output), finished(workspace.output)
    slept.resume()
    assert slept.wait() == 5, str(slept)
    assert "another run" in slept.errors()[-1] and "Traceback" not in slept.stderr.read_text()
    assert until(slept.is_alone)
    assert tree(workspace.output) == before
    assert finish_here(workspace, bundle).scored == 96 - 4 * len(kept)
    check_whole(workspace.output, expected, kept=kept)


def test_a_run_with_nothing_new_opens_no_image_and_loads_neither_ray_nor_torch(bundle, tmp_path):
    root = tmp_path / "large"
    for k, name in enumerate(CLASSES):
        (root / name).mkdir(parents=True)
        (root / name / "0.jpg").write_bytes(image_bytes(k, size=(32, 32)))
        for i in range(1, 100):
            os.link(root / name / "0.jpg", root / name / f"{i}.jpg")
    request = request_for(root, tmp_path / "run", bundle, shard_size=None)
    assert score_here(request, engine_of(bundle, predict=brightness)).scored == 400
    before, log = tree(tmp_path / "run"), tmp_path / "opened"
    with Workspace(tmp_path, root=root, model=bundle.uri, output=tmp_path / "run") as workspace:
        command = workspace.score(faults=Faults(log=str(log)))
    assert "nothing new to score" in command.stdout.read_text()
    assert log.read_text() == ""
    assert tree(tmp_path / "run") == before
