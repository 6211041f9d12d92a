"""What READMEs say is true: every command is run or says why not, every link, path, option and column exists."""

import re
import shlex
import tarfile
from functools import cache
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest
import typer
from support.each import each
from support.imaging.images import image_bytes
from support.models.bundles import CLASSES, untrained
from support.scoring.runs import engine_of

from brainray import errors
from brainray.cli.app import app, run
from brainray.commands import score
from brainray.scoring.manifest import MANIFEST_SCHEMA
from brainray.scoring.prediction_schema import LATER, UID_COLUMNS, prediction_schema

ROOT = Path(__file__).resolve().parents[1]
FRONT = ROOT / "README.md"
READMES = [FRONT, *sorted(path for top in ("brainray", "jobs", "tests") for path in (ROOT / top).rglob("README.md"))]
NAMES = [str(path.relative_to(ROOT)) for path in READMES]

# Commands that a test here runs as they stand, but for Ray: shards are scored in this process.
RUN = (
    "brainray doctor --input archive/ --output run/",
    "brainray score --input archive/ --output run/",
    "brainray score --input scans/ --input more.tar --input list.csv --output run/",
    "brainray score --input list.csv --keep-columns patient,age --output run/",
    "brainray score --input archive/ --output run/ --plan",
    "brainray score --input archive/ --output run/ --series-by folder",
    "brainray score --input archive/ --output run/ --pseudonymise-uris names/",
)
# One after the other: each needs what the one before has left.
RUN_IN_A_ROW = (
    "brainray score --input archive/ --model model/ --output run/",
    "brainray report run/",
    "brainray report run/ --labels run/summary/review.csv",
    "brainray report run/ --no-thumbnails",
    "brainray report run/ --verify",
    "brainray compare run/ other-run/ --output comparison/",
)
# Of pytest: what they name is collected.
COLLECTED = (
    ".venv/bin/python -m pytest tests/scoring/test_shard.py",
    ".venv/bin/python -m pytest tests/storage/test_lease.py",
    ".venv/bin/python -m pytest tests/storage/test_lease.py -k silent",
)

