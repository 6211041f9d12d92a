"""`--json`: what stands on standard output is one object, whatever happens."""

import json

import pytest
from support.each import each
from support.imaging.images import image_bytes
from support.scoring.run_rows import scored, write_run
from support.scoring.runs import engine_of

from brainray.cli import doctor as cli_doctor
from brainray.cli import submit as cli_submit
from brainray.cli.app import run
from brainray.cli.json_object import JsonObject
from brainray.cluster.jobs_client import Job
from brainray.commands import score as score_command
from brainray.commands import submit as jobs
from brainray.doctor.checks import Check, Finding, ok


@pytest.fixture
def answer(capfd):
    """Runs a command with --json; gives its exit code, its object and its standard error."""

    def command(*arguments):
        code = run([*map(str, arguments)])
        out, err = capfd.readouterr()
        assert out.count("\n") == 1 and out.isascii(), out
        return code, json.loads(out), err

    return command


def test_what_is_wrong_is_an_object_and_a_line(answer, tmp_path):
    for arguments, code, word in (
        (("report", "--json", "/none-\u00e9"), 2, "is no run"),
        (("score", "--json", "--bogus"), 2, "--bogus"),
        (("compare", "/a", "/b", "--json"), 2, "/a"),
        (("pick", "/a", "--json"), 2, "/a"),
        (("estimate", "/a", "--labels", "/b", "--json"), 2, "/a"),
        (("sample", "--json", "--output", tmp_path / "s", "--images", "0"), 2, "--images"),
        (("train", "--json", "--data", "/none", "--output", tmp_path / "m"), 2, "/none"),
    ):
        found, values, err = answer(*arguments)
        assert (found, set(values), values["exit_code"]) == (code, {"error", "exit_code"}, code)
        assert word in values["error"] and err == f"brainray: {values['error']}\n"


def test_a_result_is_an_object_alone(answer, tmp_path, no_plot):
    code, values, err = answer("sample", "--output", tmp_path / "s", "--images", 4, "--json")
    assert (code, values, err) == (0, {"output": str(tmp_path / "s"), "images": 4}, "")
    made = write_run(tmp_path / "run", [scored("/a", "glioma", label="glioma")])
    code, values, _ = answer("report", made, "--json")
    assert (code, values["run"]) == (0, made)
    assert values["figures"] == json.loads((tmp_path / "run" / "summary" / "summary.json").read_text())


def test_too_many_failed_is_an_error_beside_the_result(answer, tmp_path, bundle, monkeypatch, no_plot):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jpg").write_bytes(image_bytes())
    (tmp_path / "in" / "b.jpg").write_bytes(b"no image")
    engine = engine_of(bundle)
    monkeypatch.setattr(score_command, "_with_ray", lambda request, plan, lease, *, say: engine(request, plan, lease))
    where = ("--input", tmp_path / "in", "--model", bundle.uri, "--output", tmp_path / "run", "--no-report", "--json")
    code, values, _ = answer("score", *where, "--plan")
    assert (code, values["images"], values["to_score"], values["changes"]) == (0, 2, 2, None)
    code, values, _ = answer("score", *where)
    assert (code, values["exit_code"], values["scored"], values["page"]) == (3, 3, 2, None)
    assert "1 of 2 images failed" in values["error"] and values["figures"]["failures"] == {"not_an_image": 1}


def test_wrong_findings_are_an_error(answer, monkeypatch):
    findings = [ok("python", "3.11"), Finding(check="disk", status="wrong", found="full", remedy="free some")]
    monkeypatch.setattr(cli_doctor, "_checks", lambda *_, **__: [Check(name="x", run=lambda: findings)])
    code, values, err = answer("doctor", "--json")
    assert (code, values["exit_code"], values["error"], err) == (2, 2, "1 of 2 findings wrong", "")
    assert [finding["status"] for finding in values["findings"]] == ["ok", "wrong"]


def test_the_log_of_a_job_is_no_part_of_the_object(answer, monkeypatch):
    job = Job(job_id="brainray-score-1", status="SUCCEEDED", entrypoint="", exit_code=0, message="")
    monkeypatch.setattr(cli_submit, "_api", lambda *_, **__: None)
    monkeypatch.setattr(jobs, "place_job", lambda *_, **__: job)

    def follow(job, api, *, out, say):
        out.write("a line of the log\n")
        return job

    monkeypatch.setattr(jobs, "follow", follow)
    code, values, err = answer("submit", "--json", "score", "--input", "s3://archive/b", "--output", "s3://results/d")
    assert (code, err) == (0, "a line of the log\n")
    assert values == {"output": "s3://results/d", "job": "brainray-score-1", "status": "SUCCEEDED"}


def test_what_a_library_prints_is_no_part_of_it_and_infinity_is_null(capfd):
    made = JsonObject()
    with made.of(["audit", "--json"]):
        print("a library")
        made.add({"a": [float("inf"), {"b": float("nan")}], "\ud800": 1.5})
    out, err = capfd.readouterr()
    assert (json.loads(out), err) == ({"a": [None, {"b": None}], "\ud800": 1.5}, "a library\n")


@each(
    ("arguments", "wanted"),
    [
        (["submit", "score", "--json"], False),  # for the job
        (["submit", "--json", "score"], True),
        (["score", "--json", "--help"], False),
        (["--version", "--json"], False),
        ([], False),
    ],
)
def test_who_asks_for_an_object(arguments, wanted, capfd):
    made = JsonObject()
    with made.of(arguments):
        pass
    assert (made.wanted, capfd.readouterr().out) == (wanted, "{}\n" if wanted else "")
