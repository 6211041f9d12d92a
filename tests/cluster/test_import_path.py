"""What the workers of a private Ray import: never modules that lie in the working folder.

Every command of `support/machine/processes.py` runs in a folder with such modules.
"""

import os
from pathlib import Path

from support.each import each

import brainray
from brainray.cluster import ray_internals, session
from brainray.cluster.guard import Guard

PACKAGE_PARENT = str(Path(brainray.__file__).parent.parent)


def test_workers_of_a_cluster_import_nothing_from_the_working_folder_of_a_run(monkeypatch):
    """As on the head of a cluster: a torch.py there would be imported by the workers on that machine."""
    asked = []
    monkeypatch.setattr("ray.init", lambda **given: asked.append(given))
    monkeypatch.setattr(session, "bring_token", lambda address: None)
    session._connect("127.0.0.1:6379", Guard())
    session._connect("ray://127.0.0.1:10001", Guard())
    assert list(asked[0]["job_config"]._py_driver_sys_path) == [PACKAGE_PARENT]
    assert "job_config" not in asked[1]


def test_ray_cannot_add_folders_to_those_of_the_workers():
    config = ray_internals.own_job_config()
    config._py_driver_sys_path.extend(["/working/folder"])
    assert list(config._get_proto_job_config().py_driver_sys_path) == [PACKAGE_PARENT]


def test_installed_packages_need_no_folder_of_their_own(monkeypatch, tmp_path):
    """Put first, their folder would shadow modules of Python's own."""
    monkeypatch.setattr(ray_internals, "_PACKAGE", tmp_path / "brainray")
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path) if name == "purelib" else "/elsewhere")
    assert list(ray_internals.own_job_config()._get_proto_job_config().py_driver_sys_path) == []


@each(
    ("given", "started_with"),
    [("/a:/b", "/a:/b"), (":/a", "/a"), ("/a:", "/a"), ("/a:.:./:/b", "/a:/b"), ("lib:../b", "lib:../b"), ("", "")],
)
def test_entries_of_pythonpath_that_mean_the_working_folder_are_left_out(monkeypatch, given, started_with):
    monkeypatch.setenv("PYTHONPATH", given)
    with ray_internals.without_relative_python_path():
        assert os.environ["PYTHONPATH"] == started_with
    assert os.environ["PYTHONPATH"] == given


def test_without_a_pythonpath_none_is_set(monkeypatch):
    monkeypatch.delenv("PYTHONPATH", raising=False)
    with ray_internals.without_relative_python_path():
        assert "PYTHONPATH" not in os.environ
    assert "PYTHONPATH" not in os.environ
