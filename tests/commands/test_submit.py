"""`brainray submit`: what is checked at the desk and sent, and how a log is shown."""

import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.cluster.jobs import arguments, submission

from brainray.cli.app import run
from brainray.cli.submit import _check_visible
from brainray.cluster.jobs_client import dashboard_address, found_token, request_headers
from brainray.commands import submit
from brainray.errors import BadRequest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def refused(capfd, monkeypatch) -> Callable[..., None]:
    """Expects one line with these words, exit code 2, and no cluster to be asked."""
    for name in [name for name in os.environ if name.startswith("RAY_")]:
        monkeypatch.delenv(name)

    def check(*command: str, words: str) -> None:
        code = run(["submit", *map(str, command)])
        out, err = capfd.readouterr()
        assert (code, out, err.count("\n")) == (2, "", 1), err
        assert err.startswith("brainray: ") and words in err, err

    return check


class TestDesk:
    @pytest.mark.parametrize(
        ("command", "words"),
        [
            (["scare", *arguments()], "not scare"),
            (["score", "--input", "/in", "--model", "/m"], "--output"),
            (["score", *arguments(), "--bacth-size", "4"], "--bacth-size"),
            (["score", *arguments(), "--batch-size", "four"], "--batch-size"),
            (["train", "--data", "/data", "--output", "/m", "--epochs", "x"], "--epochs"),
            (["score", *arguments(), "--max-failed", "half"], "--max-failed is 'half'"),
            (["score", *arguments(), "--precision", "fp8"], "--precision is 'fp8'"),
            (["train", "--data", "/data", "--output", "/m", "--folds", "1"], "--folds is 1"),
            (["train", "--data", "/data", "--output", "/m", "--workers", "4-2"], "--workers is 4-2"),
            (["train", "--data", "/data", "--output", "/m", "--preset", "slow"], "--preset is 'slow'"),
        ],
    )
    def test_a_typo_fails_here_and_not_after_the_queue_of_the_cluster(self, refused, command, words):
        refused(*command, words=words)

    @pytest.mark.parametrize("option", ["--input", "--model", "--output"])
    def test_a_relative_path_would_lie_in_a_folder_of_the_cluster_that_is_thrown_away(self, refused, option):
        words = arguments()
        words[words.index(option) + 1] = "here/x"
        refused("score", *words, words=f"{option} here/x is a path relative to this folder")

    def test_names_behind_pseudonyms_would_be_thrown_away_with_that_folder(self, refused):
        words = (*arguments(), "--pseudonymise-uris", "names")
        refused("score", *words, words="--pseudonymise-uris names is a path relative to this folder")

    @pytest.mark.parametrize("seconds", ["nan", "inf", "-1"])
    def test_a_patience_without_end_is_refused(self, refused, seconds):
        refused("--patience", seconds, "score", *arguments(), words=f"--patience is {seconds}; it must be a number")

    def test_the_shipped_model_is_no_path(self, refused):
        """The job brings it along; and a folder of that name is one all the same."""
        refused("score", "--input", "shipped", "--output", "/out", words="--input shipped is a path relative")
        _check_visible("--model", "shipped")
        _check_visible("--init", "shipped")

    @pytest.mark.parametrize("uri", ["s3://user:secret@bucket/x", "s3://b/x?X-Amz-Signature=abc", "s3://tok@bucket"])
    def test_a_secret_in_an_argument_would_be_shown_in_the_dashboard(self, refused, uri):
        refused("score", *arguments(root=uri), words="--input holds a user, password or signature")

    @pytest.mark.parametrize("name", ["AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID", "api_token", "DB_PASSWORD"])
    def test_a_secret_in_the_environment_would_be_shown_in_the_dashboard(self, refused, monkeypatch, name):
        monkeypatch.setenv(name, "x")
        refused("--env", name, "score", *arguments(), words=f"--env {name} looks like a secret")

    def test_a_variable_for_the_job_must_be_set_and_hold_no_password(self, refused, monkeypatch):
        monkeypatch.setenv("HTTPS_PROXY", "http://user:secret@proxy")
        refused("--env", "HTTPS_PROXY", "score", *arguments(), words="--env HTTPS_PROXY holds a user, password")
        refused("--env", "NOT_SET_ANYWHERE", "score", *arguments(), words="not set here")

    @pytest.mark.parametrize(
        ("address", "words"),
        [
            ("ray://head:10001", "give --address http://head:8265"),
            ("10.0.0.7:6379", "give --address http://10.0.0.7:8265"),
            ("local", "http://HOST:8265"),
            ("http://head:port", "http://HOST:8265"),
            ("http://user:secret@head:8265", "holds a user or password"),
        ],
    )
    def test_another_kind_of_address_says_which_one_is_wanted(self, refused, monkeypatch, address, words):
        refused("--address", address, "score", *arguments(), words=words)
        monkeypatch.setenv("RAY_ADDRESS", address)
        refused("score", *arguments(), words="RAY_ADDRESS")

    def test_the_option_wins_over_the_environment_which_is_read_as_ray_reads_it(self):
        both = {"RAY_API_SERVER_ADDRESS": "http://api:1", "RAY_ADDRESS": "http://ray:2/"}
        assert dashboard_address("https://given/ray/", both) == "https://given/ray"
        assert dashboard_address(None, both) == "http://api:1"
        assert dashboard_address(None, {"RAY_ADDRESS": "http://ray:2/"}) == "http://ray:2"
        assert dashboard_address(None, {"RAY_ADDRESS": "auto"}) == "http://127.0.0.1:8265"

    def test_help_after_the_command_is_the_commands_own(self, capfd):
        assert run(["submit", "score", "--help"]) == 0
        assert "--max-failed" in capfd.readouterr().out

    def test_a_desk_needs_neither_ray_nor_torch_to_submit(self):
        command = ["submit", "--address", "http://127.0.0.1:1", "--patience", "0", "score", *arguments("s3://b/x")]
        script = f"import sys; from brainray.cli.app import run; code = run({command}); print(code, *sys.modules)"
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=250, check=True)
        code, *modules = done.stdout.split()
        assert code == "1" and "has not answered" in done.stderr
        assert {name.split(".")[0] for name in modules} & {"ray", "torch", "pandas", "aiohttp"} == set()


