"""Two runs on one output: who is refused, who takes over, and that a former holder can write nothing any more."""

import json
import multiprocessing
import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
from support.waiting import wait_for

from brainray import storage
from brainray.errors import OutputHeld
from brainray.storage import lease

# Holds argv[1] with a ttl of argv[2] seconds. Each line it is sent makes it write a file and say how that went.
HOLDER = """
import sys, time
from brainray.storage import lease
from brainray.errors import OutputHeld
output = sys.argv[1]
with lease.hold(output, purpose="score", say=print, ttl_s=float(sys.argv[2])) as held:
    print("holds", flush=True)
    for name in sys.stdin:
        try:
            held.writer.write_bytes(f"{output}/{name.strip()}", b"late")
            print("written", flush=True)
        except OutputHeld as exc:
            print("refused:", exc, flush=True)
    while not held.lost:
        time.sleep(0.01)
    print("lost", flush=True)
"""

forked = multiprocessing.get_context("fork")


@pytest.fixture
def output(tmp_path):
    return str(tmp_path / "run")


@pytest.fixture
def other_run(output):
    """Starts another process that holds the output."""
    started = []

    def start(ttl_s=60.0):
        command = [sys.executable, "-c", HOLDER, output, str(ttl_s)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        started.append(process)
        assert process.stdout.readline() == "holds\n"
        return process

    yield start
    for process in started:
        process.kill()
        with process:  # closes its pipes and waits
            pass


class Time:
    """A clock that runs only while somebody sleeps; `during[k]` happens in the k-th sleep."""

    def __init__(self, during=None):
        self.now = time.monotonic()
        self.slept = []
        self.said = []
        self.during = during or {}

    def clock(self):
        return self.now

    def sleep(self, seconds):
        self.slept.append(seconds)
        self.now += seconds
        self.during.get(len(self.slept), lambda: None)()

    def hold(self, output, **options):
        return lease.hold(output, purpose="score", say=self.said.append, clock=self.clock, sleep=self.sleep, **options)


def no_wait(seconds):
    raise AssertionError(f"the user would have waited {seconds} s for a holder that is known to be dead or alive")


def hold(output, *, sleep=no_wait, **options):
    return lease.hold(output, purpose="score", say=lambda line: None, sleep=sleep, **options)


def record_uri(output):
    return f"{output}/.lease/{max(storage.list_names(f'{output}/.lease'))}/holder.json"


def rewrite(output, **changes):
    storage.write_json(record_uri(output), storage.read_json(record_uri(output)) | changes)


def leave(output, **changes):
    """A lease that somebody left unreleased."""
    with hold(output):
        pass
    rewrite(output, **({"released": False} | changes))


def leave_elsewhere(output, **changes):
    leave(output, host="host7", pid=4711, boot_id="of another machine", since="2026-11-22T06:10:03+00:00", **changes)


def everything(folder):
    found = [(path, *(f"{path}/{name}" for name in files)) for path, _, files in os.walk(folder)]
    return {path: os.stat(path).st_mtime_ns for paths in found for path in paths}


def state_of(process):
    return storage.read_bytes(f"/proc/{process.pid}/stat").rsplit(b")", 1)[1].split()[0]


# One at a time


def test_a_released_output_is_free_at_once(output):
    with hold(output) as first:
        first.writer.write_bytes(f"{output}/a", b"1")
    with hold(output) as second:
        second.writer.write_bytes(f"{output}/a", b"2")
        assert (first.epoch, second.epoch) == (1, 2)
        assert os.listdir(f"{output}/.lease") == ["00000002"]
    assert storage.read_json(record_uri(output))["released"], "the next run would have waited for one that has ended"
    assert storage.read_bytes(f"{output}/a") == b"2"


def test_a_second_run_is_refused_and_told_who_holds(output, other_run):
    holder = other_run()
    with pytest.raises(OutputHeld) as refused, hold(output):
        pytest.fail("two runs would have written one output")
    message = str(refused.value)
    since = storage.read_json(record_uri(output))["since"][:19].replace("T", " ")
    assert message == (
        f"{output} is held by another run: score on {socket.gethostname()}, process {holder.pid}, since {since} UTC; "
        "wait for it to end"
    )
    assert refused.value.exit_code == 5


def test_a_process_cannot_hold_one_output_twice(output):
    with hold(output) as first:
        with pytest.raises(OutputHeld, match=f"process {os.getpid()}"), hold(output):
            pytest.fail("two threads would have written one output")
        first.writer.write_bytes(f"{output}/a", b"1")
        with hold(f"{output}2"):
            pass


@pytest.mark.parametrize("end", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_run_that_fails_releases_the_output(output, end):
    with pytest.raises(end), hold(output):
        raise end
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("lease of")]
    with hold(output):
        pass


def test_a_fork_that_leaves_the_block_releases_nothing(output):
    test = os.getpid()
    try:
        with hold(output):
            child = os.fork()
            if child == 0:
                raise SystemExit
            os.waitpid(child, 0)
            with pytest.raises(OutputHeld), hold(output):
                pytest.fail("a helper process that ended would have given the output away")
    finally:
        if os.getpid() != test:
            os._exit(0)


def race(output, runs=8):
    """Of so many processes that want the output at the same moment: what became of each."""
    start, told, answers = forked.Barrier(runs), forked.Barrier(runs), forked.Queue()

    def compete():
        start.wait(120)
        try:
            with hold(output):
                answers.put("held")
                told.wait(120)
        except OutputHeld as exc:
            answers.put(str(exc))
            told.wait(120)

    processes = [forked.Process(target=compete) for _ in range(runs)]
    for process in processes:
        process.start()
    found = [answers.get(timeout=120) for _ in processes]
    for process in processes:
        process.join(120)
    return found


@pytest.mark.parametrize("lease_left", ["none", "released", "dead"])
def test_of_many_that_start_together_exactly_one_holds(output, lease_left):
    for _ in range(5):
        if lease_left == "none":
            shutil.rmtree(output, ignore_errors=True)
        else:
            leave(output, released=lease_left == "released", started_ticks=1)
        found = race(output)
        assert found.count("held") == 1, "two runs would have written one output, or none could"
        assert sum("is held by another run: score on" in answer for answer in found) == 7
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


# Who is alive


@pytest.mark.parametrize("reaped", [True, False], ids=["reaped", "zombie"])
def test_a_killed_holder_is_followed_at_once(output, other_run, reaped):
    killed = other_run()
    killed.kill()
    if reaped:
        killed.wait()
    else:
        wait_for(lambda: state_of(killed) == b"Z", "the killed process is a zombie")
    with hold(output) as held:
        assert held.epoch == 2


def test_a_process_number_that_was_given_out_again_is_no_holder(output):
    leave(output, started_ticks=1)
    with hold(output) as held:
        assert held.epoch == 2


def test_a_silent_lease_of_another_machine_is_followed_after_its_ttl(output):
    leave_elsewhere(output, ttl_s=48.0)
    fake = Time()
    with fake.hold(output, ttl_s=600.0) as held:
        assert held.epoch == 2
    assert fake.slept == [4.0] * 12, "its own ttl counts: it may renew that seldom"
    assert fake.said == [
        f"{output} is held by score on host7, process 4711, since 2026-11-22 06:10:03 UTC; "
        "taken over in 48 s unless it stirs"
    ]


@pytest.mark.parametrize("sleeps", [1, 5, 12])
def test_a_lease_of_another_machine_that_is_renewed_is_refused(output, sleeps):
    leave_elsewhere(output)
    fake = Time({sleeps: lambda: rewrite(output, renewals=1)})
    with pytest.raises(OutputHeld, match="score on host7, process 4711, since 2026-11-22 06:10:03 UTC"):
        fake.hold(output).__enter__()
    assert len(fake.slept) == sleeps, "a live run on another machine would have lost its output"


def test_a_lease_that_is_released_while_watched_is_followed_at_once(output):
    leave_elsewhere(output)
    fake = Time({2: lambda: rewrite(output, released=True)})
    with fake.hold(output):
        assert len(fake.slept) == 2


def test_a_silent_lease_that_another_run_follows_first_is_refused(output):
    leave_elsewhere(output)
    others = []

    def other_follows():
        rewrite(output, released=True)
        others.append(hold(output))
        others[0].__enter__()

    fake = Time({3: other_follows})
    with pytest.raises(OutputHeld, match=f"process {os.getpid()}"):
        fake.hold(output).__enter__()
    others[0].__exit__(None, None, None)


def test_a_look_while_the_lease_changes_hands_sees_the_new_holder(output, monkeypatch):
    leave(output, released=True)
    read_json, others = storage.read_json, []

    def slow_read_json(uri):
        monkeypatch.setattr(storage, "read_json", read_json)
        others.append(hold(output))
        others[0].__enter__()
        return read_json(uri)

    monkeypatch.setattr(storage, "read_json", slow_read_json)
    with pytest.raises(OutputHeld, match=f"process {os.getpid()}"):
        hold(output).__enter__()
    others[0].__exit__(None, None, None)


def test_a_pause_of_the_watcher_is_not_held_against_the_holder(output):
    leave_elsewhere(output)

    def pause():
        fake.now += 1000

    fake = Time({1: pause, 3: lambda: rewrite(output, renewals=1)})
    with pytest.raises(OutputHeld):
        fake.hold(output).__enter__()


@pytest.mark.parametrize(
    "content", [None, b"", b"[]", b"{}", b"\xff"], ids=["none", "empty", "list", "bare", "no JSON"]
)
def test_a_lease_that_names_nobody_is_followed_after_the_ttl(output, content):
    leave(output)
    uri = record_uri(output)
    storage.delete(uri)
    if content is not None:
        storage.write_bytes(uri, content)
    fake = Time()
    with fake.hold(output, ttl_s=24.0) as held:
        assert held.epoch == 2
    assert sum(fake.slept) == 24.0
    assert fake.said == [f"{output} is held by an unknown run; taken over in 24 s unless it stirs"]


def test_a_watch_begins_anew_with_each_holder(output):
    leave_elsewhere(output, ttl_s=60.0)

    def unreadable_follower():
        os.makedirs(f"{output}/.lease/00000002")

    def readable_again():
        shutil.copy(f"{output}/.lease/00000001/holder.json", f"{output}/.lease/00000002")

    fake = Time({3: unreadable_follower, 7: readable_again})
    with fake.hold(output) as held:
        assert held.epoch == 3
    assert len(fake.slept) == 7 + 12, "a run that had just begun would have lost its output"
    assert len(fake.said) == 3


def test_a_lease_of_a_later_version_is_understood(output):
    leave_elsewhere(output, invented_later=1)
    fake = Time({1: lambda: rewrite(output, renewals=1)})
    with pytest.raises(OutputHeld, match="host7"):
        fake.hold(output).__enter__()


def test_a_holder_here_that_has_long_been_silent_is_watched(output):
    leave(output, renewed_s=time.monotonic() - 61)
    fake = Time()
    with fake.hold(output):
        assert len(fake.slept) == 12
    leave(output, renewed_s=time.monotonic() - 61)
    fake = Time({1: lambda: rewrite(output, renewals=9)})
    with pytest.raises(OutputHeld):
        fake.hold(output).__enter__()


def test_a_process_of_another_user_that_is_hidden_is_watched(output, monkeypatch):
    leave(output, pid=4711)

    def forbid(pid, signal_number):
        assert (pid, signal_number) == (4711, 0), "a look at a holder would have sent it a signal"
        raise PermissionError

    monkeypatch.setattr(os, "kill", forbid)
    monkeypatch.setattr(lease, "_process", lambda pid: None)
    fake = Time()
    with fake.hold(output):
        assert len(fake.slept) == 12, "a colleague's live run would have lost its output"


def test_without_proc_nobody_is_taken_for_dead(output, monkeypatch):
    monkeypatch.setattr(lease, "_machine", lambda: (None, None))
    leave(output)
    fake = Time()
    with fake.hold(output):
        assert len(fake.slept) == 12


# What a former holder can still do: nothing


def test_a_stopped_holder_is_followed_after_its_ttl_and_can_write_nothing_then(output, other_run):
    stopped = other_run(ttl_s=0.4)
    stopped.send_signal(signal.SIGSTOP)
    wait_for(lambda: state_of(stopped) == b"T", "the holder is stopped")
    began = time.monotonic()
    with hold(output, sleep=time.sleep, ttl_s=600.0) as held:
        assert time.monotonic() - began >= 0.4, "a holder that is stopped for a moment would have lost its output"
        held.writer.write_bytes(f"{output}/result", b"of the second run")
        before = everything(output)
        stopped.send_signal(signal.SIGCONT)
        for name in ("result", "new/folder/file", ".lease/00000001/holder.json"):
            stopped.stdin.write(f"{name}\n")
            assert stopped.stdout.readline().startswith("refused: another run has taken over"), name
        stopped.stdin.close()
        assert stopped.stdout.readline() == "lost\n"
        assert stopped.wait(120) == 0
        assert os.listdir(f"{output}/.lease") == ["00000002"], "a late heartbeat brought the old lease back"
        assert everything(output) == before
        held.check()


def test_a_holder_that_finds_itself_followed_is_told(output):
    with hold(output, ttl_s=0.3) as first:
        first.check()
        shutil.copytree(f"{output}/.lease/00000001", f"{output}/.lease/00000002")
        rewrite(output, released=True)
        with hold(output) as second:
            with pytest.raises(OutputHeld, match="another run has taken over"):
                first.writer.write_bytes(f"{output}/a", b"1")
            wait_for(lambda: first.lost, "the heartbeat has noticed")
            with pytest.raises(OutputHeld, match=f"{output} was taken over"):
                first.check()
            second.writer.write_bytes(f"{output}/a", b"2")
    assert not storage.exists(f"{output}/.lease/00000001")
    assert storage.read_json(record_uri(output))["released"]


def test_a_holder_whose_follower_was_killed_halfway_stops_too(output):
    with hold(output, ttl_s=0.3) as first:
        shutil.copytree(f"{output}/.lease/00000001", f"{output}/.lease/00000002")
        wait_for(lambda: first.lost, "the heartbeat has noticed")
        with pytest.raises(OutputHeld):
            first.check()


def test_a_lease_whose_folder_is_removed_is_lost_and_stays_removed(output):
    with hold(output, ttl_s=0.3) as held:
        shutil.rmtree(output)
        wait_for(lambda: held.lost, "the heartbeat has noticed")
    assert not storage.exists(output)


def test_what_a_taker_killed_halfway_left_is_removed_by_the_next(output):
    with hold(output) as first:
        rewrite(output, released=True)
        shutil.copytree(f"{output}/.lease/00000001", f"{output}/.lease/00000002")  # claimed, and not yet revoked
        with hold(output) as third:
            assert third.epoch == 3
            assert os.listdir(f"{output}/.lease") == ["00000003"]
            with pytest.raises(OutputHeld):
                first.writer.write_bytes(f"{output}/a", b"1")


def test_a_taker_that_slept_before_its_claim_withdraws_when_others_have_gone_on(output, monkeypatch):
    """The number it was to claim has been used and removed meanwhile: its claim succeeds, and must not count."""
    claim, others = storage.claim, []

    def slow_claim(uri, data):
        monkeypatch.setattr(storage, "claim", claim)
        with hold(output):
            pass
        others.append(hold(output))
        others.append(others[0].__enter__())
        assert claim(uri, data), "this test no longer tests what it says"
        return True

    monkeypatch.setattr(storage, "claim", slow_claim)
    with pytest.raises(OutputHeld), hold(output):
        pytest.fail("two runs would have written one output")
    manager, second = others
    second.writer.write_bytes(f"{output}/a", b"2")
    assert storage.list_names(f"{output}/.lease") == ["00000002"]
    manager.__exit__(None, None, None)


def test_a_writer_in_another_process_is_shut_out_too(output):
    with hold(output) as first:
        there = pickle.loads(pickle.dumps(first.writer))
        there.write_bytes(f"{output}/a", b"1")
    there.write_bytes(f"{output}/a", b"2")
    with hold(output), pytest.raises(OutputHeld):
        there.write_bytes(f"{output}/a", b"3")
    assert storage.read_bytes(f"{output}/a") == b"2"


# The heartbeat


def test_a_holder_renews_its_lease_while_it_runs(output):
    with hold(output, ttl_s=0.3) as held:
        wait_for(lambda: storage.read_json(record_uri(output))["renewals"] >= 3, "the lease was renewed three times")
        assert not held.lost
    before = storage.read_bytes(record_uri(output))
    time.sleep(0.15)
    assert storage.read_bytes(record_uri(output)) == before, "a heartbeat after the end would undo the release"


def test_a_lease_outlives_a_full_disk(output, monkeypatch):
    fsync, failed = os.fsync, []

    def no_space(handle):
        failed.append(handle)
        raise OSError(28, "No space left on device")

    with hold(output, ttl_s=0.3) as held:
        monkeypatch.setattr(os, "fsync", no_space)
        wait_for(lambda: len(failed) >= 3, "three heartbeats have failed")
        renewals = storage.read_json(record_uri(output))["renewals"]
        monkeypatch.setattr(os, "fsync", fsync)
        wait_for(lambda: storage.read_json(record_uri(output))["renewals"] > renewals, "the lease is renewed again")
        held.check()
    assert os.listdir(f"{output}/.lease/00000001") == ["holder.json"]


def test_a_run_on_a_full_disk_ends_with_its_own_error(output, monkeypatch):
    def no_space(handle):
        raise OSError(28, "No space left on device")

    with pytest.raises(ValueError, match="of the run"), hold(output):
        monkeypatch.setattr(os, "fsync", no_space)
        raise ValueError("of the run")


# The quick look


def test_a_quick_look_refuses_only_what_surely_lives_and_writes_nothing(output):
    lease.refuse_if_held(output)
    assert not storage.exists(output)
    with hold(output):
        before = everything(output)
        with pytest.raises(OutputHeld, match=f"{output} is held by another run: score on"):
            lease.refuse_if_held(output)
        assert everything(output) == before
    for doubtful in (
        {},
        {"started_ticks": 1},
        {"boot_id": "other"},
        {"renewed_s": 0.0, "ttl_s": 0.001},
        {"renewed_s": 1e12},
    ):
        leave(output)
        rewrite(output, released=not doubtful, **doubtful)
        before = everything(output)
        lease.refuse_if_held(output)
        assert everything(output) == before
        rewrite(output, released=True)


def test_the_record_says_what_is_promised(output):
    with hold(output, ttl_s=30.0):
        record = json.loads(storage.read_bytes(f"{output}/.lease/00000001/holder.json"))
    assert record["host"] == socket.gethostname()
    assert (record["pid"], record["purpose"], record["ttl_s"]) == (os.getpid(), "score", 30.0)
    assert record["boot_id"] == storage.read_bytes("/proc/sys/kernel/random/boot_id").decode().strip()
    assert record["pid_namespace"] == os.readlink("/proc/self/ns/pid")
    assert (record["renewals"], record["released"]) == (0, False)
