"""Homes, working folders and Pythons as containers and schedulers have them."""

import logging
import os
import subprocess
import sys

import pytest

from brainray import storage
from brainray.doctor.checks import findings_of
from brainray.errors import BadRequest
from brainray.evaluation import plots
from brainray.machine.hardware import has_working_folder, is_writable
from brainray.storage.scratch import scratch_folder


@pytest.fixture
def lost(tmp_path, monkeypatch):
    """The working folder is deleted until the end of the test."""
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()


def test_a_working_folder_that_is_gone_matters_to_relative_paths_only(lost):
    assert not has_working_folder()
    assert storage.normalise("/data/a") == "/data/a"
    with pytest.raises(BadRequest, match=r"^a: the working folder is gone"):
        storage.normalise("a")


def test_doctor_checks_ray_and_torch_from_a_folder_that_is_gone(lost):
    (finding,) = findings_of("json.tool", "check", "/none", timeout_s=60, remedy="")
    assert "No such file" in finding.found, "the program ran"


def test_where_no_home_holds_its_cache_matplotlib_has_a_folder_and_is_silent(monkeypatch, tmp_path):
    monkeypatch.delenv("MPLCONFIGDIR", raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(plots, "is_writable", lambda _: False)
    plots._new_figure()
    assert os.environ["MPLCONFIGDIR"] == f"{tmp_path}/matplotlib-of-{os.getuid()}"
    assert not logging.getLogger("matplotlib").isEnabledFor(logging.WARNING)


def test_no_folder_for_temporary_files_is_one_line(monkeypatch):
    def none():
        raise FileNotFoundError("No usable temporary directory found")

    monkeypatch.setattr("tempfile.gettempdir", none)
    with pytest.raises(BadRequest, match="set TMPDIR"), scratch_folder():
        pass


def test_a_folder_is_writable_where_it_can_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    assert is_writable(f"{tmp_path}/a/b")
    assert not is_writable(f"{tmp_path}/file/b")
    assert not is_writable("/proc/a")


def test_python_without_docstrings_shows_the_help():
    command = [sys.executable, "-OO", "-m", "brainray", "score", "--help"]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=60).stdout
    assert "Score every image under the inputs" in shown


def test_a_file_has_one_name_in_all_locales(tmp_path):
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-m", "brainray", "sample", "--images", "4", "--output", f"{tmp_path}/é"]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=60, env=os.environ | locale).stdout
    assert shown == f"4 drawn images in class folders are in {tmp_path}/é\n"
