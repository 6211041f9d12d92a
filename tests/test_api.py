"""The Python API: its arguments and results, and that the command line has the same options and defaults."""

import ast
import asyncio
import inspect
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from support.each import each
from support.imaging.images import image_bytes
from support.imaging.pictures import audit_here
from support.models.bundles import CLASSES
from support.scoring.run_rows import scored, write_run
from support.scoring.runs import contents, engine_of, rows
from typer.main import get_command

import brainray
from brainray import api, storage
from brainray.cli.app import app, run
from brainray.commands import audit as audit_command
from brainray.commands import score as score_command
from brainray.commands import train as train_command
from brainray.commands.options import PRESETS, score_options, train_options
from brainray.config import ScoreOptions, TrainOptions
from brainray.scoring.summary.build import Summary

README = Path(__file__).resolve().parents[1] / "README.md"
OTHER_NAMES = {"stall_timeout": "stall_timeout_s"}  # with the unit, as in all Python code here
# What only a terminal has, or only Python.
COMMAND_ONLY = {
    "score": {"plan", "probe", "price", "more", "no_sign_request"},
    "train": set(),
    "report": set(),
    "audit": set(),
    "compare": set(),
    "pick": set(),
    "estimate": set(),
    "export": set(),
}
PYTHON_ONLY = {"say", "on_progress"}


@pytest.fixture
def no_ray(monkeypatch, bundle):
    """Runs are scored in this process."""
    engine = engine_of(bundle)
    monkeypatch.setattr(score_command, "_with_ray", lambda request, plan, lease, *, say: engine(request, plan, lease))


@each("name", ["score", "train", "report", "audit", "compare", "pick", "estimate", "export"])
def test_each_option_of_the_command_line_is_an_argument_with_the_same_default(name):
    options = {
        OTHER_NAMES.get(option.name, option.name): None if option.required else option.default
        for option in get_command(app).commands[name].params
        if option.name not in COMMAND_ONLY[name] | {"as_json", "log_format"}
    }
    parameters = inspect.signature(getattr(brainray, name)).parameters
    arguments = {
        key: None if parameter.default in (inspect.Parameter.empty, ()) else parameter.default
        for key, parameter in parameters.items()
        if key not in PYTHON_ONLY
    }
    assert arguments == options


@each("name", ["score", "train", "report", "audit", "compare", "pick", "estimate", "export"])
def test_what_is_required_comes_first_and_the_rest_has_a_name(name):
    for parameter in inspect.signature(getattr(brainray, name)).parameters.values():
        required = parameter.default is parameter.empty
        assert parameter.kind == (parameter.POSITIONAL_OR_KEYWORD if required else parameter.KEYWORD_ONLY)


def test_the_defaults_are_those_of_the_options_they_become():
    def defaults(function, names):
        parameters = inspect.signature(function).parameters
        return {name: parameters[name].default for name in names if name in parameters}

    scored = defaults(api.score, ["max_failed", *ScoreOptions.__dataclass_fields__])
    assert score_options(**scored) == ScoreOptions()
    trained = defaults(api.train, ["preset", *TrainOptions.__dataclass_fields__]) | {"init": None}
    assert train_options(**trained) == TrainOptions(**PRESETS["quick"])


