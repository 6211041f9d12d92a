"""A job runs in a Python that has the packages, or ends with a line."""

import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from support.machine.interpreters import bare_python

from brainray.machine.interpreter import PACKAGES, ray_python

ROOT = Path(__file__).resolve().parents[2]
JOBS = [["jobs/score.py"], ["jobs/train.py"], ["-m", "brainray", "score"]]


def normalised(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def test_the_packages_are_those_of_the_dependencies():
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    distributions = packages_distributions()
    known = {normalised(name) for package in PACKAGES for name in distributions[package]}
    assert {normalised(Requirement(text).name) for text in wanted} <= known
    assert len(PACKAGES) == len(wanted)


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    return bare_python(tmp_path_factory.mktemp("bare"))


def under_ray(worker, *command):
    """Run a command below a process whose command line is like that of a raylet with this Python."""
    # A shell that waits for what it runs; its first argument is only there to be seen.
    shell = ["sh", "-c", 'shift; "$@"; exit $?', "raylet"]
    shown = "--none" if worker is None else f'--python_worker_command="{worker}" setup_worker.py --node-ip-address=::1'
    return subprocess.run(
        [*shell, shown, *command],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )


def test_rays_own_python_is_in_the_command_line_of_the_raylet():
    code = "from brainray.machine.interpreter import ray_python; print(ray_python())"
    for path in ("/opt/venv/bin/python", "/a b/python"):
        assert under_ray(path, sys.executable, "-c", code).stdout == f"{path}\n"
    assert under_ray("", sys.executable, "-c", code).stdout == "None\n"
    assert ray_python() is None and ray_python(pid=2**22 + 1) is None


@pytest.mark.parametrize("job", JOBS, ids=" ".join)
def test_a_job_goes_on_in_rays_own_python_where_the_one_on_the_path_lacks_packages(bare, job):
    done = under_ray(sys.executable, bare, *job, "--help")
    assert done.returncode == 0, done.stderr
    assert "Usage: brainray" in done.stdout and "--output" in done.stdout and done.stderr == ""


@pytest.mark.parametrize("job", JOBS, ids=" ".join)
def test_without_one_that_has_the_packages_a_job_ends_with_a_line(bare, job, tmp_path):
    other = bare_python(tmp_path)
    wrongs = {None: f"brainray: {bare} has no ray", bare: f"brainray: {bare} has no ray", "/none": f"{bare} has no ray"}
    wrongs[other] = f"brainray: {bare} has not all of brainray's packages, and Ray's own {other} has no ray"
    for worker, words in wrongs.items():
        done = under_ray(worker, bare, *job, "--help")
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
        assert words in done.stderr and "activate the environment" in done.stderr


def test_a_python_that_has_all_is_kept(bare):
    done = under_ray(bare, sys.executable, "jobs/score.py", "--help")
    assert done.returncode == 0, done.stderr
