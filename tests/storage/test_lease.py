"""Two runs on one output: who is refused, who takes over, and that a former holder can write nothing any more."""

import json
import os
import shutil
import socket
import threading
import time

import pytest
from support.machine.waiting import wait_for
from support.storage.leases import (
    Time,
    everything,
    hold,
    leave,
    leave_elsewhere,
    other_run,
    output,
    record_uri,
    rewrite,
    state_of,
)

from brainray import storage
from brainray.errors import OutputHeld
from brainray.storage import lease

__all__ = ["other_run", "output"]  # fixtures


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
