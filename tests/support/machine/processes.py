"""Start `brainray` as a process of its own, harm it at a chosen moment, and look at what a reader sees then.

A command and all that its Ray starts share one session (setsid). So everything of it is found, also when the process
that began it is gone, and nothing else is ever killed.
"""

import inspect
import itertools
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import psutil
import pyarrow.parquet as pq
from support.machine.waiting import HANGS_S, until

from brainray import storage
from brainray.scoring.run_folder import verify_run

PART = re.compile(r"part-[0-9a-f]+\.parquet")
POISON = b"poison: this picture kills who unpacks it"
Kind = Literal["driver", "actor", "attendant", "raylet", "everything", "paused", "SIGINT", "SIGTERM", "none"]
Phase = Literal["listing", "starting", "scoring", "adding up"]
PHASES: tuple[Phase, ...] = ("listing", "starting", "scoring", "adding up")


@dataclass(frozen=True, kw_only=True)
class Faults:
    """What goes wrong in every Python process of a command, Ray's workers among them."""

    log: str | None = None  # a line each time an image is opened, or Ray or torch imported
    read_ms: float = 0  # what opening an image takes longer
    fail_first: int = 0  # so often does opening each image fail with EIO
    hang_at: str | None = None  # opening the image whose path ends so never returns
    full_at: int = 0  # writing the so-manieth part finds no space left on the device
    poison: bool = False  # who unpacks a picture that holds `POISON` dies by SIGSEGV


