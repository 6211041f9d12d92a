"""What a former holder of an output can still do: nothing."""

import os
import pickle
import shutil
import signal
import time

import pytest
from support.machine.waiting import wait_for
from support.storage.leases import everything, hold, other_run, output, record_uri, rewrite, state_of

from brainray import storage
from brainray.errors import OutputHeld

__all__ = ["other_run", "output"]  # fixtures


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
