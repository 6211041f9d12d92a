"""`brainray doctor`: what is wrong with a machine, a cluster or a bucket is told in seconds, with what to do."""

import ctypes
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from email.utils import formatdate

import pytest
import ray
from botocore.httpsession import URLLib3Session
from ray import cloudpickle
from support.bundles import untrained
from support.images import image_bytes
from support.ports import free_port
from support.s3_servers import ACCESS_KEY, SECRET_KEY, fast_s3, s3_endpoints, strict_s3, use_server

from brainray import storage
from brainray.cli import doctor as cli_doctor
from brainray.cli.app import run
from brainray.doctor import gpu
from brainray.doctor import machine as doctor_machine
from brainray.doctor import nodes as doctor_nodes
from brainray.doctor.checks import (
    Check,
    Finding,
    attempted,
    counted,
    finding_of_error,
    findings_of,
    ok,
    run_checks,
    size_text,
)
from brainray.doctor.gpu import Gpu, Torch, check_torch, judge_gpus
from brainray.doctor.inputs import check_service, look_at_data, look_at_input, look_at_model
from brainray.doctor.machine import check_memory, check_objects, check_packages, check_processors, check_room
from brainray.doctor.nodes import (
    ClusterNode,
    NodeAnswer,
    NodeQuestions,
    facts,
    judge_cluster,
    judge_node,
    judge_precision,
)
from brainray.doctor.output import check_disk, check_state, look_at_output
from brainray.errors import BadRequest, StorageError
from brainray.hardware import Disk, Machine, read_disk, read_machine
from brainray.scoring.run_folder import SCHEMA_VERSION
from brainray.storage.lease import hold
from brainray.storage.shared_paths import NamedPath, SharedPaths

__all__ = ["fast_s3", "s3_endpoints", "strict_s3"]  # fixtures

GB = 10**9


def told(findings):
    """Findings by their check. None may be given twice, or show what is secret."""
    findings = list(findings)
    for finding in findings:
        assert SECRET_KEY not in str(finding) and ACCESS_KEY not in str(finding)
        assert (finding.status == "ok") == (finding.remedy == ""), f"what to do is told where something is: {finding}"
        assert "\n" not in finding.found + finding.remedy
    assert len({finding.check for finding in findings}) == len(findings)
    return {finding.check: finding for finding in findings}


def only(findings) -> Finding:
    (finding,) = told(findings).values()
    return finding


def statuses(findings):
    return {check: finding.status for check, finding in told(findings).items()}


# How checks are carried out


def test_a_broken_check_hides_nothing_of_the_others():
    def broken():
        yield ok("second", "half of it")
        raise KeyError("surprise")

    checks = [Check(name="first", look=lambda: [ok("first", "fine")]), Check(name="2", look=broken)]
    found = list(run_checks([*checks, Check(name="third", look=lambda: [ok("third", "fine")])]))
    assert [finding.check for finding in found] == ["first", "second", "2", "third"]
    assert found[2].status == "wrong"
    assert found[2].found == "could not be checked (KeyError: 'surprise')"


def test_a_check_that_hangs_is_told_and_left_behind():
    answers = threading.Event()
    hanging = Check(name="nfs", look=lambda: [ok("nfs", str(answers.wait()))], timeout_s=0.1)
    found = list(run_checks([hanging, Check(name="next", look=lambda: [ok("next", "fine")])]))
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
    bare = only(attempted("x", lambda: storage.list_files("/no/such/place")))
    assert (bare.found, bare.remedy) == ("/no/such/place: No such file or directory", "correct it and run this again")


@pytest.mark.parametrize(
    ("does", "found"),
    [
        ("os.kill(os.getpid(), 9)", r"died of it \(signal 9\)"),
        ("raise SystemExit('no library')", r"died of it \(exit code 1\): no library"),
        ("time.sleep(3600)", "no answer within 15 s"),
    ],
)
def test_a_library_that_takes_its_process_down_is_a_finding(tmp_path, monkeypatch, does, found):
    (tmp_path / "program.py").write_text(
        "import os, time\nfrom brainray.doctor.checks import ok, tell\n"
        f"def look(word):\n    print('noise')\n    yield ok('begun', word)\n    {does}\n"
        "tell(look)"
    )
    monkeypatch.syspath_prepend(tmp_path)
    begun, died = findings_of(
        "program", "check", "a word", timeout_s=15 if "sleep" in does else 120, remedy="repair it"
    )
    assert begun == ok("begun", "a word")
    assert (died.check, died.status, died.remedy) == ("check", "wrong", "repair it")
    assert re.fullmatch(found, died.found)


def test_figures_read_well():
    assert [size_text(n) for n in (12, 34_000, 2.5e6, 1234e9)] == ["12 bytes", "34.0 kB", "2.5 MB", "1,234.0 GB"]
    assert [counted(n, "process") for n in (0, 1, 2)] == ["0 processes", "1 process", "2 processes"]
    assert [counted(n, "GPU") for n in (0.5, 1.0, 16.0)] == ["0.5 GPUs", "1 GPU", "16 GPUs"]