BUCKETS = (
    "needs buckets",
    "tests/end_to_end/test_s3_main_job.py::test_the_main_job_runs_on_buckets_and_outlives_a_kill",
)
SUBMITS = ("needs a cluster", "tests/end_to_end/test_submit.py::test_every_exit_code_of_a_job_is_that_of_the_command")
AWS = ("needs an account of AWS", "tests/deploy/test_cluster_yaml.py::test_ray_takes_the_file")
PICKS = ("needs a person", "tests/page/test_pick_in_browser.py::test_answers_by_key_come_back_as_an_estimate")
EXPORTS = (
    "needs DICOM series",
    "tests/scoring/export/test_export.py::test_a_report_says_what_by_which_model_and_of_which_images",
)
TRAINS = ("takes minutes", "tests/end_to_end/test_main_job.py::test_training_writes_a_bundle_that_says_what_it_is")
TEACHES = ("takes an hour", "tests/training/test_teaching.py::test_a_taught_network_learns_what_the_teacher_says")
SEARCHES = ("takes an hour", "tests/commands/test_tune.py::test_a_search_ranks_its_trials_and_goes_on_where_it_ended")
INSTALLS = ("installs 5 GB", "tests/commands/test_submit.py::test_it_is_what_an_installed_package_has_and_nothing_else")
ITSELF = (
    "runs this very test",
    "tests/test_collection.py::test_the_names_and_the_order_of_tests_depend_on_neither_clock",
)
MEASURES = ("takes minutes or hours", "tests/test_readme.py::test_every_option_of_a_script_is_one_that_it_takes")
# Commands that no test runs as they stand: the reason, and the test of what stands for them.
NOT_RUN = {
    "brainray pick run/ --labels 200": PICKS,
    "brainray estimate run/ --labels brainray-answers.csv": PICKS,
    "brainray export run/ --to sr --output reports/": EXPORTS,
    "brainray export run/ --to omop --output tables/": EXPORTS,
    "brainray score --input idc.parquet --keep-columns PatientID --no-sign-request --output run/": (
        "needs the network",
        "tests/inputs/lists/test_prefixes.py::test_an_index_of_series_is_an_input_as_it_is",
    ),
    "brainray report run/ --real-uris names/": (
        "needs a run with pseudonyms",
        "tests/scoring/pseudonyms/test_hidden_names.py::test_a_page_is_rebuilt_with_names_or_without_thumbnails",
    ),
    "make demo": TRAINS,
    "make test": ITSELF,
    "make check": ("checks the sources", "tests/test_readme.py::test_every_target_of_make_exists"),
    "make format": ("changes the sources", "tests/test_readme.py::test_every_target_of_make_exists"),
    "pip install . --constraint constraints.txt": INSTALLS,
    '.venv/bin/python -m pytest -m "not ray"': ITSELF,
    '.venv/bin/python -m pytest -m "not ray" --hypothesis-profile search': ITSELF,
    "brainray score --input s3://archive/2026/ --model s3://models/brain-7/ --output s3://results/2026/": BUCKETS,
    "AWS_PROFILE=research brainray score --input s3://archive/2026/ --output s3://results/2026/": BUCKETS,
    "AWS_ENDPOINT_URL=http://minio:9000 brainray doctor --input s3://archive/2026/ --output s3://results/2026/": (
        "needs buckets",
        "tests/doctor/test_output.py::test_every_permission_that_a_run_needs_is_used_once_and_nothing_stays",
    ),
    "brainray doctor --input s3://archive/2026/ --output s3://results/brain-7 --format json": (
        "needs buckets",
        "tests/cli/test_doctor.py::test_the_whole_command_tells_all_and_exits_with_2_where_something_is_wrong",
    ),
    "brainray score --input archive/ --output run/ --plan --probe --price 1.20": (
        "asks Ray for processors",
        "tests/scoring/test_estimate.py::test_a_price_gives_a_cost",
    ),
    "brainray train --data scans/ --output model/": TRAINS,
    "brainray train --data scans/ --output model/ --preset thorough --folds 5": TRAINS,
    "brainray train --data scans/ --output model/ --groups patients.csv --folds 5": TRAINS,
    "brainray train --data scans/ --output teacher/ --model lite0 --weights imagenet --groups patients.csv "
    "--folds 5 --keep-folds": TEACHES,
    "brainray train --data scans/ --output model/ --model lite0-fast --weights imagenet --groups patients.csv "
    "--folds 5 --teacher teacher/": TEACHES,
    "brainray train --data scans/ --output model/ --init shipped": TRAINS,
    "brainray train --data Training --output model --model lite0-fast --weights imagenet --epochs 8 --lr 7e-4 "
    "--augment 1 --folds 5 --keep-folds --groups patients.csv --boxes boxes.csv": (
        "takes an hour",
        "tests/models/test_shipped.py::test_its_card_tells_how_to_make_it_and_what_it_is_not_for",
    ),
    "brainray train --data Training --output model --model lite0 --weights imagenet --image-px 192 --epochs 9 "
    "--lr 7e-4 --augment 1 --folds 5 --keep-folds --groups patients.csv --boxes boxes.csv --workers 2": (
        "takes an hour",
        "tests/models/test_shipped.py::test_its_card_tells_how_to_make_it_and_what_it_is_not_for",
    ),
    "brainray tune --data scans/ --output search/ --trials 16": SEARCHES,
    "brainray tune --data scans/ --output search/ --trials 16 --lr 0.001,0.01 --width 0.5,1 --image-px 96,128 "
    "--augment 0.5,1": SEARCHES,
    "brainray audit --data scans/ --against test/ --output audit/": (
        "starts Ray",
        "tests/commands/test_audit.py::test_the_whole_command_with_ray",
    ),
    "ray get-auth-token --generate": ("leaves a token in the home folder", AWS[1]),
    "export RAY_AUTH_MODE=token": AWS,
    "ray up cluster.yaml": AWS,
    "ray dashboard cluster.yaml": AWS,
    "brainray submit score --input s3://archive/2026/ --model s3://models/brain-7 "
    "--output s3://results/brain-7": SUBMITS,
    "brainray submit --detach score --input s3://archive/2026/ --output s3://results/brain-7": (
        "needs a cluster",
        "tests/end_to_end/test_submit.py::test_a_job_is_left_found_again_and_stopped",
    ),
    "brainray submit --stop score --input s3://archive/2026/ --output s3://results/brain-7": (
        "needs a cluster",
        "tests/end_to_end/test_submit.py::test_a_job_is_left_found_again_and_stopped",
    ),
    "ray job submit --working-dir . -- python jobs/score.py --input /data/archive --model /data/model "
    "--output /data/run": (
        "needs a cluster",
        "tests/end_to_end/test_after_a_demo.py::test_jobs_on_a_head_that_is_started_after_a_run_without_one",
    ),
}
MEASURED = re.compile(r"(sudo )?\.venv/bin/python tests/bench/[\w/]+\.py\b.*")  # `MEASURES` stands for each
PYTHON_BLOCKS = {
    "import brainray": "tests/test_api.py",
    "import pandas": "tests/scoring/pseudonyms/test_hidden_names.py",
    "import pandas as pd": "tests/scoring/test_recipes.py",
    "import polars as pl": "tests/scoring/test_recipes.py",
    "from pyspark.sql import SparkSession": "tests/scoring/test_recipes.py",
    "from brainray import export": "tests/scoring/export/test_export.py",
}  # the first line, and the file that runs the block

