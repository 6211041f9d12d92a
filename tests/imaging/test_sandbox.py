"""Decoding in a process apart: same results, and a death or a hang is an error of one image."""

import contextlib
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest
from support.imaging.images import image_bytes
from support.machine.waiting import wait_for

from brainray import imaging
from brainray.config import ImageSpec
from brainray.errors import BrainrayError, ImageError
from brainray.imaging.decode import Header, decode, read_header
from brainray.imaging.sandbox import SandboxedDecoder

SPEC = ImageSpec(image_px=16, max_pixels=10_000)
OTHER = ImageSpec(image_px=17)  # of a child of a test's own

# Every Python imports `sitecustomize` as it starts. This one makes the decoder of the child, and of it alone, fall for
# contents that begin with a marker and a colon; up to the next colon there is an argument.
FRAGILE = """
import importlib.util, os, sys, time

def fall(data):
    marker, argument = (data.split(b":") + [b""])[:2]
    if marker == b"SIGNAL":
        os.kill(os.getpid(), int(argument))
    if marker == b"EXIT":
        os._exit(int(argument))
    if marker == b"RAISE":
        raise RuntimeError("a defect")
    if marker == b"HANG":
        time.sleep(1000)
    if marker == b"HUNGRY":
        bytearray(1 << 40)
    if marker == b"PRINT":
        os.write(1, b"libjpeg: a remark"), print("a remark", flush=True)
    if marker == b"ONCE" and not os.path.exists(argument):
        open(argument, "w").close()
        os.abort()
    if marker == b"MODULES":
        with open(argument, "w") as file:
            print(*sys.modules, file=file)

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name != "brainray.imaging.decode":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module
        def exec_module(module):
            execute(module)
            decode = module.decode
            def fragile(data, spec, **options):
                fall(data)
                return decode(data, spec, **options)
            module.decode = fragile
        spec.loader.exec_module = exec_module
        return spec

sys.meta_path.insert(0, Finder())
"""


@pytest.fixture(scope="module")
def fragile(tmp_path_factory):
    """Children that start from here on fall for what they are to fall for, and decode anything else."""
    folder = tmp_path_factory.mktemp("fragile")
    (folder / "sitecustomize.py").write_text(FRAGILE)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield


@pytest.fixture(scope="module")
def apart(fragile):
    """One for all tests: a start takes 0.2 s. A test that takes its child down makes the next one start another."""
    with SandboxedDecoder(SPEC, timeout_s=120) as decoder:
        yield decoder


def refusal(decoder, content):
    with pytest.raises(ImageError) as refused:
        decoder(content)
    return refused.value.reason, refused.value.detail


def assert_same(apart, content, spec=SPEC):
    here, there = decode(content, spec), apart(content)
    np.testing.assert_array_equal(there.pixels, here.pixels)
    assert (there.pixels.dtype, there.width, there.height, there.format) == (
        np.uint8,
        here.width,
        here.height,
        here.format,
    )


def children(spec=SPEC):
    """Those that decode here: a Ray, a browser and a decoder of pages may be children of this process, too."""
    here = f'brainray.imaging.sandbox {{"image_px": {spec.image_px}'
    return [child for child in psutil.Process().children() if here in command_line(child)]


def command_line(process):
    with contextlib.suppress(psutil.Error):  # it has ended
        return " ".join(process.cmdline())
    return ""


def test_pixels_are_those_of_decode(apart):
    for content in (image_bytes(1), image_bytes(2, mode="RGB", kind="PNG"), image_bytes(3, size=(7, 90), kind="WEBP")):
        assert_same(apart, content)
    assert len(children()) == 1, "one process serves every image"


def test_the_spec_reaches_the_process():
    spec = ImageSpec(image_px=24, channels=3, resize="stretch")
    with SandboxedDecoder(spec) as apart:
        assert_same(apart, image_bytes(4, mode="RGB"), spec)


def test_refusals_are_those_of_decode(apart):
    for content in (b"", b"hello", image_bytes(1)[:-40], image_bytes(1, size=(200, 200))):
        with pytest.raises(ImageError) as here:
            decode(content, SPEC)
        assert refusal(apart, content) == (here.value.reason, here.value.detail)
        assert apart.read_header(content) == read_header(content)
    assert_same(apart, image_bytes(5))


FALLS = [
    (b"EXIT:0", "exit code 0"),
    (b"RAISE", "exit code 1"),
    (b"SIGNAL:11:" + bytes(10_000_000), "signal 11"),  # at a large image
]


def test_an_image_that_kills_its_decoder_is_named_and_the_next_one_works(apart):
    assert_same(apart, image_bytes(1))
    for content, how in FALLS:
        assert refusal(apart, content) == ("unsupported", f"killed its decoder ({how})")
        assert apart.read_header(content) == Header()
        assert_same(apart, image_bytes(2))


