"""The names of tests are the same wherever and whenever they are collected: else `pytest -n` refuses to run them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from support.each import each

TESTS = Path(__file__).parent
QUICK = ["--assert=plain", "-p", "no:cacheprovider", "-p", "no:hypothesispytest"]  # which would read all sources
COLLECT = [sys.executable, "-m", "pytest", "--collect-only", *QUICK, str(TESTS)]


def collecting(folder: Path, *options: str, hash_seed: int) -> "subprocess.Popen[str]":
    folder.mkdir()
    places = os.pathsep.join([str(TESTS), str(TESTS.parent), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONHASHSEED": str(hash_seed), "PYTHONPATH": places, "TMPDIR": str(folder)}
    for name in ("PYTEST_ADDOPTS", "PYTEST_XDIST_WORKER", "PYTEST_CURRENT_TEST"):
        environment.pop(name, None)
    return subprocess.Popen(
        [*COLLECT, *options],
        cwd=TESTS.parent,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def names_of(process: "subprocess.Popen[str]") -> list[str]:
    said, _ = process.communicate()
    assert process.returncode == 0, said[-2000:]
    names = [line for line in said.splitlines() if "::" in line]
    assert len(names) > 1000
    return names


def test_the_names_and_the_order_of_tests_depend_on_neither_clock_nor_chance_nor_machine(tmp_path, request):
    """`support.elsewhere` moves the clock, so that nobody has to wait for another second.

    Where this process has collected all tests itself, it need not be done once more; and where two have, of which the
    second was elsewhere (`conftest.py`), xdist has compared their names already.
    """
    pool = getattr(request.config, "workerinput", {"workercount": 1})
    if pool["workercount"] > 1:
        assert ("support.elsewhere" in sys.modules) == (pool["workerid"] == "gw1")
        return
    wanted = ("-m", request.config.option.markexpr)
    there = collecting(tmp_path / "there", *wanted, "-p", "support.elsewhere", hash_seed=77)
    config = request.config
    whole = {config.rootpath / path for path in config.args} == {TESTS}
    if whole and not config.option.keyword:
        here = [item.nodeid for item in request.session.items]
    else:
        here = names_of(collecting(tmp_path / "here", *wanted, hash_seed=1))
    assert here == names_of(there)


def test_no_property_fails_for_a_machine_that_stalls():
    assert settings().deadline is None
    assert HealthCheck.too_slow in settings().suppress_health_check


@each("ids", [["the first fails", "no"], lambda number: "the first fails" if number == 1 else "no"], ids=repr)
def test_cases_are_told_by_their_names(ids):
    with pytest.raises(BaseExceptionGroup) as failed:
        each("number", [1, 2], ids=ids)(lambda number: pytest.fail("wrong") if number == 1 else None)()
    assert [failure.__notes__ for failure in failed.value.exceptions] == [["case: the first fails"]]


def test_all_cases_of_a_test_are_tried_and_those_that_fail_are_named(tmp_path, monkeypatch):
    tried, folders = [], set()

    @each("what", ["a", "bad", "raises nothing", "z"])
    @each("number", [1, 2])
    def check(what, number, tmp_path, monkeypatch):
        assert "LEFT" not in os.environ
        monkeypatch.setenv("LEFT", what)
        tried.append((what, number))
        folders.add(tmp_path)
        assert what != "bad"
        if what == "raises nothing":
            with pytest.raises(OSError):
                pass

    with pytest.raises(BaseExceptionGroup) as failed:
        check(tmp_path=tmp_path, monkeypatch=monkeypatch)
    assert len(tried) == len(folders) == 8
    assert [failure.__notes__ for failure in failed.value.exceptions] == [
        ["case: what='bad'"],
        ["case: what='raises nothing'"],
    ]
    assert [failure.__notes__ for failure in failed.value.exceptions[0].exceptions] == [
        ["case: number=1"],
        ["case: number=2"],
    ]