OF_TRAINING = {
    "boxes.csv",
    "folds.csv",
    "groups.csv",
    "patients.csv",
    "subjects.csv",
    "blocks.csv",
    "audit/proposed_groups.csv",
    "proposed_groups.csv",
}  # what READMEs name that it reads or writes
OF_LABELLING = {"pick.csv", "brainray-answers.csv"}


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def commands(text: str) -> list[str]:
    lines = (line for block in blocks(text, "sh") for line in block.splitlines())
    return [command for line in lines if (command := re.sub(r"\s+#.*", "", line).strip())]


def given(name: str) -> str:
    return (ROOT / name).read_text()


EVERY = {command for name in NAMES for command in commands(given(name))}


# Commands


def test_every_command_is_run_or_says_why_not():
    known = {*RUN, *RUN_IN_A_ROW, *COLLECTED, *NOT_RUN}
    unknown = {command for command in EVERY - known if not MEASURED.fullmatch(command)}
    assert not unknown, "a README has commands that no test knows"
    assert known <= EVERY, f"no README has {known - EVERY}"


def test_other_blocks_are_known_too():
    for name in NAMES:
        fences = re.findall(r"^```(\w*)$", given(name), re.MULTILINE)
        assert set(fences) <= {"", "sh", "sql", "python"}
    found = [block for name in NAMES for block in blocks(given(name), "python")]
    assert [block.splitlines()[0] for block in found] == list(PYTHON_BLOCKS)
    for block in found:
        compile(block, "README.md", "exec")


@each("reason", sorted({*NOT_RUN.values(), MEASURES}))
def test_what_stands_for_a_command_exists(reason):
    why, instead = reason
    path, _, test = instead.partition("::")
    assert why
    assert re.search(rf"^ *def {test}", given(path), re.MULTILINE), instead


@pytest.fixture(scope="session")
def drawn(tmp_path_factory) -> Path:
    """What the commands of READMEs name: two folders of classes, a tar, a list."""
    root = tmp_path_factory.mktemp("readme")
    for folder, images in (("archive", 3), ("scans", 4)):
        for k, label in enumerate(CLASSES):
            (root / folder / label).mkdir(parents=True)
            for i in range(images):
                (root / folder / label / f"{i}.jpg").write_bytes(image_bytes(1000 * images + 100 * k + i))
    with tarfile.open(root / "more.tar", "w") as tar:
        tar.add(root / "archive" / "glioma", "glioma")
    (root / "list.csv").write_text("path,label,patient,age\narchive/glioma/0.jpg,glioma,p1,61\n")
    return root


def expect_done(command: str) -> None:
    program, *arguments = shlex.split(command)
    assert (program, run(arguments)) == ("brainray", 0), command


@pytest.fixture
def without_ray(monkeypatch):
    """Shards are scored in this process, one after the other."""
    monkeypatch.setattr(
        score, "_with_ray", lambda request, plan, lease, say: engine_of(request.bundle)(request, plan, lease)
    )


@pytest.mark.parametrize("command", [command for command in RUN if command.startswith("brainray score")])
def test_a_command_of_score_does_what_its_readme_says(command, drawn, tmp_path, monkeypatch, without_ray):
    monkeypatch.chdir(drawn)
    output = str(tmp_path / "run")
    expect_done(command.replace("run/", output))
    if "--plan" in command:
        assert not Path(output).exists()
        return
    rows = pq.read_table(f"{output}/predictions")
    expected = {"archive/": 12, "scans/": 16 + 3 + 1, "list.csv": 1}
    assert len(rows) == expected[command.split()[3]]
    assert set(rows["status"].to_pylist()) == {"ok"}
    if "--keep-columns" in command:
        assert (rows["patient"].to_pylist(), rows["age"].to_pylist()) == (["p1"], ["61"])