def test_all_names_are_there_and_listed():
    assert set(brainray.__all__) <= set(dir(brainray))
    for name in brainray.__all__:
        assert getattr(brainray, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'scare'"):
        brainray.scare  # noqa: B018


def test_editors_see_the_names_that_are_imported_late():
    """`if TYPE_CHECKING` imports what `__all__` names, from the module from which it comes."""
    tree = ast.parse(Path(brainray.__file__).read_text())
    (typing_only,) = [node for node in tree.body if isinstance(node, ast.If)]
    imported = {alias.name: node.module for node in typing_only.body for alias in node.names}
    assert set(imported) == set(brainray.__all__)
    for name, module in imported.items():
        assert getattr(sys.modules[f"brainray.{module}"], name) is getattr(brainray, name)


def test_an_error_can_be_caught_without_loading_the_rest():
    script = (
        "import brainray, sys; brainray.TooManyFailed; print({'numpy', 'pyarrow', 'typer', 'ray'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "set()"


def test_score_gives_the_figures_of_the_run(archive, tmp_path, bundle, no_ray, capfd):
    said, seen = [], []
    result = brainray.score(
        archive(images=3), tmp_path / "run", model=Path(bundle.uri), say=said.append, on_progress=seen.append
    )
    assert (result.images, result.scored, result.failed, result.gone) == (12, 12, 0, 0)
    assert result.run == storage.normalise(str(tmp_path / "run"))
    assert result.classes == CLASSES
    assert result.figures == storage.read_json(f"{result.run}/summary/summary.json")
    low, high = result.accuracy.low, result.accuracy.high
    assert low <= result.accuracy.value <= high and result.accuracy.value * 12 == pytest.approx(
        sum(row["label"] == row["predicted"] for row in rows(result.run))
    )
    assert result.macro_f1 == result.figures["macro_f1"]
    assert sum(result.confusion["images"].to_pylist()) == 12
    assert result.per_class.num_rows == len(CLASSES)
    assert result.elapsed_s > 0
    assert seen[-1].phase == "done" and isinstance(seen[-1], brainray.Progress)
    assert capfd.readouterr() == ("", "")
    with pytest.raises(AttributeError):
        result.run = "elsewhere"


def test_a_second_call_scores_nothing_and_gives_the_same_figures(archive, tmp_path, bundle, no_ray):
    root = str(archive(images=2))
    first = brainray.score([root], tmp_path / "run", model=bundle.uri)
    again = brainray.score(root, f"file://{tmp_path}/run", model=bundle.uri)
    assert (first.scored, again.scored) == (8, 0)
    assert again.figures == first.figures and again.confusion == first.confusion


def test_the_command_line_leaves_the_same_run(archive, tmp_path, bundle, no_ray, capfd):
    root = archive(images=3)
    brainray.score(root, tmp_path / "a", model=bundle.uri, include="*/1.jpg", shard_size=2, max_failed=3)
    words = ["--include", "*/1.jpg", "--shard-size", "2", "--max-failed", "3"]
    assert run(["score", "--input", str(root), "--output", str(tmp_path / "b"), "--model", bundle.uri, *words]) == 0
    assert "scored 4 images" in capfd.readouterr().out
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    described = [storage.read_json(f"{tmp_path}/{name}/run.json")["options"] for name in "ab"]
    assert described[0] == described[1]


def test_too_many_failed_carries_the_result(archive, tmp_path, bundle, no_ray):
    root = archive(images=2)
    (root / CLASSES[0] / "0.jpg").write_bytes(b"no image")
    with pytest.raises(
        brainray.TooManyFailed, match=r"1 of 8 images failed, more than --max-failed 0 allows"
    ) as caught:
        brainray.score(root, tmp_path / "run", model=bundle.uri, max_failed=0)
    assert isinstance(caught.value.result, brainray.ScoreResult)
    assert (caught.value.result.images, caught.value.result.failed) == (8, 1)
    assert len(rows(tmp_path / "run")) == 8
    allowed = brainray.score(root, tmp_path / "run", model=bundle.uri, max_failed=brainray.MaxFailed(share=0.5))
    assert allowed.failed == 1


def test_without_labels_there_is_no_accuracy(tmp_path, bundle, no_ray):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jpg").write_bytes(image_bytes())
    result = brainray.score(tmp_path / "in", tmp_path / "run", model=bundle.uri)
    assert result.accuracy is None and result.macro_f1 is None
    assert "no accuracy" in str(result)
    assert "<table>" not in result._repr_html_()


def test_a_notebook_shows_a_line_and_the_confusion_table(archive, tmp_path, bundle, no_ray):
    result = brainray.score(archive(images=2), tmp_path / "run", model=bundle.uri, group_by="folder")
    assert str(result).startswith("8 images, 0 failed; accuracy ")
    assert len(repr(result)) < 300, "tables are left out"
    html = result._repr_html_()
    cells = [int(cell) for cell in re.findall(r"<td>(\d+)</td>", html)]
    assert len(cells) == len(CLASSES) ** 2 and sum(cells) == 8
    assert "rows: truth, columns: prediction" in html and f"<th>{CLASSES[0]}</th>" in html


def test_names_of_classes_are_no_markup():
    figures = {
        "totals": {"images": 1, "failed": 0, "scored_and_labelled": 1},
        "accuracy": None,
        "classes": ["<b>", "x"],
    }
    table = pa.table({"group": ["all"], "label": ["<b>"], "predicted": ["x"], "images": [1]})
    summary = Summary(folder="/run/summary", figures=figures, confusion_of_all=table, per_class_of_all=table)
    result = api.ScoreResult(run="/run", scored=1, elapsed_s=1.0, figures=figures, summary=summary)
    assert "<b>" not in result._repr_html_() and "&lt;b&gt;" in result._repr_html_()


def test_tables_with_rows_for_each_group_are_read_when_they_are_asked_for(tmp_path, monkeypatch):
    """Of 200,000 groups of four classes they take 400 MB."""
    run = write_run(tmp_path, [scored("/1", "glioma", label="glioma", group="x")], group_by="folder")
    read, read_parquet = [], storage.read_parquet
    monkeypatch.setattr(storage, "read_parquet", lambda uri, *rest: read.append(uri) or read_parquet(uri, *rest))
    result = brainray.report(run)
    names = ("confusion.parquet", "per_class.parquet")
    assert "<table>" in result._repr_html_() and not [uri for uri in read if uri.endswith(names)]
    assert result.confusion["group"].unique().to_pylist() == ["x"]
    assert result.per_class["group"].unique().to_pylist() == ["all", "x"]
    assert tuple(uri.rpartition("/")[2] for uri in read[-2:]) == names


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_failed": 0.01}, "--max-failed"),
        ({"max_failed": -1}, "--max-failed"),
        ({"max_unread": 2.0}, "--max-unread"),
        ({"workers": 0}, "--workers"),
        ({"precision": "fp8"}, "--precision"),
    ],
)
def test_a_wrong_value_is_a_bad_request_and_no_exit(archive, tmp_path, bundle, changes, message):
    with pytest.raises(brainray.BadRequest, match=message):
        brainray.score(archive(images=1), tmp_path / "run", model=bundle.uri, **changes)
    assert not (tmp_path / "run").exists()


