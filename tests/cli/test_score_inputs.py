"""Several inputs after one --input, as a shell makes of a pattern; pipes as inputs."""

import os

import pytest
from typer.main import get_command

from brainray.cli.app import app
from brainray.errors import BadRequest


def plan(capsys, *arguments):
    get_command(app).main(["score", *map(str, arguments), "--plan"], standalone_mode=False)
    return capsys.readouterr().out


def test_paths_that_a_shell_lists_after_input_are_inputs(archive, capsys, tmp_path):
    images = sorted(archive(images=2).glob("*/*.jpg"))
    assert "8 images" in plan(capsys, "--input", *images, "--output", tmp_path / "run")
    assert "8 images" in plan(capsys, "--output", tmp_path / "run", "--input", *images)


def test_a_path_too_many_is_named(archive, capsys, tmp_path):
    with pytest.raises(BadRequest, match=r"--input /no/such/label\.csv: no such file"):
        plan(capsys, "--input", archive(images=1), "--output", tmp_path / "run", "/no/such/label.csv")


def test_submit_checks_every_path(tmp_path):
    arguments = ["submit", "score", "--input", "/x/1.jpg", "2.jpg", "--output", "/x/run"]
    with pytest.raises(BadRequest, match=r"--input 2\.jpg is a path relative to this folder"):
        get_command(app).main(arguments, standalone_mode=False)


def test_a_pipe_is_refused(capsys, tmp_path):
    reading, writing = os.pipe()
    try:
        with pytest.raises(BadRequest, match=f"--input /dev/fd/{reading}: is a pipe, .* write its content to a file"):
            plan(capsys, "--input", f"/dev/fd/{reading}", "--output", tmp_path / "run")
    finally:
        os.close(reading)
        os.close(writing)