def wheel_files(folder):
    """What a wheel of this project holds, less what describes it."""
    for name in ("pyproject.toml", "README.md", "LICENSE", "brainray"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / name)
    build = "from setuptools import build_meta; print(build_meta.build_wheel('.'))"
    done = subprocess.run([sys.executable, "-c", build], cwd=folder, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(folder / done.stdout.split()[-1]) as wheel:
        return {name for name in wheel.namelist() if name.startswith("brainray/")}


HEADERS = """
import json, os, sys
from ray._private.authentication.http_token_authentication import get_auth_headers_if_auth_enabled  # reads the mode

for environment in json.loads(sys.argv[1]):  # each in a process of its own, for Ray keeps the token that it has found
    if os.fork():
        os.wait()
    else:
        os.environ.clear()
        os.environ.update(environment)
        print(json.dumps(get_auth_headers_if_auth_enabled({})), flush=True)
        os._exit(0)
"""


def headers_of_ray(environments):
    """What Ray's own client would send in each of these environments."""
    command = [sys.executable, "-c", HEADERS, json.dumps(environments)]
    mode = {"RAY_AUTH_MODE": "Token"}
    done = subprocess.run(command, env=mode, capture_output=True, text=True, timeout=250, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


class TestUpload:
    def test_it_is_what_an_installed_package_has_and_nothing_else(self, tmp_path):
        uploaded = set(submit.package_files())
        assert uploaded == wheel_files(tmp_path)
        every = {path for path in (ROOT / "brainray").rglob("*") if path.is_file()}
        modules = {str(path.relative_to(ROOT)) for path in every if path.suffix in (".py", ".html")}
        assert modules <= uploaded, "a folder of the package stays at home"

    def test_notes_caches_and_scans_beside_the_modules_stay_at_home(self, tmp_path):
        folder = tmp_path / "brainray"
        for name in ("cli.py", "py.typed", "scan.jpg", ".env", "__pycache__/cli.pyc", "sub/scan.jpg"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(name)
        assert submit.package_files(folder) == {"brainray/cli.py": b"cli.py", "brainray/py.typed": b"py.typed"}

    def test_an_absurd_size_is_refused_by_the_name_of_the_largest_file(self, tmp_path):
        (tmp_path / "weights.py").write_bytes(bytes(31_000_000))
        with pytest.raises(BadRequest, match=r"31 MB to upload, more than 30.*weights\.py"):
            submit.package_files(tmp_path)

    def test_the_same_files_have_the_same_name_so_a_cluster_is_sent_them_once(self):
        files = {"brainray/a.py": b"1", "brainray/b.py": b"2"}
        again = dict(reversed(files.items()))
        assert submit.pack(files) == submit.pack(again)
        names = {submit.pack(other)[0] for other in (files, files | {"brainray/a.py": b"12"}, {"brainray/a.py": b"12"})}
        assert len(names) == 3

    def test_arguments_reach_the_command_as_they_were_given(self, tmp_path):
        words = ["--group-by", "a b'c\"$HOME", "--include", "*.jpg; touch x", "--max-failed", "1%", ""]
        (tmp_path / "python").write_text(f"#!{sys.executable}\nimport json, sys\nprint(json.dumps(sys.argv[1:]))\n")
        (tmp_path / "python").chmod(0o755)
        shell = ["/bin/sh", "-c", submission(*words).entrypoint]
        done = subprocess.run(
            shell, env={"PATH": str(tmp_path)}, capture_output=True, text=True, timeout=250, check=True
        )
        assert json.loads(done.stdout) == ["-m", "brainray", "score", *words]

    def test_an_id_belongs_to_a_command_and_an_output(self):
        assert submission("--rescore").stem == submission().stem
        train = submit.Submission(command="train", arguments=(), output="/out")
        assert len({submission().stem, submission(output="/other").stem, train.stem}) == 3

    def test_the_token_is_the_one_that_rays_own_client_would_send(self, tmp_path, monkeypatch):
        monkeypatch.setenv("HOME", str(tmp_path))
        (tmp_path / ".ray").mkdir()
        (tmp_path / ".ray" / "auth_token").write_text(" of-the-file\n")
        sources = {"RAY_AUTH_TOKEN": " of-the-variable ", "RAY_AUTH_TOKEN_PATH": f"{tmp_path}/.ray/auth_token", "": ""}
        always = {"RAY_AUTH_MODE": "Token", "HOME": str(tmp_path)}
        environments = [always | ({name: value} if name else {}) for name, value in sources.items()]
        for environment, rays in zip(environments, headers_of_ray(environments), strict=True):
            theirs = {name.lower(): text for name, text in rays.items()}
            assert {name.lower(): text for name, text in request_headers(environment).items()} == theirs
            assert request_headers(environment | {"RAY_AUTH_MODE": "disabled"}) == {}

            del environment["RAY_AUTH_MODE"]
            assert request_headers(environment) == {}, "nobody gets it who does not ask"
            assert f"Bearer {found_token(environment)}" == theirs["authorization"]
            assert found_token(environment | {"RAY_AUTH_MODE": "disabled"}) is None

    def test_no_token_is_found_where_there_is_none(self, tmp_path, monkeypatch):
        monkeypatch.setenv("HOME", str(tmp_path))
        assert found_token({}) is None
        with pytest.raises(BadRequest, match="the token cannot be read"):
            found_token({"RAY_AUTH_TOKEN_PATH": str(tmp_path / "none")})

    def test_a_token_that_is_not_there_is_one_line(self, tmp_path):
        with pytest.raises(BadRequest, match="the token cannot be read"):
            request_headers({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(tmp_path / "none")})
        with pytest.raises(BadRequest, match="RAY_JOB_HEADERS"):
            request_headers({"RAY_JOB_HEADERS": "x"})


@given(st.lists(st.text(alphabet="ab\n", max_size=8), max_size=12), st.data())
def test_a_log_that_is_asked_for_at_any_moment_is_shown_once_and_whole(pieces, data):
    out = io.StringIO()
    log = submit.JobLog(out, lambda: 0.0)
    text = "".join(pieces)
    for length in sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6))):
        log.show(data.draw(st.sampled_from([text[:length], None, ""])))
        assert text.startswith(out.getvalue()) and out.getvalue()[-1:] in ("", "\n")
    log.show(text, whole=True)
    assert out.getvalue() == text + "\n" * (text[-1:] not in ("", "\n"))


def test_a_reader_who_leaves_does_not_end_the_watch():
    class Gone(io.StringIO):
        def write(self, _: str) -> int:
            raise BrokenPipeError

    log = submit.JobLog(Gone(), lambda: 0.0)
    log.show("a\n")
    log.show("a\nb\n", whole=True)