def _site(faults: dict, marks: str, poison: bytes) -> None:
    """The faults. Its source becomes a `sitecustomize.py`, so it stands for itself."""
    import errno
    import itertools
    import os
    import signal
    import sys
    import time

    parts = itertools.count(1)
    log = os.open(faults["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT) if faults["log"] else None

    def note(what: str) -> None:
        if log is not None:
            os.write(log, (what + "\n").encode())

    def begin_to_read(path: str) -> None:
        note(path)
        if faults["hang_at"] and path.endswith(faults["hang_at"]):
            time.sleep(3600)
        time.sleep(faults["read_ms"] / 1000)
        for number in range(faults["fail_first"]):
            mark = os.path.join(marks, f"{path.replace('/', '_')}-{number}")
            try:
                os.close(os.open(mark, os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                continue
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    def hear(event: str, arguments: tuple) -> None:
        if event == "open":
            path = arguments[0]
            if isinstance(path, str) and path.endswith((".jpg", ".png")):
                begin_to_read(path)
        elif event == "import" and arguments[0] in ("ray", "torch"):
            note(f"import {arguments[0]}")

    def fsync(file: int, sync: object = os.fsync) -> None:
        if "/.part-" in os.readlink(f"/proc/self/fd/{file}") and next(parts) == faults["full_at"]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(file)

    sys.addaudithook(hear)
    if faults["full_at"]:
        os.fsync = fsync
    if faults["poison"]:
        from PIL.ImageFile import ImageFile

        def load(image: ImageFile, unpack: object = ImageFile.load) -> object:
            if image.fp is not None and poison in image.fp.getvalue():
                signal.raise_signal(signal.SIGSEGV)  # in this thread, which so goes no step further
            return unpack(image)

        ImageFile.load = load


def session_processes(leader: int) -> list[psutil.Process]:
    """Every process of the session that lives, the oldest first."""
    found = []
    for process in psutil.process_iter(["create_time"]):
        with suppress(ProcessLookupError, psutil.NoSuchProcess):
            if os.getsid(process.pid) == leader and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return sorted(found, key=lambda process: process.info["create_time"])


class ScoreProcess:
    """A running `brainray` and its Ray."""

    def __init__(self, arguments: Sequence[str], environment: dict[str, str], folder: Path) -> None:
        self.stdout, self.stderr = folder / "stdout", folder / "stderr"  # no pipes, which orphans would hold open
        self.scratch = environment["TMPDIR"]
        self.began = time.monotonic()
        if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell's `&` sets it, and a child inherits
            signal.signal(signal.SIGINT, signal.default_int_handler)
        with self.stdout.open("wb") as out, self.stderr.open("wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "brainray", *arguments],
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def family(self) -> list[psutil.Process]:
        return session_processes(self.process.pid)

    def members(self, kind: Kind) -> list[psutil.Process]:
        """The processes that a kill of this kind is for."""
        family = self.family()
        if kind in ("driver", "paused", "SIGINT", "SIGTERM"):
            return [process for process in family if process.pid == self.process.pid]
        if kind == "raylet":
            return [process for process in family if _name(process) == "raylet"]
        if kind == "everything":
            return family
        scores = "Scorer)"
        ray = [process for process in family if _name(process).startswith("ray::") and "Agent" not in _name(process)]
        return [process for process in ray if (scores in _name(process)) == (kind == "actor")]

    def kill(self, kind: Kind, rng: random.Random) -> bool:
        """Harm the command; False where there is nobody of that kind at the moment."""
        struck = self.members(kind)
        if not struck:
            return False
        if kind == "everything":
            self.end()
        elif kind == "paused":
            self.pause()
            time.sleep(rng.uniform(0.2, 4))
            self.resume()
        elif kind == "SIGINT":
            os.killpg(self.process.pid, signal.SIGINT)  # as a terminal does
        elif kind == "SIGTERM":
            self.process.terminate()
        else:
            _kill(rng.choice(struck))
        return True

    def pause(self) -> None:
        """Stop the driver, and only it, until `resume`: a laptop that sleeps, a machine that swaps."""
        self.process.send_signal(signal.SIGSTOP)
        until(lambda: psutil.Process(self.process.pid).status() == psutil.STATUS_STOPPED)

    def resume(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def wait(self, timeout_s: float = HANGS_S) -> int:
        return self.process.wait(timeout_s)

    def errors(self) -> list[str]:
        """Lines of the standard error stream."""
        return self.stderr.read_text().splitlines()

    def is_alone(self) -> bool:
        """Whether nothing of the session lives any more."""
        return not self.family()

    def is_harmless(self) -> bool:
        """The same but for two agents of Ray that know no run, and see after a minute that their raylet was killed."""
        return all("Agent" in _name(process) for process in self.family())

    def end(self) -> None:
        """Kill whatever is left."""
        while family := self.family():
            for process in family:
                _kill(process)
            self.process.poll()
        self.process.wait()

    def __str__(self) -> str:
        shown = f"exit {self.process.poll()} after {time.monotonic() - self.began:.1f} s"
        return f"{shown}\nstdout:\n{self.stdout.read_text()}\nstderr:\n{self.stderr.read_text()}"


def _kill(process: psutil.Process) -> None:
    with suppress(psutil.NoSuchProcess):
        process.kill()


def _name(process: psutil.Process) -> str:
    """What a process calls itself: `ray::MapWorker(MapBatches(ShardScorer))`, `raylet`."""
    with suppress(psutil.Error):
        words = process.cmdline()
        return words[0] if words and words[0].startswith("ray::") else process.name()
    return ""


class Workspace:
    """An archive, a model, an output, and all commands that were run on them. A context manager; its end kills."""

    def __init__(self, folder: Path, *, root: Path, model: str, output: Path, options: Sequence[str] = ()) -> None:
        self.folder, self.root, self.model, self.output = folder, root, model, output
        self.options = ["--shard-size", "4", *options]
        self.commands: list[ScoreProcess] = []
        self._numbers = itertools.count()
        self.ray = tempfile.mkdtemp(prefix="ray-")  # short, for it holds sockets

    def __enter__(self) -> "Workspace":
        return self

    def __exit__(self, *_: object) -> None:
        for command in self.commands:
            command.end()
        shutil.rmtree(self.ray, ignore_errors=True)

    def start(self, *options: str, faults: Faults | None = None) -> ScoreProcess:
        """`brainray score` on the archive, in a folder with modules that no process of it may import."""
        folder = self.folder / f"command-{next(self._numbers)}"
        for name in ("site", "marks", "tmp"):
            (folder / name).mkdir(parents=True)
        call = f"_site({asdict(faults or Faults())!r}, {str(folder / 'marks')!r}, {POISON!r})"
        (folder / "site" / "sitecustomize.py").write_text(f"{inspect.getsource(_site)}\n\n{call}\n")
        for name in ("torch", "numpy", "pyarrow", "ray"):
            (folder / f"{name}.py").write_text(f"raise RuntimeError('the {name} of the working folder')\n")
        modules = ["", str(folder / "site"), *filter(None, [os.environ.get("PYTHONPATH")]), "."]
        environment = os.environ | {
            "RAY_ADDRESS": "local",
            "RAY_TMPDIR": self.ray,
            "TMPDIR": str(folder / "tmp"),
            "PYTHONPATH": os.pathsep.join(modules),
        }
        where = ["--input", str(self.root), "--model", self.model, "--output", str(self.output)]
        self.commands.append(ScoreProcess(["score", *where, *self.options, *options], environment, folder))
        return self.commands[-1]

    def score(self, *options: str, faults: Faults | None = None, timeout_s: float = HANGS_S) -> ScoreProcess:
        """The same to its end, which must be a good one."""
        command = self.start(*options, faults=faults)
        assert command.wait(timeout_s) == 0, str(command)
        return command

    def await_parts(self, command: ScoreProcess, count: int, timeout_s: float = HANGS_S) -> None:
        """Until a command has finished so many parts, or has ended."""
        before = finished(self.output)
        until(lambda: len(finished(self.output).items() - before.items()) >= count or not command.running, timeout_s)


def generations(output: Path) -> list[Path]:
    """Where parts may lie: the run, and one that grows beside it."""
    return [output / "predictions", output / ".rescore" / "predictions"]


def finished(output: Path, *, rescoring: bool = False) -> dict[str, int]:
    """Name and time of writing of each part, of the run or of the one that grows beside it."""
    found = {}
    with suppress(FileNotFoundError):
        for entry in os.scandir(generations(output)[rescoring]):
            with suppress(FileNotFoundError):
                found[entry.name] = entry.stat().st_mtime_ns
    return found


def rows_seen(output: Path) -> list[dict]:
    """Every row that a plain glob over the parts sees now. Fails for a part that is not whole."""
    rows = []
    for path in sorted(output.glob("predictions/*.parquet")):
        with suppress(FileNotFoundError):  # a part may go while we look, its rows with it
            rows += pq.read_table(path).to_pylist()
    return rows


def check_reader(output: Path) -> None:
    """What somebody sees who reads a run at any moment, while it is written or after a crash, and knows of no lease."""
    before = _success(output)
    uris = [row["uri"] for row in rows_seen(output)]
    manifest = [uri for path in output.glob("manifest/*.parquet") for uri in _uris(path)]
    assert len(set(uris)) == len(uris), "an image has two rows"
    if before is not None and before == _success(output):
        said = storage.read_json(f"{output}/_SUCCESS")["rows"]
        assert said == len(uris) == len(manifest), f"_SUCCESS says {said}; {len(uris)} rows, {len(manifest)} listed"
        assert set(uris) == set(manifest)
    visible = [name for name in _names(output / "predictions") if not PART.fullmatch(name)]
    assert not visible, f"litter among the parts: {visible}"


def _uris(path: Path) -> list[str]:
    with suppress(FileNotFoundError):
        return pq.read_table(path, columns=["uri"])["uri"].to_pylist()
    return []


def _success(output: Path) -> tuple[int, int] | None:
    with suppress(FileNotFoundError):
        found = os.stat(output / "_SUCCESS")
        return found.st_ino, found.st_mtime_ns
    return None


def _names(folder: Path) -> list[str]:
    return os.listdir(folder) if folder.is_dir() else []


def by_uri(rows: Sequence[dict], *, without: Sequence[str] = ("scored_at", "shard_id", "features")) -> dict[str, dict]:
    """Rows by URI, without what depends on when and in which shard they were scored, and features as in `contents`."""
    return {row["uri"]: {k: v for k, v in row.items() if k not in without} for row in rows}


def check_whole(output: Path, expected: dict[str, dict], *, kept: dict[str, int] | None = None) -> None:
    """What a run is that has ended well: published, proven, equal to `expected`, its `kept` parts not written again."""
    check_reader(output)
    assert verify_run(str(output)).rows == len(expected)
    assert storage.read_json(f"{output}/_SUCCESS")["rows"] == len(expected)
    totals = storage.read_json(f"{output}/summary/summary.json")["totals"]
    rows = by_uri(rows_seen(output))
    assert totals["images"] == len(expected)
    assert totals["failed"] == sum(row["status"] == "error" for row in rows.values())
    assert rows.keys() == expected.keys()
    differing = {uri: (rows[uri], expected[uri]) for uri in rows if rows[uri] != expected[uri]}
    assert not differing, differing
    rewritten = dict((kept or {}).items() - finished(output).items())
    assert not rewritten, f"parts that had been finished were written again: {sorted(rewritten)}"


def await_phase(workspace: Workspace, command: ScoreProcess, phase: Phase, rng: random.Random) -> None:
    """Wait for a random moment of a phase, or for the end of the command."""
    before = written(workspace.output)
    shards = max(2, sum(1 for _ in workspace.root.rglob("*.jpg")) // 4)
    if phase == "listing":
        time.sleep(rng.uniform(0, 2))
        return
    if phase == "starting":
        said = "starting workers"
        until(lambda: said in command.stderr.read_text() or not command.running)
        time.sleep(rng.uniform(0, 3))
        return
    if phase == "scoring":
        wanted = rng.choice((1, 2, rng.randrange(1, shards)))
        until(lambda: len(written(workspace.output) - before) >= wanted or not command.running)
        time.sleep(rng.uniform(0, 0.05))
        return
    until(lambda: "adding up" in command.stderr.read_text() or not command.running, step_s=0.001)
    time.sleep(rng.choice((0, rng.uniform(0, 0.3))))


def written(output: Path) -> set[tuple[str, int]]:
    """Every part that was written, of the run and of one that grows beside it."""
    return set(finished(output).items()) | set(finished(output, rescoring=True).items())