# This machine


@pytest.fixture
def kernel(tmp_path):
    """Writes files as Linux shows them, and gives the folder to read them below."""

    def show(**files):
        cpus = "".join(f"processor\t: {n}\nflags\t\t: fpu avx2 {files.get('flags', '')}\n\n" for n in range(8))
        shown = {
            "proc/cpuinfo": files.get("cpuinfo", cpus),
            "proc/meminfo": "MemTotal: 32000000 kB\nMemFree: 1 kB\nMemAvailable: 30000000 kB\n",
            "proc/self/cgroup": files.get("cgroup", "0::/\n"),
            **files.get("sys", {}),
        }
        for name, text in shown.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return f"{tmp_path}/"

    return show


def limits(machine):
    return machine.usable, machine.memory_bytes, machine.available_bytes


def test_without_limits_a_process_has_what_the_machine_has(kernel):
    machine = read_machine(kernel(sys={"sys/fs/cgroup/cpu.max": "max 100000", "sys/fs/cgroup/memory.max": "max"}))
    assert machine.processors == 8
    assert read_machine(kernel(), affinity=8).usable == 8
    assert machine.memory_bytes == 32_000_000 * 1024
    assert machine.available_bytes == 30_000_000 * 1024


FREES = """
import ctypes, resource
from brainray.hardware import keep_freed_memory
keep_freed_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
for turn in range(5):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = ctypes.c_void_p(libc.malloc(64 << 20))
    ctypes.memset(block, 1, 64 << 20)
    libc.free(block)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="another C library than glibc")
def test_what_is_freed_is_not_cleared_anew_by_the_system():
    """Else a quarter of the time of the model in the package goes into clearing pages."""
    done = subprocess.run([sys.executable, "-c", FREES], capture_output=True, text=True, timeout=250, check=True)
    first, *others = map(int, done.stdout.split())
    assert first > 16000, "page faults, one a page"
    assert max(others) < 1000


def test_a_container_has_its_own_limits_and_not_those_of_its_host(kernel):
    second = {
        "sys/fs/cgroup/cpu.max": "250000 100000",
        "sys/fs/cgroup/memory.max": f"{4 * GB}",
        "sys/fs/cgroup/memory.current": f"{3 * GB}",
        "sys/fs/cgroup/memory.stat": f"anon 5\ninactive_file {GB}\n",  # cache, which is given back
    }
    assert limits(read_machine(kernel(sys=second), affinity=8)) == (2.5, 4 * GB, 2 * GB)


def test_version_1_of_control_groups_counts_too(kernel):
    first = {
        "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "300000",
        "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{2**63 - 4096}",
        "sys/fs/cgroup/memory/box/memory.limit_in_bytes": f"{6 * GB}",
        "sys/fs/cgroup/memory/box/memory.usage_in_bytes": f"{GB}",
    }
    groups = "5:cpu,cpuacct:/docker/of-the-host\n4:memory:/box\n1:name=systemd:/\n0::/\n"
    assert limits(read_machine(kernel(cgroup=groups, sys=first), affinity=8)) == (3, 6 * GB, 5 * GB)


def test_of_nested_limits_the_smallest_counts(kernel):
    nested = {
        "sys/fs/cgroup/a.slice/cpu.max": "100000 100000",
        "sys/fs/cgroup/a.slice/b.service/cpu.max": "400000 100000",
    }
    shown = kernel(cgroup="0::/a.slice/b.service\n", sys=nested)
    assert read_machine(shown, affinity=8).usable == 1
    assert read_machine(shown, affinity=1).usable == 1


def test_a_machine_without_proc_is_no_reason_to_fail(tmp_path):
    machine = read_machine(f"{tmp_path}/", affinity=3)
    assert (machine.usable, machine.memory_bytes, machine.features) == (3, 0, frozenset())
    assert only(check_memory(machine)).status == "warning"


def test_the_kind_of_disk_is_that_of_the_innermost_mount(kernel, tmp_path):
    inner = tmp_path / "with space" / "in"
    inner.mkdir(parents=True)
    escaped = str(tmp_path / "with space").replace(" ", r"\040")
    mounts = f"1 0 8:1 / / rw - ext4 /dev/a rw\n2 1 0:9 / {escaped} rw shared:1 - nfs4 host:/ rw\n"
    root = kernel(sys={"proc/self/mountinfo": mounts})
    assert read_disk(str(inner), root=root).kind == "nfs4"
    assert read_disk(str(tmp_path), root=root).kind == "ext4"
    assert read_disk(str(tmp_path)).free_bytes > 0


def machine(usable=4.0, *, features=("avx2",), available=32 * GB):
    return Machine(
        processors=8,
        usable=usable,
        features=frozenset(features),
        memory_bytes=32 * GB,
        available_bytes=int(available),
    )


def test_processors():
    amx = only(check_processors(machine(features=("avx2", "amx_tile")), "x86_64"))
    assert (amx.status, amx.found) == ("ok", "4 usable of 8, with AMX: scores in bf16")
    assert "AVX512-BF16" in only(check_processors(machine(features=("avx2", "avx512_bf16")), "x86_64")).found
    assert "fp32" in only(check_processors(machine(), "x86_64")).found
    assert only(check_processors(machine(features=("sse2",)), "x86_64")).status == "warning"
    assert only(check_processors(machine(features=("asimd",)), "aarch64")).status == "ok"
    assert only(check_processors(machine(usable=0.5))).status == "wrong"  # Ray takes it for no processor at all


def test_memory_is_held_against_the_processes_that_will_run():
    assert only(check_memory(machine())).status == "ok"
    short = only(check_memory(machine(available=5 * GB)))
    assert short.status == "warning" and "room for 2 of 4 scoring processes" in short.found
    assert only(check_memory(machine(available=1.5 * GB))).status == "wrong"


def test_packages_out_of_range_and_missing_ones_are_named_with_the_command_that_repairs_them(monkeypatch):
    def needs(*requirements):
        monkeypatch.setattr(doctor_machine, "_requirements", lambda: (">=3.11", list(requirements)))
        return list(check_packages())

    fine = needs("numpy>=2", "never-installed; extra == 'dev'", "torch<99")
    assert only(fine).status == "ok" and "2 as required: torch" in only(fine).found
    old, missing = needs("numpy<1", "no-such-package-at-all>=3")
    assert re.match(r"numpy \S+ is installed, not <1$", old.found) and old.remedy == "pip install 'numpy<1'"
    assert missing.found == "no-such-package-at-all is missing"
    assert {old.status, missing.status} == {"wrong"}
    assert only(needs()).status == "warning"


def test_what_the_extras_of_a_requirement_need_is_needed_too(monkeypatch):
    monkeypatch.setattr(doctor_machine, "_requirements", lambda: (None, ["ray[data]>=2"]))
    monkeypatch.setattr(
        doctor_machine.metadata, "requires", lambda _: ["no-such-frame; extra == 'data'", "other; extra == 'serve'"]
    )
    assert only(check_packages()).found == "no-such-frame is missing"


def test_the_requirements_are_those_of_this_project():
    assert only(check_packages()).status == "ok"
    assert only(doctor_machine.check_python()).status == "ok"


def test_a_folder_for_temporary_files_needs_room(tmp_path, monkeypatch):
    def room(**disk):
        shown = Disk(**{"kind": "ext4", "free_bytes": 99 * GB, "total_bytes": 99 * GB, "free_files": 10**6} | disk)
        monkeypatch.setattr(doctor_machine, "read_disk", lambda _: shown)
        return check_room("temporary folder", str(tmp_path), "TMPDIR")

    assert room().status == room(free_files=None).status == "ok"
    assert room(free_bytes=3 * GB).status == "warning"
    assert room(free_bytes=GB // 10).status == "wrong"
    assert "room for 7 more files" in room(free_files=7).found
    gone = check_room("temporary folder", f"{tmp_path}/gone", "TMPDIR")
    assert gone.status == "wrong" and "TMPDIR" in gone.remedy
    assert os.listdir(tmp_path) == []


def test_no_folder_for_temporary_files_at_all(monkeypatch):
    def none():
        raise FileNotFoundError

    monkeypatch.setattr(tempfile, "gettempdir", none)
    assert only(doctor_machine.check_temporary_folder()).status == "wrong"


@pytest.mark.parametrize(
    ("limits", "status"), [((1024, 10**6), "ok"), ((1024, 1024), "warning"), ((64, 64), "wrong"), ((-1, -1), "ok")]
)
def test_open_files(monkeypatch, limits, status):
    monkeypatch.setattr(doctor_machine.resource, "getrlimit", lambda _: limits)
    assert only(doctor_machine.check_open_files()).status == status


# torch and GPUs


def test_a_torchvision_of_another_torch_is_found_by_using_it(tmp_path, monkeypatch):
    (tmp_path / "torch.py").write_text("def tensor(values): return values")
    (tmp_path / "torchvision.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    monkeypatch.syspath_prepend(tmp_path)
    finding = only(check_torch())
    assert finding.status == "wrong"
    assert "torchvision::nms does not exist" in finding.found
    assert "pip install --force-reinstall torch torchvision" in finding.remedy


L4 = "NVIDIA L4, 550.54"
FREE = Gpu(name="NVIDIA L4", free_bytes=23 * GB, total_bytes=24 * GB)


@pytest.mark.parametrize(
    ("torch", "driver", "hidden_by", "status", "words"),
    [
        (Torch(cuda=None), (), "", "ok", "none"),
        (Torch(cuda=None), (L4,), "", "warning", "built without CUDA: NVIDIA L4"),
        (Torch(cuda="13.0", said="driver too old"), (L4,), "", "warning", "(driver too old): NVIDIA L4, 550.54"),
        (Torch(cuda="13.0"), (L4,), "CUDA_VISIBLE_DEVICES=-1", "ok", "hidden by CUDA_VISIBLE_DEVICES=-1"),
        (Torch(cuda="13.0", gpus=(FREE,)), (L4,), "", "ok", "driver 550.54, CUDA 13.0, 23.0 GB free of 24.0 GB"),
        (
            Torch(cuda="13.0", gpus=(Gpu(name="L4", free_bytes=GB, total_bytes=24 * GB),)),
            (L4,),
            "",
            "warning",
            "1.0 GB",
        ),
        (
            Torch(cuda="13.0", gpus=(Gpu(name="K80", free_bytes=0, total_bytes=0, error="no kernel image"),)),
            (L4,),
            "",
            "wrong",
            "a convolution fails (no kernel image)",
        ),
    ],
)
def test_a_gpu_that_would_stay_idle_is_told(torch, driver, hidden_by, status, words):
    finding = only(judge_gpus(torch, driver, hidden_by=hidden_by))
    assert finding.status == status and words in finding.found


def test_gpus_are_known_from_the_driver_where_torch_knows_none(tmp_path, monkeypatch):
    program = tmp_path / "nvidia-smi"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpu._ask_driver() == ()
    program.write_text("#!/bin/sh\necho 'NVIDIA L4, 550.54'\necho 'NVIDIA L4, 550.54'\n")
    program.chmod(0o755)
    assert gpu._ask_driver() == (L4, L4)
    program.write_text("#!/bin/sh\necho 'NVIDIA-SMI has failed'; exit 9\n")
    assert gpu._ask_driver() == ()


# What is read


def test_images_on_disk(archive, tmp_path):
    root = archive()
    found = told(look_at_input(str(root), with_store=True))
    assert statuses(found.values()) == {f"--input {root} list": "ok", f"--input {root} read": "ok"}
    assert f"the first image is {root}/glioma/0.jpg" in found[f"--input {root} list"].found
    assert "JPEG of 40 x 48" in found[f"--input {root} read"].found
    (tmp_path / "list.csv").write_text("path\narchive/notumor/2.jpg\n")
    listed = told(look_at_input(f"{tmp_path}/list.csv", with_store=True))
    assert "notumor/2.jpg" in listed[f"--input {tmp_path}/list.csv list"].found


def test_what_is_no_image(tmp_path):
    nothing = only(look_at_input(f"{tmp_path}/nothing", with_store=True))
    assert (nothing.status, nothing.found) == ("wrong", "No such file or directory")
    (tmp_path / "a.txt").write_text("x")
    assert only(look_at_input(str(tmp_path), with_store=True)).found == "no image among 1 file"
    (tmp_path / "b.jpg").write_bytes(b"\0" * 128 + b"DICM")
    dicom = told(look_at_input(str(tmp_path), with_store=True))[f"--input {tmp_path} read"]
    assert dicom.status == "warning" and "DICOM" in dicom.found
    with pytest.raises(BadRequest, match="not served"):
        list(look_at_input("gs://bucket/x", with_store=True))


def test_a_long_way_to_the_first_image_is_not_walked_to_its_end(tmp_path):
    for number in range(1001):
        (tmp_path / f"{number:04}.txt").touch()
    finding = only(look_at_input(str(tmp_path), with_store=True))
    assert finding.status == "warning" and finding.found == "no image among its first 1,000 files"


def test_training_data_needs_class_folders(archive, tmp_path):
    root = archive()
    classes = told(look_at_data(str(root), with_store=True))[f"--data {root} classes"]
    assert classes.found == "4 folders: glioma, meningioma, notumor, pituitary"
    flat = tmp_path / "flat"
    flat.mkdir()
    (flat / "a.jpg").write_bytes(image_bytes())
    assert told(look_at_data(str(flat), with_store=True))[f"--data {flat} classes"].status == "wrong"


def test_a_model_is_read_whole(bundle, tmp_path):
    finding = only(look_at_model(bundle.uri, with_store=True))
    assert finding.status == "ok"
    assert bundle.fingerprint in finding.found and "glioma, meningioma, notumor, pituitary" in finding.found
    damaged = untrained(tmp_path / "damaged")
    weights = tmp_path / "damaged" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    finding = only(attempted(f"--model {damaged.uri}", lambda: look_at_model(damaged.uri, with_store=True)))
    assert finding.found.startswith("the files do not match the fingerprint")


# Outputs on disk


def state(output, *, inputs=(), model=None):
    name = f"--output {output}"
    return told(attempted(name, lambda: check_state(str(output), inputs=inputs, model=model)))[name]


def write_run(output, **values):
    output.mkdir(exist_ok=True)
    described = {"schema_version": SCHEMA_VERSION, "fingerprint": "f" * 32, "inputs": ["/in"]} | values
    (output / "run.json").write_text(json.dumps(described))


def test_whose_an_output_is(tmp_path, bundle):
    output = tmp_path / "run"
    assert state(output).found == "free for a new run"
    output.mkdir()
    assert state(output).status == "ok"
    (output / "thesis.tex").touch()
    assert state(output).found == "holds other files and no run: thesis.tex"
    write_run(output)
    assert state(output).found == f"holds a run of model {'f' * 32}, not finished"
    (output / "_SUCCESS").touch()
    assert state(output, inputs=["/in"]).found.endswith("published")
    assert "--rescore" in state(output, model=bundle.uri).remedy
    assert state(output, model="/no/such/model").status == "ok"  # its own check says so
    assert "--input /in too" in state(output, inputs=["/other"]).found
    write_run(output, schema_version=0)
    assert "format 0" in state(output).found
    assert state(tmp_path / "run" / "run.json").found == "is a file"


def test_an_output_that_is_held_names_its_holder(tmp_path):
    with hold(str(tmp_path / "run"), purpose="score", say=print):
        finding = state(tmp_path / "run")
    assert finding.status == "wrong"
    assert "is held by another run: score on" in finding.found and finding.remedy == "wait for it to end"
    assert state(tmp_path / "run").status == "ok"


def test_a_run_on_another_machine_shows_by_its_status(tmp_path):
    output = tmp_path / "run"
    write_run(output)
    status = {"phase": "scoring", "holder": {"host": "elsewhere", "pid": 7}}

    def seen(ago_s):
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(time.time() - ago_s))
        (output / "status.json").write_text(json.dumps(status | {"last_progress": stamp}))
        return told(check_state(str(output), inputs=(), model=None)).get(f"--output {output} status")

    assert "by process 7 on elsewhere" in seen(5).found
    assert seen(5000) is None
    (output / "status.json").write_text("{")
    assert f"--output {output} status" not in told(check_state(str(output), inputs=(), model=None))


def test_an_output_is_tried_where_it_will_be_and_nothing_stays(tmp_path):
    finding = only(check_disk(f"{tmp_path}/a/b/run"))
    assert finding.status == "ok" and f"{tmp_path} can be written to" in finding.found
    assert os.listdir(tmp_path) == []
    (tmp_path / "file").touch()
    assert only(check_disk(f"{tmp_path}/file/run")).found == f"{tmp_path}/file is a file"


def test_a_read_only_disk_is_told_before_anything_is_scored(tmp_path, monkeypatch):
    def refuse(path, *_, **__):
        raise OSError(30, "Read-only file system", path)

    monkeypatch.setattr("os.makedirs", refuse)  # for root, permissions of a folder refuse nothing
    finding = only(check_disk(f"{tmp_path}/run"))
    assert (finding.status, finding.found) == ("wrong", f"{tmp_path} cannot be written to (Read-only file system)")


@pytest.mark.parametrize(
    ("disk", "status", "words"),
    [
        ({"kind": "nfs4"}, "ok", "nfs4, 50.0 GB free"),
        ({"kind": "tmpfs"}, "warning", "lost when this machine starts anew"),
        ({"kind": "fuse.s3fs"}, "warning", "a bucket shown as a folder"),
        ({"free_bytes": GB}, "warning", "1.0 GB free"),
        ({"free_bytes": 10**6}, "wrong", "1.0 MB free"),
        ({"free_files": 3}, "wrong", "room for 3 more files"),
        ({"free_files": 0}, "wrong", "room for 0 more files"),
        ({"free_files": None}, "ok", "50.0 GB free"),
    ],
)
def test_what_disk_an_output_lies_on(tmp_path, disk, status, words):
    shown = Disk(**{"kind": "ext4", "free_bytes": 50 * GB, "total_bytes": 60 * GB, "free_files": 10**6} | disk)
    finding = only(check_disk(str(tmp_path), look=lambda _: shown))
    assert finding.status == status and words in finding.found


def test_a_file_system_on_which_two_runs_can_hold_one_output(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "claim", lambda uri, *_: os.makedirs(uri, exist_ok=True) or True)
    assert "lets two runs believe" in only(check_disk(str(tmp_path))).found
    monkeypatch.undo()
    monkeypatch.setattr(storage, "revoke", lambda _: None)
    assert only(check_disk(str(tmp_path))).status == "wrong"


def test_a_model_may_be_trained_into_an_output(tmp_path, bundle):
    def found(uri):
        how = {"inputs": (), "model": None, "training": True, "with_store": True}
        return told(look_at_output(str(uri), **how))[f"--output {uri}"].found

    assert found(tmp_path / "new") == "holds no finished model"
    assert "holds a trained model" in found(bundle.uri)


# Buckets


def output_in(server):
    uri = f"{server.root}/run"
    found = told(look_at_output(uri, inputs=(), model=None, training=False, with_store=True))
    return {check.removeprefix(f"--output {uri}").strip(): finding for check, finding in found.items()}


def test_every_permission_that_a_run_needs_is_used_once_and_nothing_stays(strict_s3):
    found = output_in(strict_s3)
    store, clock = f"{strict_s3.root} store", f"{strict_s3.root} clock"
    assert list(found) == [store, clock, "list", "put", "get", "delete", "conditional put", ""]
    assert set(statuses(found.values()).values()) == {"ok"}
    assert found[store].found == f"{strict_s3.proxy.endpoint}, region us-east-1, credentials by env"
    assert "If-None-Match and If-Match are honoured" in found["conditional put"].found
    assert strict_s3.there() == []


@pytest.mark.parametrize(
    ("methods", "key", "step", "action"),
    [
        (("GET",), "list-type=2", "list", "s3:ListBucket"),
        (("PUT",), "", "put", "s3:PutObject"),
        (("GET",), "brainray-doctor", "get", "s3:GetObject"),
        (("DELETE",), "", "delete", "s3:DeleteObject"),
    ],
)
def test_a_missing_permission_is_named_by_its_action(strict_s3, methods, key, step, action):
    strict_s3.proxy.add("403 AccessDenied", methods=methods, key=key)
    found = output_in(strict_s3)
    wrongs = {name: finding for name, finding in found.items() if finding.status == "wrong"}
    assert list(wrongs) == [step]
    assert wrongs[step].found == "access denied"
    assert wrongs[step].remedy == f"the credentials in use need {action} here (AccessDenied)"


def test_an_input_that_may_be_listed_and_not_read(strict_s3):
    image = strict_s3.put("in/a.jpg", image_bytes())
    uri = f"{strict_s3.root}/in"
    readable = told(look_at_input(uri, with_store=False))
    assert f"the first image is {image}" in readable[f"--input {uri} list"].found
    assert "JPEG of 40 x 48" in readable[f"--input {uri} get"].found
    strict_s3.proxy.add("403 AccessDenied", key=r"in/a\.jpg$")
    denied = told(look_at_input(uri, with_store=False))[f"--input {uri} get"]
    assert denied.status == "wrong" and "s3:GetObject" in denied.remedy
    strict_s3.proxy.add("403 AccessDenied", key="list-type")
    denied = only(look_at_input(uri, with_store=False))
    assert denied.check == f"--input {uri} list" and "s3:ListBucket" in denied.remedy


def test_a_bucket_that_is_not_there(strict_s3):
    found = only(look_at_input("s3://no-such-bucket-anywhere/in", with_store=False))
    assert found.found.startswith("there is no bucket no-such-bucket-anywhere at")
    empty = only(look_at_input(f"{strict_s3.root}/none", with_store=False))
    assert (empty.status, empty.found) == ("wrong", "there is no such object or folder")


def test_a_store_without_conditional_writes_is_a_risk_and_no_obstacle(fast_s3):
    found = output_in(fast_s3)["conditional put"]
    assert found.status == "warning"
    assert "ignores If-None-Match and If-Match" in found.found and "at the same time" in found.remedy
    assert fast_s3.there() == []


@pytest.mark.parametrize(
    ("ahead_s", "status", "words"),
    [
        (0, "ok", "within"),
        (100, "warning", "s ahead of the store's"),
        (-100, "warning", "s behind the store's"),
        (1000, "wrong", "s ahead of the store's"),
    ],
)
def test_a_clock_that_differs_from_the_stores(strict_s3, ahead_s, status, words):
    date = formatdate(time.time() - ahead_s, usegmt=True)
    strict_s3.proxy.add("403 RequestTimeTooSkewed", methods=("HEAD",), headers=(("Date", date),))
    clock = told(check_service(strict_s3.root))[f"{strict_s3.root} clock"]
    assert clock.status == status and words in clock.found


def test_a_token_that_will_run_out_during_a_long_run(strict_s3, monkeypatch):
    monkeypatch.setenv("AWS_SESSION_TOKEN", "token-of-a-session")
    use = told(check_service(strict_s3.root))[f"{strict_s3.root} store"]
    assert use.status == "warning" and "nobody renews" in use.found
    assert "token-of-a-session" not in str(use)


def test_a_store_that_cannot_be_reached_is_tried_once(strict_s3, monkeypatch):
    use_server(monkeypatch, f"http://user:password-of-it@127.0.0.1:{free_port()}")
    sent: list[str] = []
    send = URLLib3Session.send
    monkeypatch.setattr(
        URLLib3Session, "send", lambda self, request: (sent.append(request.url), send(self, request))[1]
    )
    finding = only(attempted("--input s3://bucket/in", lambda: look_at_input("s3://bucket/in", with_store=True)))
    assert len(sent) == 1
    assert "cannot be reached" in finding.found and "AWS_ENDPOINT_URL" in finding.remedy
    assert "password-of-it" not in str(finding)


# Clusters


def node(name="b", *, cpus=8.0, gpus=0.0, memory=64 * GB):
    return ClusterNode(node_id=name, name=name, cpus=cpus, gpus=gpus, memory_bytes=memory, objects_bytes=GB)


HERE = {
    "python": "3.11.7",
    "ray": "2.60.0",
    "brainray": "digest",
    "packages": {"torch": "2.14.1", "numpy": "2.4"},
    "bf16": True,
    "temporary_free_bytes": 50 * GB,
    "temporary_folder": "/tmp",
    "time_s": 1000.0,
}


def judged(*, answered_s=1001.0, described=None, **theirs):
    answer = NodeAnswer(facts=HERE | theirs, asked_s=999.0, answered_s=answered_s)
    found = told(judge_node(described or node(), answer, HERE))
    return {check.removeprefix("node b").strip(): finding for check, finding in found.items()}


def test_a_node_that_is_as_this_machine():
    assert list(judged()) == [""]
    assert judged()[""].found.startswith("8 processors, 0 GPUs, 64.0 GB for workers, Python 3.11.7, Ray 2.60.0, clock")


@pytest.mark.parametrize(
    ("theirs", "check", "status", "words"),
    [
        ({"python": "3.12.1"}, "python", "wrong", "3.12.1 there, 3.11.7 here"),
        ({"ray": "2.59.0"}, "ray", "wrong", "2.59.0 there, 2.60.0 here"),
        ({"brainray": None}, "brainray", "wrong", "is missing"),
        ({"brainray": "other"}, "brainray", "wrong", "another version"),
        ({"packages": {"torch": None, "numpy": "2.4"}}, "packages", "wrong", "torch missing"),
        ({"packages": {"torch": "2.10", "numpy": "2.4"}}, "packages", "warning", "torch 2.10 there, 2.14.1 here"),
        ({"time_s": 1200.0}, "clock", "warning", "199 s ahead of this machine's"),
        ({"time_s": 500.0}, "clock", "wrong", "499 s behind this machine's"),
        ({"temporary_free_bytes": GB}, "temporary folder", "warning", "/tmp has 1.0 GB free"),
        ({"described": node(memory=4 * GB)}, "memory", "warning", "room for 3 of 8 scoring processes"),
    ],
)
def test_a_node_that_differs_is_told_with_the_difference(theirs, check, status, words):
    found = judged(**theirs)
    assert list(found) == ["", check]
    assert found[check].status == status and words in found[check].found


def test_a_slow_answer_is_not_taken_for_a_wrong_clock():
    assert "clock" not in judged(answered_s=1500.0)


def test_a_cluster_of_a_head_alone_cannot_score_yet():
    head = only(judge_cluster([node("head", cpus=0.0)], "head:6379"))
    assert head.status == "warning" and "no node has processors" in head.found
    both = only(judge_cluster([node("head", cpus=0.0), node()], "head:6379"))
    assert "2 nodes at head:6379: 8 processors" in both.found and "8 processes would score" in both.found


def test_nodes_that_would_round_otherwise_are_told():
    mixed = only(judge_precision([(node("old"), False), (node("new"), True)]))
    assert "--precision fp32" in mixed.remedy and mixed.found.count("old") == 1
    assert list(judge_precision([(node("head", cpus=0.0), False), (node("new"), True)])) == []
    assert list(judge_precision([(node("gpu", gpus=1.0), False), (node("new"), True)])) == []  # only GPUs predict


def test_a_node_without_brainray_can_say_so():
    """What asks it must not need the package itself."""
    cloudpickle.register_pickle_by_value(doctor_nodes)
    sent = cloudpickle.dumps(facts)
    cloudpickle.unregister_pickle_by_value(doctor_nodes)
    script = (
        f"import sys; sys.path.append({os.path.dirname(os.path.dirname(ray.__file__))!r})\n"
        "import json, pickle; print(json.dumps(pickle.load(sys.stdin.buffer)([('other', 'ray'), ('no-such',)])))"
    )
    # -S: packages are where they are, and this one, which is installed by a link to its folder, is not.
    done = subprocess.run([sys.executable, "-I", "-S", "-c", script], input=sent, capture_output=True, timeout=250)
    told_by_it = json.loads(done.stdout)
    assert told_by_it["packages"] == {"other": ray.__version__, "no-such": None}
    assert told_by_it["brainray"] is None
    assert set(told_by_it) == set(HERE)


def test_a_node_that_sees_other_files_or_other_buckets(strict_s3, tmp_path):
    from brainray.cluster.doctor import reach

    (tmp_path / "there").mkdir()
    sees = SharedPaths(output="", mark=None, seen=(NamedPath("--input", f"{tmp_path}/there"),))
    blind = SharedPaths(output="", mark=None, seen=(NamedPath("--input", f"{tmp_path}/gone"),))
    far = [("--input", strict_s3.put("in/a.jpg"))]
    assert reach(sees, far, f"{strict_s3.root}/run") == {"problems": []}
    strict_s3.proxy.add("403 AccessDenied", methods=("GET", "PUT"))
    unseen, unread, denied = reach(blind, far, f"{strict_s3.root}/run")["problems"]
    assert unseen[0] == f"--input {tmp_path}/gone is not the same there as here" and "mount" in unseen[1]
    assert unread[0].startswith("--input s3://") and "s3:GetObject" in unread[1]
    assert denied[0].startswith("--output s3://") and "s3:PutObject" in denied[1]
    assert SECRET_KEY not in str((unread, denied))


def test_each_node_of_a_real_cluster_is_asked(local_ray, archive, bundle, tmp_path):
    from brainray.cluster.doctor import look_at_cluster

    reads = (("--input", str(archive())), ("--model", bundle.uri))
    found = told(look_at_cluster(NodeQuestions(cluster=True, reads=reads, output=f"{tmp_path}/new/run"), "here"))
    assert set(statuses(found.values()).values()) <= {"ok", "warning"}
    cluster, *of_node = found.values()
    assert cluster.found.startswith("1 node at here: ")
    paths = next(finding for finding in of_node if finding.check.endswith("paths"))
    assert paths.found == "sees and reaches what this machine does"
    assert sorted(os.listdir(tmp_path)) == ["archive"]


def test_a_node_that_does_not_answer_or_fails_is_told_by_its_name(local_ray):
    from brainray.cluster import doctor

    nodes = [doctor._described(node) for node in ray.nodes() if node["Alive"]]
    ((asked, late),) = doctor._ask(nodes, facts, (), answer_s=0.0)
    assert late.check == f"node {asked.name}" and "did not start a task within 0 s" in late.found
    ((_, failed),) = doctor._ask(nodes, facts, 7)  # which are no names of packages
    assert failed.status == "wrong" and "a task failed there (TypeError" in failed.found


def _refused(_, raised):
    os.write(2, b"W gcs_client.cc:210: Unauthenticated: InvalidAuthToken: token-that-was-shown")
    time.sleep(60)


def _of_another_version(_, raised):
    raised.append(RuntimeError("Version mismatch: The cluster was started with:\n    Ray: 2.9.0"))


@pytest.mark.parametrize(
    ("attempt", "found", "remedy"),
    [
        (_refused, "h:1 takes nobody without its token", "RAY_AUTH_MODE=token"),
        (_of_another_version, "The cluster was started with: Ray: 2.9.0", "install the Python and the Ray"),
        (lambda *_: time.sleep(60), "h:1 did not answer as Ray within 5 s", "ray status"),
    ],
)
def test_a_cluster_that_takes_nobody_says_why(monkeypatch, attempt, found, remedy):
    from brainray.cluster import doctor

    monkeypatch.setattr(doctor, "_try_to_connect", attempt)
    monkeypatch.setenv("RAY_BACKEND_LOG_LEVEL", "fatal")
    finding = doctor._connect("h:1", timeout_s=5)
    assert finding.status == "wrong" and found in finding.found and remedy in finding.remedy
    assert "token-that-was-shown" not in str(finding)


def test_a_cluster_that_is_gone_is_told_at_once(monkeypatch):
    from brainray.cluster.doctor import look_at_ray

    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{free_port()}")
    finding = only(look_at_ray(NodeQuestions(cluster=None).to_json()))
    assert "nothing answers there" in finding.found and finding.remedy == "start that cluster or unset it"


def test_what_a_ray_started_here_will_find(monkeypatch, tmp_path):
    from brainray.cluster import doctor

    monkeypatch.setattr("brainray.cluster.ray_internals.processors", lambda: 8)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    taken = told(doctor.look_here(machine(usable=2.0)))
    assert taken["ray"].status == "warning" and "of which 2 may be used" in taken["ray"].found
    assert told(doctor.look_here(machine(usable=8.0)))["ray"].status == "ok"
    monkeypatch.setenv("RAY_TMPDIR", "/tmp/" + "long" * 20)
    assert "too long for the sockets" in told(doctor.look_here(machine()))["ray session folder"].found
    small = only(check_objects(machine(available=30 * GB), 64 * 10**6, "/tmp"))
    assert small.status == "warning" and "--shm-size=10g" in small.remedy
    assert only(check_objects(machine(available=30 * GB), 20 * GB, "/tmp")).status == "ok"


# The command


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
        monkeypatch.setattr(cli_doctor, "_checks", lambda *_, **__: [Check(name="x", look=lambda: findings)])

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


def test_nodes_whose_code_differs_in_a_folder_of_the_package_are_told_apart(tmp_path, monkeypatch):
    package = tmp_path / "brainray"
    (package / "imaging").mkdir(parents=True)
    for name in ("__init__.py", "imaging/__init__.py", "imaging/decode.py"):
        (package / name).write_text("")
    there = importlib.util.spec_from_file_location("brainray", package / "__init__.py")
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: there)
    before = doctor_nodes.facts(())["brainray"]
    (package / "imaging" / "decode.py").write_text("ANOTHER = 1")
    assert doctor_nodes.facts(())["brainray"] != before