def test_a_process_that_is_dead_already_is_no_image_s_fault(apart):
    assert_same(apart, image_bytes(1))
    children()[0].kill()
    assert_same(apart, image_bytes(2) + bytes(10_000_000))


def test_an_image_whose_decoder_died_by_chance_is_decoded(apart, tmp_path):
    assert refusal(apart, b"ONCE:" + os.fsencode(tmp_path / "died"))[0] == "not_an_image"
    assert (tmp_path / "died").exists()


def test_a_decoder_that_hangs_is_ended(fragile):
    with SandboxedDecoder(SPEC, timeout_s=1) as apart:
        assert refusal(apart, b"HANG") == ("unsupported", "its decoder took longer than 1 s")
        assert_same(apart, image_bytes(1))


def test_an_image_that_wants_too_much_memory_is_refused_by_the_process(apart):
    assert refusal(apart, b"HUNGRY")[0] == "too_large"
    assert_same(apart, image_bytes(1))


def test_what_a_decoder_prints_is_no_answer(apart):
    assert refusal(apart, b"PRINT")[0] == "not_an_image"
    assert_same(apart, image_bytes(1))


def test_the_process_imports_nothing_heavy(apart, tmp_path):
    refusal(apart, b"MODULES:" + os.fsencode(tmp_path / "modules"))
    modules = {name.split(".")[0] for name in (tmp_path / "modules").read_text().split()}
    assert "brainray" in modules
    assert modules & {"ray", "torch", "pyarrow", "sklearn", "matplotlib", "pandas"} == set()


def test_a_process_that_does_not_start_is_no_image_s_fault(tmp_path, monkeypatch):
    (tmp_path / "sitecustomize.py").write_text("import os; os._exit(7)")
    monkeypatch.syspath_prepend(tmp_path)
    with SandboxedDecoder(OTHER) as apart, pytest.raises(BrainrayError, match=r"does not start \(exit code 7\)"):
        apart(image_bytes(1))
    assert not children(OTHER)


def test_no_process_is_left_at_the_end():
    with SandboxedDecoder(OTHER) as apart:
        apart(image_bytes(1))
        assert children(OTHER)
    assert not children(OTHER)


PARENT = """
import sys, threading, time
sys.path[:] = {path!r}
import psutil
from brainray.imaging.sandbox import SandboxedDecoder
from brainray.config import ImageSpec

apart = SandboxedDecoder(ImageSpec(image_px=16), timeout_s=1)
apart({first!r})
threading.Thread(target=apart, args=(b"HANG",), daemon=True).start() if {busy} else None
print(psutil.Process().children()[0].pid, flush=True)
time.sleep(1000)
"""


def gone(pid):
    """Ended; where nobody reaps orphans, as in a container, a zombie stays."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.mark.parametrize("busy", [False, True])
def test_a_killed_parent_takes_the_process_along(fragile, busy):
    script = PARENT.format(path=sys.path, first=image_bytes(1), busy=busy)
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as parent:
        child = int(parent.stdout.readline())
        assert not gone(child)
        parent.kill()
    wait_for(lambda: gone(child), "the process ends with its parent")


WHILE_OPENCV_IS_IMPORTED = """
import importlib, sys, threading
from brainray.config import ImageSpec
from brainray.imaging.normalise import opencv
from brainray.imaging.sandbox import SandboxedDecoder

amid, import_module = threading.Event(), importlib.import_module

def slowly(name):
    module = import_module(name)
    if name == "cv2":  # its own part in C, which an `import cv2` of another thread takes for all of it
        amid.set()
        threading.Event().wait(0.5)
    return module

importlib.import_module = slowly
threading.Thread(target=opencv).start()
assert amid.wait(60) and any(folder.endswith("cv2") for folder in sys.path), "OpenCV changes the path no more"
with SandboxedDecoder(ImageSpec(image_px=16)) as decoder:
    print(decoder(sys.stdin.buffer.read()).width)
"""


def test_a_child_starts_while_another_thread_imports_opencv():
    """OpenCV's folder, with a `typing` of its own, is on the path meanwhile: a child that inherits it ends at once."""
    run = [sys.executable, "-c", WHILE_OPENCV_IS_IMPORTED]
    done = subprocess.run(run, input=image_bytes(1), capture_output=True, timeout=200)
    assert (done.returncode, done.stdout.split()) == (0, [b"40"]), done.stderr.decode()


def test_scoring_imports_opencv_in_one_place_only():
    """Elsewhere a child that starts in that moment would not, which ended one run in some dozens."""
    folder = Path(imaging.__file__).parent
    sources = {path.name: path.read_text() for path in folder.rglob("*.py")}
    importing = {name for name, source in sources.items() if re.search(r"^\s*(import|from) cv2", source, re.MULTILINE)}
    assert importing == {"normalise.py"}
