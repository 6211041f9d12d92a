"""The first moments of the program: what it imports, and signals that come before it has begun anything."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import brainray

PACKAGE_PARENT = str(Path(brainray.__file__).parent.parent)
SCRIPT = "import sys; sys.argv[0] = 'brainray'; from brainray.cli.start import main; main()"
WAYS = {"script": ["-c", SCRIPT], "module": ["-m", "brainray"]}


@pytest.mark.parametrize("way", WAYS)
def test_modules_in_the_working_folder_are_not_imported(tmp_path, way):
    """Nor by an empty entry of PYTHONPATH, as `PYTHONPATH=$PYTHONPATH:/lib` makes one."""
    for name in ("typing", "random", "json", "shlex", "torch", "typer"):
        (tmp_path / f"{name}.py").write_text(f"raise SystemExit('the {name} of the working folder')\n")
    done = subprocess.run(
        [sys.executable, *WAYS[way], "--version"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": f":{PACKAGE_PARENT}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, f"brainray {brainray.__version__}\n"), done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize("way", WAYS)
def test_a_signal_while_the_program_is_imported_ends_it_with_a_line(tmp_path, way, number):
    (tmp_path / "typer.py").write_text("import time; print('importing', flush=True); time.sleep(60)\n")
    with subprocess.Popen(
        [sys.executable, *WAYS[way], "doctor"],
        env=os.environ | {"PYTHONPATH": f"{tmp_path}:{PACKAGE_PARENT}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(number, signal.default_int_handler if number == signal.SIGINT else 0),
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "importing\n"
        process.send_signal(number)
        _, shown = process.communicate(timeout=60)
    assert (process.returncode, shown) == (130, "brainray: stopped before anything was begun\n")


@pytest.mark.parametrize("text", ["raise RuntimeError('not numpy')", "", "import no_such_module"])
def test_a_module_of_pythonpath_that_hides_a_package_is_named_with_the_way_out(tmp_path, text):
    (tmp_path / "numpy.py").write_text(text + "\n")
    done = subprocess.run(
        [sys.executable, "-m", "brainray", "report", "/none"],
        env=os.environ | {"PYTHONPATH": f"{tmp_path}:{PACKAGE_PARENT}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    named = f"brainray: {tmp_path}/numpy.py was imported in place of an installed package; take {tmp_path} out of"
    assert done.stderr.startswith(named) and done.stderr.count("\n") == 1
