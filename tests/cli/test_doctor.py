"""The command `brainray doctor`: what it prints, and its exit code."""

import json

import pytest
from support.findings import told

from brainray.cli import doctor as cli_doctor
from brainray.cli.app import run
from brainray.doctor.checks import (
    Check,
    Finding,
    ok,
)


def test_the_whole_command_tells_all_and_exits_with_2_where_something_is_wrong(archive, bundle, tmp_path, capfd):
    root = archive()
    where = ["--input", str(root), "--model", bundle.uri, "--output", str(tmp_path / "run")]
    assert run(["doctor", "--format", "json", "--cluster", *where]) == 2
    out, err = capfd.readouterr()
    assert err == ""
    found = told(Finding(**values) for values in json.loads(out))
    expected = ["python", "packages", "torch", "gpu", "processors", "memory", "open", "temporary", "ray"]
    assert set(expected) <= {check.split()[0] for check in found}
    wrongs = [finding for finding in found.values() if finding.status == "wrong"]
    assert [finding.check for finding in wrongs] == ["ray cluster"]  # there is none, and there must be
    assert "ray start --head" in wrongs[0].remedy
    assert f"--output {tmp_path}/run" in found and f"--model {bundle.uri}" in found


@pytest.fixture
def fakes(monkeypatch):
    """Makes the command find just these."""

    def find(*findings):
        monkeypatch.setattr(cli_doctor, "_checks", lambda *_, **__: [Check(name="x", run=lambda: findings)])

    return find


def test_in_a_pipe_each_finding_is_one_line_to_grep(fakes, capfd):
    fakes(ok("python", "3.11 [not markup]"), Finding(check="gpu", status="warning", found="idle", remedy="r" * 300))
    assert run(["doctor"]) == 0
    assert capfd.readouterr().out.splitlines() == [
        "ok       python: 3.11 [not markup]",
        f"warning  gpu: idle -> {'r' * 300}",
        "0 wrong, 1 warning, 1 ok",
    ]


def test_something_wrong_is_an_exit_code(fakes, capfd):
    fakes(Finding(check="disk", status="wrong", found="full", remedy="free some"))
    assert run(["doctor"]) == run(["doctor", "--format", "json"]) == 2
    assert capfd.readouterr().err == ""
    assert run(["doctor", "--format", "xml"]) == 2
    assert "text, json" in capfd.readouterr().err
