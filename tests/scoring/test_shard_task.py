"""Marks that outlive the worker that made them."""

import pytest

from brainray import storage
from brainray.errors import OutputHeld
from brainray.scoring.shard_task import count_attempt
from brainray.storage import Writer


@pytest.fixture
def writer(tmp_path):
    assert storage.claim(str(tmp_path / "1"), b"{}")
    return Writer(staging=str(tmp_path / "1"))


def test_attempts_that_did_not_end_are_counted(writer):
    deaths = [count_attempt("shard", writer) for _ in range(3)]
    assert [dead.__enter__() for dead in deaths] == [1, 2, 3]
    with count_attempt("shard", writer) as number, count_attempt("other", writer) as other:
        assert (number, other) == (4, 1)
    with count_attempt("shard", writer) as number:
        assert number == 1, "an attempt that ended must clear the marks of those before"


def test_an_attempt_that_fails_leaves_no_mark(writer):
    with pytest.raises(ValueError, match="bad"), count_attempt("shard", writer):
        raise ValueError("bad")
    with count_attempt("shard", writer) as number:
        assert number == 1


def test_a_worker_whose_run_was_taken_over_does_not_begin(writer):
    storage.revoke(writer.staging)
    with pytest.raises(OutputHeld), count_attempt("shard", writer):
        pytest.fail("it began")
