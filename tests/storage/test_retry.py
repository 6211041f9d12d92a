"""How many read at once, and how often one read is tried."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.each import each

from brainray.errors import BadRequest, Changed, StorageError, Throttled, WrongRegion
from brainray.storage.retry import ConcurrencyLimit, RetryPolicy, RetryState

THROTTLED = Throttled("read_failed", "fewer requests, please")


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


def fail(flow, at_once, exc=THROTTLED):
    """So many reads under way fail one after the other."""
    with suppress(StorageError), ExitStack() as turns:
        for _ in range(at_once):
            turns.enter_context(flow.slot())
        raise exc


def test_a_burst_halves_what_is_under_way_once():
    flow = ConcurrencyLimit(64, clock=Clock())
    fail(flow, 64)
    assert flow.limit == 32


def test_a_limit_that_was_not_reached_is_not_what_is_halved():
    flow = ConcurrencyLimit(64, clock=Clock())
    fail(flow, 10)
    assert flow.limit == 5


def test_it_never_falls_below_one_and_recovers_slowly():
    clock = Clock()
    flow = ConcurrencyLimit(60, clock=clock)
    for _ in range(12):
        fail(flow, flow.limit)
        clock.now += 1.0
    assert 1 <= flow.limit <= 4
    before = flow.limit
    clock.now += 10
    assert flow.limit == before + 20
    clock.now += 30
    assert flow.limit == 60


def test_other_failures_do_not_slow_it_down():
    flow = ConcurrencyLimit(64, clock=Clock())
    fail(flow, 64, StorageError("read_failed", "reset"))
    assert flow.limit == 64


def test_all_threads_together_keep_to_the_limit():
    clock = Clock()
    flow = ConcurrencyLimit(16, clock=clock)
    fail(flow, 16)
    at_once, most, lock = 0, 0, threading.Lock()

    def read(_):
        nonlocal at_once, most
        with flow.slot():
            with lock:
                at_once += 1
                most = max(most, at_once)
            time.sleep(0.002)
            with lock:
                at_once -= 1

    with ThreadPoolExecutor(32) as first, ThreadPoolExecutor(32) as second:
        list(first.map(read, range(100))) + list(second.map(read, range(100)))
        assert most == 8
        clock.now += 30
        list(first.map(read, range(100)))
        assert 8 < most <= 16


failures = st.sampled_from(
    [
        THROTTLED,
        StorageError("read_failed", "reset"),
        StorageError("forbidden", "denied"),
        StorageError("not_found", "gone"),
    ]
)


@given(st.lists(failures, min_size=200, max_size=200), st.booleans())
def test_every_read_ends(causes, in_bucket):
    """However failures are mixed: each kind has its own measure."""
    tries = RetryState(policy=RetryPolicy(), in_bucket=in_bucket)
    waits = []
    for exc in causes:
        wait_s = tries.wait_s(exc)
        if wait_s is None:
            break
        waits.append(wait_s)
    else:
        pytest.fail("tried 200 times")
    assert sum(waits) == pytest.approx(tries.waited_s)
    if exc.reason == "not_found" or (exc.reason == "forbidden" and not in_bucket):
        assert len(waits) == causes.index(exc)


def test_a_wrong_region_does_not_change_by_asking_again():
    assert RetryState(policy=RetryPolicy(), in_bucket=True).wait_s(WrongRegion("forbidden", "elsewhere")) is None


def test_a_condition_that_does_not_hold_is_no_failure_of_the_storage():
    assert RetryState(in_bucket=True).wait_s(Changed("read_failed", "another was first")) is None


def test_a_request_is_made_until_it_succeeds_with_a_wait_between():
    causes, waits = [StorageError("read_failed", "reset"), THROTTLED], []

    def request():
        if causes:
            raise causes.pop()
        return "done"

    tries = RetryState(in_bucket=True)
    assert tries.persist(request, waits.append) == "done"
    assert (tries.count, sum(waits)) == (3, tries.waited_s)


@each(
    "policy",
    [{"attempts": 0}, {"refused_attempts": 0}, {"first_wait_s": -1}, {"longest_wait_s": -1}, {"patience_s": -1}],
)
def test_a_policy_without_sense_is_refused(policy):
    with pytest.raises(BadRequest):
        RetryPolicy(**policy)