def test_columns_are_named_in_a_list_or_as_on_the_command_line():
    def kept(names):
        return score_options(max_failed="1%", max_unread=0.5, include=None, exclude=None, keep_columns=names)

    assert kept(["patient", "age"]) == kept("patient, age") == kept(["patient,age"])


@each("workers", [(2, 8), "2-8"])
def test_a_range_of_workers(workers):
    options = train_options(preset="quick", workers=workers)
    assert (options.workers, options.most_workers) == (2, 8)


def test_train_calls_what_the_command_calls(tmp_path, bundle, monkeypatch, capfd):
    calls = []
    trained = replace(bundle, metrics={"accuracy": {"value": 0.9, "low": 0.8, "high": 0.95}, "images": 40})
    monkeypatch.setattr(train_command, "train", lambda *args, **kwargs: calls.append((args, kwargs)) or trained)
    result = brainray.train(tmp_path / "data", tmp_path / "model", preset="thorough", workers=2, init=Path(bundle.uri))
    words = ["--preset", "thorough", "--workers", "2", "--init", bundle.uri]
    assert run(["train", "--data", str(tmp_path / "data"), "--output", str(tmp_path / "model"), *words]) == 0
    by_python, by_command = [(args, {k: v for k, v in kwargs.items() if k != "say"}) for args, kwargs in calls]
    assert by_python == by_command
    assert by_python[1]["options"].epochs == 60 and by_python[1]["options"].image_px == bundle.image.image_px
    assert (result.model, result.fingerprint, result.classes) == (bundle.uri, bundle.fingerprint, bundle.classes)
    assert result.accuracy == (0.9, 0.8, 0.95)
    assert str(result) == f"accuracy 0.9000 (0.8000 to 0.9500) on 40 pictures; {bundle.uri}"
    assert "0.9000" in capfd.readouterr().out