@pytest.mark.ray
def test_doctor_finds_nothing_wrong_with_what_the_readme_shows(drawn, monkeypatch, capfd):
    monkeypatch.chdir(drawn)
    code = run(shlex.split(RUN[0])[1:])
    said = capfd.readouterr().out
    findings = [line for line in said.splitlines() if re.match(r"\s*(ok|warning|wrong)\b.*--(input|output)", line)]
    assert len(findings) >= 2 and not any("wrong" in line.split()[0] for line in findings), said
    assert code in (0, 2), "2: something is wrong with this machine, not with the folders"


def test_one_scores_reports_and_asks_as_the_readme_shows(drawn, tmp_path, monkeypatch, without_ray):
    (tmp_path / "archive").symlink_to(drawn / "archive")
    untrained(tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    for command in RUN_IN_A_ROW:
        if "other-run/" in command:
            (tmp_path / "other-run").symlink_to(tmp_path / "run")
        expect_done(command)
    (query,) = blocks(given("README.md"), "sql")
    columns = [column[0] for column in duckdb.sql(query).description]
    assert columns == ["uri", "confidence"]
    expected = {"run.json", "status.json", "_SUCCESS", "manifest", "predictions", "summary"}
    assert expected <= {path.name for path in (tmp_path / "run").iterdir()}


@each("command", COLLECTED)
def test_a_command_of_pytest_finds_tests(command):
    path, *chosen = shlex.split(command.partition("-m pytest ")[2])
    names = re.findall(r"^ *def (test_\w+)", given(path), re.MULTILINE)
    assert chosen[::2] in ([], ["-k"])
    assert [name for name in names if all(word in name for word in chosen[1::2])]


# Options, targets, exit codes


@cache
def options_of(command: str) -> set[str]:
    """Those that its `--help` shows."""
    group = typer.main.get_command(app)
    return {
        option for parameter in group.commands[command].params for option in parameter.opts + parameter.secondary_opts
    }


COMMANDS = tuple(typer.main.get_command(app).commands)


@each("command", sorted(command for command in EVERY if re.search(r"\bbrainray \w+ ", command)))
def test_every_option_of_a_command_is_one_that_it_takes(command):
    name, *words = shlex.split(re.sub(r".*?\bbrainray ", "", command))
    known = options_of(name)
    if name == "submit":
        known = known | options_of(next(word for word in words if word in ("score", "train")))
    assert {word for word in words if word.startswith("--")} <= known


@each("command", sorted(filter(MEASURED.fullmatch, EVERY)))
def test_every_option_of_a_script_is_one_that_it_takes(command):
    own, _, passed_on = command.partition(" -- ")
    words = shlex.split(own)
    source = given(next(word for word in words if word.startswith("tests/bench/")))
    assert all(f'"{word}"' in source for word in words if word.startswith("--"))
    assert {word for word in shlex.split(passed_on) if word.startswith("--")} <= options_of("train")


@each("name", NAMES)
def test_every_option_that_a_text_names_is_one_of_a_command(name):
    text = re.sub(r"^```.*?^```$", "", given(name), flags=re.MULTILINE | re.DOTALL)
    known = {"--help"}.union(*map(options_of, COMMANDS))
    if name == "tests/bench/README.md":
        known |= {
            option
            for path in (ROOT / "tests/bench").rglob("*.py")
            for option in re.findall(r'"(--[a-z-]+)"', path.read_text())
        }
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text)) <= known


def test_every_command_has_its_line_on_the_front_page():
    assert set(re.findall(r"^\| `brainray (\w+)`", given("README.md"), re.MULTILINE)) == set(COMMANDS)


def test_every_target_of_make_exists():
    targets = set(re.findall(r"^(\w+):", given("Makefile"), re.MULTILINE))
    assert {command.split()[1] for command in EVERY if command.startswith("make ")} <= targets


