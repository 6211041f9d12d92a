"""Standard output and error that cannot take text: the exit code stays the one of the command."""

import os
import subprocess
import sys

import pytest

from brainray import __version__
from brainray.cli import app

CALL = "from brainray.cli.app import main; main({!r})"


def answer(redirection, *arguments, environment=None):
    """Exit code, standard output and error of a command behind a redirection of the shell."""
    command = f'exec "$0" -c "$1" {redirection}'
    finished = subprocess.run(
        ["sh", "-c", command, sys.executable, CALL.format(list(arguments))],
        capture_output=True,
        text=True,
        env=os.environ | (environment or {}),
        timeout=60,
    )
    return finished.returncode, finished.stdout, finished.stderr


@pytest.mark.parametrize("redirection", [">&-", "<&- >&- 2>&-", "2>&-", "2> /dev/full"])
def test_closed_streams_and_a_full_error_stream_change_nothing(redirection):
    code, out, err = answer(redirection, "--version")
    assert (code, err) == (0, "")
    assert out == ("" if ">&-" in redirection.split() else f"brainray {__version__}\n")


def test_a_full_output_is_an_error_of_its_own_in_one_line():
    code, _, err = answer("> /dev/full", "--version")
    assert (code, err.count("\n")) == (1, 1)
    assert err.startswith("brainray: standard output: No space left")


def test_a_bad_request_keeps_its_code_where_nothing_can_be_said():
    assert answer("> /dev/full 2> /dev/full", "doctor", "--format", "xml")[0] == 2


def test_a_reader_that_has_gone_ends_nothing():
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-c", CALL.format(["--help"])]
    finished = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, timeout=60)
    os.close(writing)
    assert (finished.returncode, finished.stderr) == (0, b"")


def test_characters_outside_the_encoding_are_escaped():
    code, out, err = answer("2>&1", "doctor", "--format", "é", environment={"PYTHONIOENCODING": "ascii"})
    assert (code, err) == (2, "")
    assert out.startswith("brainray: --format is '\\xe9'; it must be one of")


def test_an_error_that_no_code_expected_is_one_line_and_its_traceback_a_file(monkeypatch, capfd, tmp_path):
    def broken(**_):
        raise RuntimeError("two\nlines")

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(app, "app", broken)
    assert app.run([]) == 1
    (file,) = tmp_path.iterdir()
    assert "RuntimeError: two" in file.read_text()
    said = f"brainray: unexpected RuntimeError: two lines; {file} has the traceback, for a report of a defect\n"
    assert capfd.readouterr().err == said


def test_a_terminal_of_ascii_gets_ascii():
    """LC_ALL=C: Python alone would write UTF-8, of which such a terminal shows rubbish."""
    environment = {"LC_ALL": "C", "PYTHONUTF8": "", "PYTHONIOENCODING": ""}
    code, out, err = answer("", "doctor", "--format", "\N{LATIN SMALL LETTER E WITH ACUTE}", environment=environment)
    assert code == 2 and (out + err).isascii() and "\\xe9" in err
