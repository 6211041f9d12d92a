"""`report --verify` with options of what a report writes: they are refused, not ignored."""

import pytest
from support.each import each
from support.scoring.run_rows import scored, write_run
from typer.main import get_command

import brainray
from brainray.cli.app import app
from brainray.errors import BadRequest


@each("options", [{"explain": "zork"}, {"model": "x"}, {"labels": "x.csv"}, {"explain": "3", "model": "x"}], ids=str)
def test_the_command_line_and_python_name_them(tmp_path, options):
    run = write_run(tmp_path, [scored("/a", "glioma")])
    named = ", ".join(f"--{name}" for name in options)
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    with pytest.raises(BadRequest, match=f"--verify writes nothing, so it cannot be combined with {named};"):
        get_command(app).main(["report", run, "--verify", *words], standalone_mode=False)
    with pytest.raises(BadRequest, match=f"cannot be combined with {named};"):
        brainray.report(run, verify=True, **options)
