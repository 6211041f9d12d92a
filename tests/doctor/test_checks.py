"""How checks are carried out: one that breaks, hangs or dies hides nothing of the others."""

import re
import threading

import pytest
from support.findings import only

from brainray import storage
from brainray.doctor.checks import (
    Check,
    Finding,
    counted,
    finding_of_error,
    findings_of,
    guarded,
    ok,
    run_checks,
    size_text,
)
from brainray.errors import StorageError


def test_a_broken_check_hides_nothing_of_the_others():
    def broken():
        yield ok("second", "half of it")
        raise KeyError("surprise")

    checks = [Check(name="first", run=lambda: [ok("first", "fine")]), Check(name="2", run=broken)]
    found = list(run_checks([*checks, Check(name="third", run=lambda: [ok("third", "fine")])]))
    assert [finding.check for finding in found] == ["first", "second", "2", "third"]
    assert found[2].status == "wrong"
    assert found[2].found == "could not be checked (KeyError: 'surprise')"


def test_a_check_that_hangs_is_told_and_left_behind():
    answers = threading.Event()
    hanging = Check(name="nfs", run=lambda: [ok("nfs", str(answers.wait()))], timeout_s=0.1)
    found = list(run_checks([hanging, Check(name="next", run=lambda: [ok("next", "fine")])]))
    answers.set()  # only now, so whoever waits for it hangs
    assert [(finding.check, finding.status) for finding in found] == [("nfs", "wrong"), ("next", "ok")]
    assert "no answer within 0.1 s" in found[0].found


def test_an_error_of_ours_is_told_as_what_is_wrong_and_what_to_do():
    denied = StorageError("forbidden", "s3://b/k: access denied; the credentials in use need s3:GetObject here")
    assert finding_of_error("--input s3://b/k", denied) == Finding(
        check="--input s3://b/k",
        status="wrong",
        found="access denied",
        remedy="the credentials in use need s3:GetObject here",
    )
    busy = StorageError("read_failed", "s3://b/k: the store failed (InternalError)")
    assert finding_of_error("--input s3://b/k", busy, remedy="correct it").remedy.startswith("try again later")
    bare = only(guarded("x", lambda: storage.list_files("/no/such/place")))
    assert (bare.found, bare.remedy) == ("/no/such/place: No such file or directory", "correct it and run this again")


@pytest.mark.parametrize(
    ("does", "found"),
    [
        ("os.kill(os.getpid(), 9)", r"died of it \(signal 9\)"),
        ("raise SystemExit('no library')", r"died of it \(exit code 1\): no library"),
        ("time.sleep(3600)", r"no answer within [\d.]+ s"),
    ],
)
def test_a_library_that_takes_its_process_down_is_a_finding(tmp_path, monkeypatch, does, found):
    (tmp_path / "program.py").write_text(
        "import os, time\nfrom brainray.doctor.checks import ok, print_findings\n"
        f"def look(word):\n    print('noise')\n    yield ok('begun', word)\n    {does}\n"
        "print_findings(look)"
    )
    monkeypatch.syspath_prepend(tmp_path)
    for timeout_s in (0.5, 5, 120) if "sleep" in does else (120,):
        found_first = list(findings_of("program", "check", "a word", timeout_s=timeout_s, remedy="repair it"))
        if len(found_first) == 2:  # else a busy machine has not begun within that time
            break
    begun, died = found_first
    assert begun == ok("begun", "a word")
    assert (died.check, died.status, died.remedy) == ("check", "wrong", "repair it")
    assert re.fullmatch(found, died.found)


def test_figures_read_well():
    assert [size_text(n) for n in (12, 34_000, 2.5e6, 1234e9)] == ["12 bytes", "34.0 kB", "2.5 MB", "1,234.0 GB"]
    assert [counted(n, "process") for n in (0, 1, 2)] == ["0 processes", "1 process", "2 processes"]
    assert [counted(n, "GPU") for n in (0.5, 1.0, 16.0)] == ["0.5 GPUs", "1 GPU", "16 GPUs"]