def test_report_gives_the_figures_or_verifies(archive, tmp_path, bundle, no_ray, capfd):
    first = brainray.score(archive(images=2), tmp_path / "run", model=bundle.uri)
    report = brainray.report(tmp_path / "run")
    assert report.figures == first.figures and report.accuracy == first.accuracy
    assert (report.images, report.failed, report.verified) == (8, 0, False)
    assert report.confusion == first.confusion and "<table>" in report._repr_html_()
    verified = brainray.report(tmp_path / "run", verify=True)
    assert (verified.images, verified.failed, verified.verified) == (8, 0, True)
    assert verified.figures is None and verified.accuracy is None
    assert str(verified).startswith("8 rows, 0 failed, verified")
    part = next((tmp_path / "run" / "predictions").iterdir())
    part.unlink()
    with pytest.raises(brainray.VerificationError, match="run"):
        brainray.report(tmp_path / "run", verify=True)
    assert capfd.readouterr() == ("", "")


def test_audit_gives_the_groups(tmp_path, monkeypatch):
    monkeypatch.setattr(audit_command, "_ray", audit_here)
    for folder in ("glioma", "notumor"):
        (tmp_path / "data" / folder).mkdir(parents=True)
        (tmp_path / "data" / folder / "0.png").write_bytes(image_bytes(7))
    result = brainray.audit(tmp_path / "data", tmp_path / "audit")
    assert (result.images, result.pictures, result.surplus, result.conflicts) == (2, 1, 1, 1)
    assert result.groups.num_rows == 2
    assert result.figures == storage.read_json(f"{result.output}/summary.json")
    assert str(result).startswith("2 images of 1 pictures, 1 surplus, 1 pictures with two labels")
    with pytest.raises(brainray.BadRequest, match="--data names nothing"):
        brainray.audit([], tmp_path / "none")


def readme_example() -> str:
    """The Python block of the README."""
    (block,) = re.findall(r"^```python\n(.*?)^```", README.read_text(), re.M | re.S)
    return block


@pytest.mark.ray
@pytest.mark.timeout(240)
def test_the_example_of_the_readme_runs_in_a_notebook(archive, tmp_path, monkeypatch, capfd, local_ray):
    """With an event loop that runs and a Ray that is connected, as in a notebook."""
    archive(images=2)
    monkeypatch.chdir(tmp_path)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}

    async def cell():
        names = {}
        exec(readme_example(), names)
        return names["result"]

    result = asyncio.run(cell())
    assert (result.images, result.scored, result.failed) == (8, 8, 0)
    assert capfd.readouterr() == (f"{result.accuracy}\n", "")
    assert (tmp_path / "run" / "_SUCCESS").exists()
    assert handlers == {number: signal.getsignal(number) for number in handlers}


def test_the_airflow_task_of_the_docstring_fits_the_function():
    dag = Path(__file__).resolve().parents[1] / "jobs" / "schedules" / "airflow_dag.py"
    text = ast.get_docstring(ast.parse(dag.read_text()))
    (task,) = re.findall(r"^    (PythonOperator\(.*?^    \))", text, re.M | re.S)
    options = {keyword.arg: keyword.value for keyword in ast.parse(task, mode="eval").body.keywords}
    assert ast.unparse(options["python_callable"]) == "brainray.score"
    given = [ast.literal_eval(options[name]) for name in ("op_args", "op_kwargs")]
    assert inspect.signature(brainray.score).bind(*given[0], **given[1]).arguments["output"].startswith("s3://")
