"""What `brainray doctor` says of this machine: its limits, packages, memory, room."""

import ctypes
import os
import re
import subprocess
import sys
import tempfile

import pytest
from support.findings import GB, machine, only

from brainray.doctor import machine as doctor_machine
from brainray.doctor.machine import check_memory, check_packages, check_processors, check_room
from brainray.machine.hardware import Disk, has_gpu, read_disk, read_machine


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
from brainray.machine.hardware import keep_freed_memory
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


ARENAS = """
import ctypes, threading
from brainray.machine.hardware import share_freed_memory
share_freed_memory()
libc, all_there = ctypes.CDLL(None), threading.Barrier(8)
def allocate():
    all_there.wait()
    libc.malloc(4096)
    all_there.wait()
threads = [threading.Thread(target=allocate) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
libc.fdopen.restype = ctypes.c_void_p
libc.malloc_info(0, ctypes.c_void_p(libc.fdopen(1, b"w")))
libc.fflush(None)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_info"), reason="another C library than glibc")
def test_threads_of_the_driver_share_what_they_free():
    """Else its peak grows with the archive: each thread keeps what it has freed."""
    done = subprocess.run([sys.executable, "-c", ARENAS], capture_output=True, text=True, timeout=250, check=True)
    assert 1 <= done.stdout.count("<heap nr") <= 2, "arenas"


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


@pytest.mark.parametrize("device", ["nvidia0", "kfd"])
def test_a_gpu_is_seen_without_its_library(kernel, device):
    assert not has_gpu(kernel(sys={"dev/nvidiactl": ""}))
    assert has_gpu(kernel(sys={f"dev/{device}": ""}))


def test_the_kind_of_disk_is_that_of_the_innermost_mount(kernel, tmp_path):
    inner = tmp_path / "with space" / "in"
    inner.mkdir(parents=True)
    escaped = str(tmp_path / "with space").replace(" ", r"\040")
    mounts = f"1 0 8:1 / / rw - ext4 /dev/a rw\n2 1 0:9 / {escaped} rw shared:1 - nfs4 host:/ rw\n"
    root = kernel(sys={"proc/self/mountinfo": mounts})
    assert read_disk(str(inner), root=root).kind == "nfs4"
    assert read_disk(str(tmp_path), root=root).kind == "ext4"
    assert read_disk(str(tmp_path)).free_bytes > 0


def test_processors():
    amx = only(check_processors(machine(features=("avx2", "amx_tile")), "x86_64"))
    assert (amx.status, amx.found) == ("ok", "4 usable of 8, with AMX: scores in bf16")
    assert "AVX512-BF16" in only(check_processors(machine(features=("avx2", "avx512_bf16")), "x86_64")).found
    assert "fp32" in only(check_processors(machine(), "x86_64")).found
    assert only(check_processors(machine(features=("sse2",)), "x86_64")).status == "warning"
    assert only(check_processors(machine(features=("asimd",)), "aarch64")).status == "ok"
    assert only(check_processors(machine(usable=0.5))).status == "warning", "a run takes it for one slow processor"


def test_memory_is_held_against_the_processes_that_will_run():
    assert only(check_memory(machine())).status == "ok"
    short = only(check_memory(machine(available=5 * GB)))
    assert short.status == "warning" and "room for 2 of 4 scoring processes" in short.found
    assert only(check_memory(machine(available=1.5 * GB))).status == "warning", "a run goes well with it"
    tiny = only(check_memory(machine(available=GB // 2)))
    assert tiny.status == "wrong" and "500.0 MB too little for Ray and one worker" in tiny.found


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
