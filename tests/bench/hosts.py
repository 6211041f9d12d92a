"""A cluster of several hosts on one machine: train and score through `brainray submit`, cut a host off, judge the rest.

    sudo .venv/bin/python tests/bench/hosts.py [--images 600] [--keep FOLDER]

Four hosts on a switch: a desk, where commands are given and moto serves S3; a head that runs no work; two workers with
a processor each. Real: that each has its own address and links, hostname, process ids, /tmp and /dev/shm; tokens; Ray's
own ports and time limits; packets that vanish. Not real: all share one kernel, clock, memory and processors, and one
file system outside /tmp, which holds the installed package.

Everything lies in namespaces below one process and ends with it, however that ends; the machine's own network is not
touched. Needs root, and `ip`, `unshare`, `nsenter`, `setpriv`. Ends with exit code 1 at the first thing that is wrong.
"""

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support.cluster.heads import BIN, ENVIRONMENT
from support.scoring.runs import contents
from support.storage.s3_servers import UNSET, plain_client, s3_environment

from brainray.scoring.run_folder import verify_run

ADDRESSES = {"desk": "10.77.0.1", "head": "10.77.0.2", "worker1": "10.77.0.3", "worker2": "10.77.0.4"}
CUT, OTHER = ADDRESSES["worker2"], ADDRESSES["worker1"]
ENDPOINT = f"http://{ADDRESSES['desk']}:5000"
DASHBOARD = f"http://{ADDRESSES['head']}:8265"
BUCKET = "bench"
ROOT = f"s3://{BUCKET}"
TOOLS = ("ip", "unshare", "nsenter", "setpriv", "mount", "hostname")
NAMESPACES = ("--net", "--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child", "--mount-proc")
# The shell stays as the host's first process, for that must reap what others leave behind.
HOST = """
set -e
hostname "$0"
mount --bind "$1/hosts" /etc/hosts
mount --bind "$1/$0" /tmp
mount -t tmpfs -o size=2g shm /dev/shm
echo up
sleep infinity & wait
"""
WAIT_S = 300.0
ZOMBIE_S = 30.0  # how long a host that came back is watched


