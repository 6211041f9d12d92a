"""Many runs that want one output at the same moment: one gets it, and no two ever hold it together."""

import multiprocessing
import os
import shutil
import threading
import time

import pytest
from support.machine.waiting import wait_for
from support.storage.leases import hold, leave, leave_elsewhere

from brainray import storage
from brainray.errors import OutputHeld

forked = multiprocessing.get_context("fork")


@pytest.fixture
def output(tmp_path):
    return str(tmp_path / "run")


def races(output, leave_one, *, times, runs=6):
    """Of so many processes that want the output at the same moment, several times: what became of each."""
    start, ended = forked.Barrier(runs + 1), forked.Barrier(runs + 1)
    told, answers = forked.Barrier(runs), forked.Queue()

    def compete():
        for _ in range(times):
            start.wait(120)
            try:
                with hold(output):
                    answers.put("held")
                    told.wait(120)
            except OutputHeld as exc:
                answers.put(str(exc))
                told.wait(120)
            ended.wait(120)

    processes = [forked.Process(target=compete) for _ in range(runs)]
    for process in processes:
        process.start()
    for _ in range(times):
        leave_one()
        start.wait(120)
        ended.wait(120)
        yield [answers.get(timeout=120) for _ in processes]
    for process in processes:
        process.join(120)


def test_of_many_that_start_together_exactly_one_holds(output):
    """Whether there was no lease before, one that was given back, or that of a run that has died."""
    kinds = ["none", "released", "dead"] * 2
    left = iter(kinds)

    def leave_one():
        shutil.rmtree(output, ignore_errors=True)
        if (kind := next(left)) != "none":
            leave(output, released=kind == "released", started_ticks=1)

    for kind, found in zip(kinds, races(output, leave_one, times=len(kinds)), strict=True):
        assert found.count("held") == 1, f"{kind}: two runs would have written one output, or none could"
        assert sum("is held by another run: score on" in answer for answer in found) == 5
        assert storage.list_names(f"{output}/.lease") == os.listdir(f"{output}/.lease"), "claims left rubbish"


def test_of_many_that_watched_a_silent_holder_exactly_one_follows(output):
    leave_elsewhere(output, ttl_s=0.3)
    start, ended, answers = threading.Barrier(6), threading.Event(), []

    def compete():
        start.wait(120)
        try:
            with hold(output, sleep=time.sleep):
                answers.append("held")
                ended.wait(120)
        except OutputHeld:
            answers.append("refused")

    threads = [threading.Thread(target=compete) for _ in range(6)]
    for thread in threads:
        thread.start()
    wait_for(lambda: len(answers) == 6, "all six have got an answer")
    ended.set()
    for thread in threads:
        thread.join()
    assert answers.count("held") == 1


def test_over_many_handovers_no_two_ever_hold_together(output, tmp_path):
    log = os.open(tmp_path / "log", os.O_CREAT | os.O_APPEND | os.O_RDWR)

    def take_turns():
        turns = 0
        while turns < 8:
            try:
                with hold(output) as held:
                    os.write(log, b"+%08d\n" % held.epoch)
                    held.writer.write_bytes(f"{output}/shared", b"%d" % held.epoch)
                    os.write(log, b"-%08d\n" % held.epoch)
                    turns += 1
            except OutputHeld:
                pass

    processes = [forked.Process(target=take_turns) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0, "a run would have failed for no reason of its own"
    os.close(log)
    lines = (tmp_path / "log").read_text().split()
    assert [line[0] for line in lines] == ["+", "-"] * 32
    epochs = [int(line[1:]) for line in lines[::2]]
    assert epochs == list(range(1, 33)), "an epoch that repeats brings a former holder's writer back to life"
