"""Runs with pseudonyms on several machines: a folder with names that one of them lacks is named before any scoring."""

import os
import shutil

import pytest
from support.imaging.images import image_bytes
from support.models.bundles import CLASSES
from support.scoring.runs import request_for

from brainray import storage
from brainray.cluster.score import _required_paths
from brainray.errors import BadRequest
from brainray.scoring.plan import begin_run, plan_run
from brainray.storage import Writer
from brainray.storage.shared_paths import SharedPaths, shared_paths_of


@pytest.fixture
def shared_paths(tmp_path, bundle) -> SharedPaths:
    """What the machine of the command records of a run that is about to be scored."""
    (tmp_path / "in" / CLASSES[0]).mkdir(parents=True)
    for number in range(4):
        (tmp_path / "in" / CLASSES[0] / f"{number}.png").write_bytes(image_bytes(number))
    names = str(tmp_path / "names")
    request = request_for(tmp_path / "in", tmp_path / "run", bundle, pseudonymise_uris=names)
    plan = begin_run(plan_run(request, str(tmp_path / "scratch")), Writer())
    named = list(_required_paths(request, plan.todo))
    assert [path.option for path in named].count("--pseudonymise-uris") == 2
    return shared_paths_of(named, output="s3://out/run", writer=Writer())


def test_machines_that_share_the_folder_pass(shared_paths):
    assert shared_paths.unseen() is None


@pytest.mark.parametrize("elsewhere", ["no folder", "another key", "an old copy"])
def test_a_machine_without_the_names_is_told_in_one_line(elsewhere, shared_paths, tmp_path):
    """What is done to the folder here is how another machine would see that path."""
    names = tmp_path / "names"
    if elsewhere == "no folder":
        shutil.rmtree(names)
    elif elsewhere == "another key":
        (names / "key").write_bytes(bytes(32))
        os.utime(names / "key", ns=(1, 1))
    else:
        for name in storage.list_names(str(names / "names")):
            (names / "names" / name).unlink()
    with pytest.raises(BadRequest) as refused:
        shared_paths.check()
    words = str(refused.value)
    assert words.startswith(f"--pseudonymise-uris {names}/") and "\n" not in words
    assert "is not the same on node" in words
    assert "give a folder that all nodes share" in words and "s3://" not in words