def test_every_exit_code_is_on_the_front_page():
    classes = [value for value in vars(errors).values() if isinstance(value, type)]
    codes = {kind.exit_code for kind in classes if issubclass(kind, errors.BrainrayError)} | {0, 130}
    assert [int(code) for code in re.findall(r"^\| (\d+) \|", given("README.md"), re.MULTILINE)] == sorted(codes)


# Texts


def test_the_front_page_is_a_page():
    assert len(FRONT.read_bytes()) <= 12_000


@each("name", NAMES)
def test_lines_can_be_read(name):
    assert not [line for line in given(name).splitlines() if len(line) > 250]


@each("name", NAMES)
def test_every_link_leads_somewhere(name):
    here = (ROOT / name).parent
    targets = re.findall(r"\]\(([^)]+)\)", given(name))
    missing = [link for link in targets if "://" not in link and not (here / link.partition("#")[0]).exists()]
    assert not missing


def test_the_front_page_leads_to_every_other():
    links = re.findall(r"\]\(([^)#]+)\)", given("README.md"))
    assert {name for name in NAMES if name != "README.md"} == {link for link in links if link.endswith("README.md")}


@each("name", NAMES)
def test_every_path_of_the_repository_that_a_text_names_exists(name):
    here = (ROOT / name).parent
    text = re.sub(r"\[[^]]*\]\([^)]*\)", "", given(name))
    named = re.findall(r"(?<![\w./-])[\w./-]+\.(?:py|csv)\b|\b(?:brainray|jobs|tests)/[\w./-]*\w", text)
    produced = {"list.csv", "trials.csv", "trade.csv", "summary/review.csv", "run/summary/review.csv", "review.csv"}
    missing = [
        path
        for path in set(named) - produced - OF_TRAINING - OF_LABELLING
        if not ((ROOT / path).exists() or (here / path).exists() or [*here.rglob(path.rpartition("/")[2])])
    ]
    assert not missing


def test_every_step_of_an_image_is_in_the_file_that_the_map_names():
    rows = re.findall(r"^\| [^|]*(?:→|against)[^|]* \| (.*) \| (.*) \|$", given("brainray/README.md"), re.MULTILINE)
    assert len(rows) == 12
    for functions, files in rows:
        sources = "\n".join(given(f"brainray/{file}") for file in re.findall(r"`([^`]+)`", files))
        for function in re.findall(r"`([^`]+)`", functions):
            for part in function.split("."):
                assert re.search(rf"^ *(def|class) {part}\b", sources, re.MULTILINE), function


def test_the_map_has_every_folder():
    folders = {path.parent.name for path in (ROOT / "brainray").glob("*/__init__.py")} | {"shipped"}
    rows = re.findall(r"^\| (?:\[|`)(\w+)[`\]]", given("brainray/README.md"), re.MULTILINE)
    assert folders <= set(rows)


TYPES = {
    "list<element: float>": "list of float32",
    "string": "string",
    "float": "float32",
    "timestamp[us, tz=UTC]": "timestamp in µs, UTC",
}


ALL_COLUMNS = prediction_schema(("<class>",), later=(*LATER, *UID_COLUMNS))


@each(("title", "schema"), [("predictions", ALL_COLUMNS), ("manifest", MANIFEST_SCHEMA)])
def test_every_column_is_in_its_table_in_their_order_with_its_type(title, schema):
    text = given("brainray/scoring/README.md").split(f"### Columns of `{title}`")[1].split("\n\n#")[0]
    found: dict[str, str] = {}
    for names, kinds in re.findall(r"^\| (`.*?`) \| (.*?) \|", text.split("\n\n")[1], re.MULTILINE):
        columns = re.findall(r"`([^`]+)`", names)
        each = kinds.split(", ") if len(kinds.split(", ")) == len(columns) else [kinds] * len(columns)
        found |= dict(zip(columns, each, strict=True))
    assert list(found) == schema.names
    for field in schema:
        kind = TYPES.get(str(field.type), str(field.type))
        assert found[field.name].startswith((kind, "as above")), field


def test_every_column_is_on_the_front_page():
    named = set(re.findall(r"`([^`\n]+)`", given("README.md")))
    assert set(prediction_schema(("<class>",)).names) <= named


def test_every_reason_of_an_error_row_is_explained():
    table = given("brainray/scoring/README.md").split("| `error` | means |")[1].split("###")[0]
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == [*errors.IMAGE_REASONS, *errors.EXCLUSION_REASONS]