class Host:
    """A set of namespaces with a link to the switch."""

    def __init__(self, name: str, scratch: Path) -> None:
        self.name, self.address = name, ADDRESSES[name]
        self._scratch = scratch
        (scratch / name).mkdir()
        command = ["unshare", *NAMESPACES, "sh", "-c", HOST, name, str(scratch)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None and self._process.stdout.readline() == "up\n", name
        self._pid = psutil.Process(self._process.pid).children()[0].pid
        ip(f"link add {name} type veth peer name eth0 netns {self._pid}")
        ip(f"link set {name} master switch up")
        self.inside("ip", "link", "set", "lo", "up").wait()
        self.inside("ip", "addr", "add", f"{self.address}/24", "dev", "eth0").wait()
        self.inside("ip", "link", "set", "eth0", "up").wait()

    def inside(self, *command: object) -> subprocess.Popen:
        """Start a command on the host."""
        with (self._scratch / f"{self.name}.log").open("ab") as log:
            return subprocess.Popen(
                ["nsenter", "--target", str(self._pid), "--mount", "--uts", "--ipc", "--net", "--pid"]
                + [str(word) for word in command],
                env=environment(),
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def start_ray(self, *options: str) -> None:
        common = [f"--node-ip-address={self.address}", "--object-store-memory=1000000000", "--disable-usage-stats"]
        self.inside(BIN / "ray", "start", *options, *common, "--block")

    def cut_off(self) -> None:
        ip(f"link set {self.name} down")

    def connect(self) -> None:
        ip(f"link set {self.name} up")


class Requests:
    """What the S3 server was asked, by whom, as its log says."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._since = 0

    def forget(self) -> None:
        """Let what was asked so far count no more."""
        self._since = self._log.stat().st_size

    def _shards(self, key: str) -> dict[str, set[str]]:
        found = defaultdict(set)
        text = self._log.read_bytes()[self._since :].decode()
        for address, shard in re.findall(rf'^(\S+) - - \[.*?\] "PUT /{BUCKET}/{key}[ ?]', text, re.M):
            found[address].add(shard)
        return found

    def begun(self) -> dict[str, set[str]]:
        """Shards by the address of who began them."""
        return self._shards(r"run/\.lease/\d+/attempt-(\w+)-\d+")

    def parts(self) -> dict[str, set[str]]:
        """Shards by the address of who wrote their parts."""
        return self._shards(r"run/predictions/part-(\w+)\.parquet")


def environment() -> dict[str, str]:
    kept = {name: value for name, value in ENVIRONMENT.items() if name not in UNSET}
    return kept | s3_environment(ENDPOINT) | {"HOME": "/tmp", "BRAINRAY_LOG_FORMAT": "text"}


def ip(words: str) -> None:
    subprocess.run(["ip", *words.split()], check=True, timeout=30)


@contextmanager
def step(name: str) -> Iterator[None]:
    began = time.monotonic()
    print(f"{name:<72}", end="", flush=True)
    yield
    print(f"{time.monotonic() - began:7.1f} s", flush=True)


def until(there, what: str, *, timeout_s: float = 90) -> None:
    deadline = time.monotonic() + timeout_s
    while not there():
        check(time.monotonic() < deadline, f"not within {timeout_s:g} s: {what}")
        time.sleep(0.02)


def check(fine: object, what: str) -> None:
    if not fine:
        raise SystemExit(f"\nWRONG: {what}")


class Desk:
    """Commands as a user gives them, each with its log in the scratch folder."""

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch

    def start(self, name: str, *words: object) -> subprocess.Popen:
        with (self._scratch / f"{name}.log").open("wb") as log:
            command = [BIN / "brainray", *map(str, words)]
            return subprocess.Popen(
                command, cwd=self._scratch, env=environment(), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def said(self, name: str) -> str:
        return (self._scratch / f"{name}.log").read_text()

    def finish(self, name: str, process: subprocess.Popen, *, code: int = 0) -> None:
        found = process.wait(WAIT_S)
        check(found == code, f"{name} ended with exit code {found} instead of {code}:\n{self.said(name)}")

    def run(self, name: str, *words: object, code: int = 0) -> None:
        self.finish(name, self.start(name, *words), code=code)


def start_network(scratch: Path) -> dict[str, Host]:
    lines = [f"{address} {name}" for name, address in ADDRESSES.items()]
    (scratch / "hosts").write_text("\n".join(["127.0.0.1 localhost", *lines, ""]))
    subprocess.run(["hostname", "desk"], check=True)
    for words in (
        "link set lo up",
        "link add switch type bridge",
        f"addr add {ADDRESSES['desk']}/24 dev switch",
        "link set switch up",
    ):
        ip(words)
    return {name: Host(name, scratch) for name in ADDRESSES if name != "desk"}


def start_s3(scratch: Path) -> Requests:
    log = scratch / "s3.log"
    with log.open("wb") as out:
        subprocess.Popen([BIN / "moto_server", "-H", ADDRESSES["desk"], "-p", "5000"], stdout=out, stderr=out)

    def answers() -> bool:
        try:
            plain_client(ENDPOINT).create_bucket(Bucket=BUCKET)
        except Exception:  # noqa: BLE001  not yet
            return False
        return True

    until(answers, "moto answers")
    return Requests(log)


def start_cluster(hosts: dict[str, Host]) -> None:
    hosts["head"].start_ray("--head", "--port=6379", "--dashboard-host=0.0.0.0", "--num-cpus=0")
    for name in ("worker1", "worker2"):
        hosts[name].start_ray(f"--address={ADDRESSES['head']}:6379", "--num-cpus=1")
    until(lambda: nodes_alive() == 3, "three nodes are alive")


def nodes_alive() -> int:
    """As the head knows it."""
    command = [BIN / "ray", "list", "nodes", "--address", DASHBOARD, "--filter", "state=ALIVE"]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=60, check=False)
    found = re.search(r"^Total: (\d+)", done.stdout, re.M)
    return int(found[1]) if found else 0


def upload(folder: Path, prefix: str) -> None:
    for path in sorted(folder.rglob("*.*")):
        key = f"{prefix}/{path.relative_to(folder)}"
        plain_client(ENDPOINT).put_object(Bucket=BUCKET, Key=key, Body=path.read_bytes())


def run_steps(scratch: Path, images: int) -> None:
    desk = Desk(scratch)
    with step("hosts, links, addresses"):
        hosts = start_network(scratch)
    with step("an S3 server"):
        requests = start_s3(scratch)
    with step("Ray on three of them"):
        start_cluster(hosts)
    with step(f"{images} images drawn and uploaded"):
        desk.run("sample", "sample", "--output", scratch / "in", "--images", images)
        upload(scratch / "in", "in")
    submit = ("submit", "--address", DASHBOARD)
    with step("submit train"):
        where = ("--data", f"{ROOT}/in", "--output", f"{ROOT}/model")
        desk.run("train", *submit, "train", *where, "--epochs", 1, "--image-px", 32, "--workers", 1)
    score = (*submit, "score", "--input", f"{ROOT}/in", "--model", f"{ROOT}/model", "--shard-size", 12)
    with step("submit score, until both workers have written parts"):
        requests.forget()
        process = desk.start("score", *score, "--output", f"{ROOT}/run")
        until(lambda: process.poll() is not None or is_amid(requests), "both workers have written parts")
        check(process.poll() is None, f"it is over already:\n{desk.said('score')}")
    with step("worker2 is cut off; the run goes on to its end"):
        hosts["worker2"].cut_off()
        desk.finish("score", process)
    with step("each image has one row, and worker1 did what worker2 had begun"):
        check_account(images)
        print(f"\n  {check_shares(requests)}\n{'':<72}", end="")
    with step(f"worker2 is back; for {ZOMBIE_S:.0f} s it changes nothing"):
        before = etags()
        hosts["worker2"].connect()
        time.sleep(ZOMBIE_S)
        check(etags() == before, f"what is published has changed: {set(etags().items()) ^ set(before.items())}")
        check_account(images)
        desk.run("report", "report", f"{ROOT}/run", "--verify")
    with step("an output that is on no other host is refused"):
        desk.run("refused", *score, "--output", "/tmp/run", code=2)
        check("--output /tmp/run is not the same on node worker" in desk.said("refused"), desk.said("refused"))


def is_amid(requests: Requests) -> bool:
    """Whether both workers have written parts, and the one to be cut off has more in hand."""
    written, begun = requests.parts(), requests.begun()
    return all(len(written[address]) >= 2 for address in (CUT, OTHER)) and bool(begun[CUT] - written[CUT])


def check_account(images: int) -> None:
    account = verify_run(f"{ROOT}/run")
    check((account.rows, tuple(account.problems)) == (images, ()), f"the account is {account}")
    check(len(contents(f"{ROOT}/run")) == images, "an image has two rows")


def check_shares(requests: Requests) -> str:
    """Every shard that the host had begun and not written was written by the other."""
    written = requests.parts()
    lost = requests.begun()[CUT] - written[CUT]
    check(lost, "worker2 had nothing in hand when it was cut off; run this again")
    check(lost <= written[OTHER], f"begun on worker2 and written by nobody else: {lost - written[OTHER]}")
    check(all(written[CUT] | written[OTHER] >= shards for shards in written.values()), "parts that no worker wrote")
    return f"parts: worker1 {len(written[OTHER])}, worker2 {len(written[CUT])}; {len(lost)} begun there and done again"


def etags() -> dict[str, str]:
    """Everything in the output but the lease."""
    pages = plain_client(ENDPOINT).get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix="run/")
    found = [entry for page in pages for entry in page.get("Contents", []) if "/.lease/" not in entry["Key"]]
    return {entry["Key"]: entry["ETag"] for entry in found}


def missing() -> str | None:
    if sys.platform != "linux" or os.geteuid() != 0:
        return "root on Linux"
    if absent := [tool for tool in TOOLS if shutil.which(tool) is None]:
        return f"{', '.join(absent)} (iproute2 and util-linux)"
    if not (BIN / "moto_server").exists():
        return "moto: pip install 'moto[server]'"
    if any(Path(path).resolve().is_relative_to("/tmp") for path in (sys.prefix, __file__)):
        return "an installation outside /tmp, for each host has a /tmp of its own"
    made = subprocess.run(["unshare", *NAMESPACES, "ip", "link", "add", "x", "type", "bridge"], capture_output=True)
    return f"namespaces and a bridge: {made.stderr.decode().strip()}" if made.returncode else None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=600)
    parser.add_argument(
        "--keep", type=Path, metavar="FOLDER", help="leave all logs and files of the hosts in this new folder"
    )
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.inside:
        os.environ.update(environment())
        run_steps(given.inside, given.images)
        return 0
    if lacking := missing():
        raise SystemExit(f"hosts.py needs {lacking}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if given.keep:
        given.keep.mkdir(parents=True)
        return run_inside(given.keep.resolve(), given.images)
    with tempfile.TemporaryDirectory(prefix="hosts-") as scratch:
        return run_inside(Path(scratch), given.images)


def run_inside(scratch: Path, images: int) -> int:
    """The steps in namespaces, all of which end here."""
    # Of a session of its own: Ctrl-C is for this process, which then kills the first one inside, and so all.
    command = ["setpriv", "--pdeathsig", "KILL", "unshare", *NAMESPACES, sys.executable, __file__]
    process = subprocess.Popen([*command, "--inside", scratch, "--images", str(images)], start_new_session=True)
    try:
        return process.wait()
    except KeyboardInterrupt:
        return 130
    finally:
        process.kill()
        process.wait()


if __name__ == "__main__":
    sys.exit(main())
