"""Kill runs for hours, at every moment and in every way, and look after each kill and after each run at what is there.

    .venv/bin/python tests/bench/soak.py --rounds 200 --seed 1 [--minutes M]

A round is one command that is harmed, or left alone. The same command is given again until it ends well; then the rows
must be those of a scoring in this process that nobody disturbs, and nothing that was finished may have been scored
again. Then the archive changes: images are added, changed, removed, brought back; sometimes rows are forgotten,
sometimes all is scored anew by another model. Ends with exit code 1 at the first violation, and leaves the run on disk.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support.imaging.images import image_bytes
from support.machine.processes import (
    PHASES,
    Faults,
    ScoreProcess,
    Workspace,
    await_phase,
    by_uri,
    check_reader,
    check_whole,
    finished,
    generations,
    rows_seen,
    until,
    written,
)
from support.models.bundles import CLASSES, untrained
from support.scoring.runs import contents, engine_of, request_for, score_here

from brainray.errors import BrainrayError
from brainray.models.bundle import Bundle

KINDS = {  # how often each comes
    "driver": 4,
    "everything": 4,
    "actor": 3,
    "attendant": 1,
    "raylet": 1,
    "paused": 1,
    "overtaken": 2,
    "SIGINT": 2,
    "SIGTERM": 2,
    "none": 1,
}
SURVIVED = ("actor", "attendant", "paused", "none")  # after which a command must end well by itself
KILLS_IN_A_ROW = 4  # then a run may end in peace
WAIT_S = 150.0


class Archive:
    """Drawn images that come, change, go and return."""

    def __init__(self, folder: Path, rng: random.Random) -> None:
        self.root, self._attic, self._rng = folder / "archive", folder / "attic", rng
        self._drawn = 0
        self._attic.mkdir()
        for name in CLASSES:
            (self.root / name).mkdir(parents=True)
        for _ in range(80):
            self.add()

    def images(self) -> list[Path]:
        return sorted(self.root.rglob("*.jpg"))

    def add(self) -> None:
        self._drawn += 1
        name = f"{self._rng.choice('abcxyz')}{self._drawn}.jpg"  # new ones stand among the old in the listing
        (self.root / self._rng.choice(CLASSES) / name).write_bytes(self._picture())

    def change(self) -> None:
        self._rng.choice(self.images()).write_bytes(self._picture())

    def remove(self) -> None:
        image = self._rng.choice(self.images())
        image.rename(self._attic / f"{image.parent.name}-{image.name}")

    def bring_back(self) -> None:
        if gone := sorted(self._attic.iterdir()):
            image = self._rng.choice(gone)
            image.rename(self.root / image.name.replace("-", "/", 1))

    def change_at_random(self, *, remove: bool = True) -> None:
        kinds = {self.add: (1, 4, 30), self.change: (0, 1, 9)}
        kinds |= {self.remove: (0, 2, 9), self.bring_back: (0, 0, 3)} if remove else {}
        for kind, times in kinds.items():
            for _ in range(self._rng.choice(times)):
                kind()
        while remove and len(self.images()) > 110:
            self.remove()

    def _picture(self) -> bytes:
        if self._rng.random() < 0.05:
            return self._rng.choice((b"", b"no picture", image_bytes(7)[:300]))
        return image_bytes(self._rng.randrange(1 << 30))


class Soak:
    """One archive and one output, harmed again and again."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.rng = random.Random(seed)
        self.archive = Archive(folder, self.rng)
        self.models = [untrained(folder / f"model-{k}", seed=k) for k in range(2)]
        self.output, self._folder = folder / "run", folder
        self.workspace = Workspace(folder, root=self.archive.root, model=self.models[0].uri, output=self.output)
        self.workspace.options += ["--max-failed", "100%"]
        self.expected: dict[str, dict] = {}
        self.options: list[str] = []  # of the command that is given until it ends well
        self.kept: dict[str, object] = {}  # when each row was scored that must not be scored again
        self.before: set[tuple[str, int]] = set()  # parts there when the command was started
        self.kills_in_a_row = 0
        self.tally: Counter[tuple[str, str]] = Counter()
        self.remarks: Counter[str] = Counter()

    @property
    def rescoring(self) -> bool:
        return "--rescore" in self.options

    @property
    def scoring_model(self) -> Bundle:
        return next(model for model in self.models if model.uri == self.workspace.model)

    def round(self) -> None:
        """One command, and what may happen to it."""
        peace = self.kills_in_a_row >= KILLS_IN_A_ROW
        kind = "none" if peace else self.rng.choices(list(KINDS), list(KINDS.values()))[0]
        phase = self.rng.choice((*PHASES, "scoring"))
        print(f"  {kind} while {phase}, {' '.join(self.options)}", end=" ", flush=True)
        self.before = written(self.output)
        command = self.workspace.start(*self.options, faults=Faults(read_ms=self.rng.choice((20, 100, 250))))
        self.tally[kind, "rounds"] += 1
        if kind != "none":
            await_phase(self.workspace, command, phase, self.rng)
        done = self.overtake(command) if kind == "overtaken" else self.harm(command, kind)
        check_reader(self.output)
        self.complete() if done else self.interrupted(command)
        print(f"-> {'done' if done else 'again'}, {len(finished(self.output))} parts", flush=True)
        self.sweep()

    def harm(self, command: ScoreProcess, kind: str) -> bool:
        """Strike, wait for the end, and judge it; whether the run is complete."""
        where = self.where(command)
        struck = command.running and kind != "none" and command.kill(kind, self.rng)
        if kind != "none":
            self.tally[kind, where if struck else "missed"] += 1
        check_reader(self.output)
        began = time.monotonic()
        code = command.wait(WAIT_S)
        took_s = time.monotonic() - began
        if code == 0:
            return True
        lines = command.errors()
        assert struck, f"ended with {code} though nobody touched it: {command}"
        self.remark(command, "Traceback" not in command.stderr.read_text(), f"{kind} {where} scoring: a traceback")
        if kind in ("SIGINT", "SIGTERM"):
            self.remark(command, code == 130, f"{kind} {where} scoring gave {code}")
            assert took_s < 10, f"{took_s:.1f} s to stop: {command}"
        elif kind == "raylet":
            self.remark(command, lines[-1:] and lines[-1].startswith("brainray: "), "raylet killed: no line says so")
            assert took_s < 60, f"{took_s:.1f} s to end: {command}"
        elif kind == "attendant":
            self.remark(command, False, f"attendant killed: {code}, {lines[-1:]}")
        else:
            assert kind not in SURVIVED, f"did not survive the death of its {kind}: {command}"
        return False

    def overtake(self, command: ScoreProcess) -> bool:
        """The driver sleeps, another run takes over and ends, the first one awakes."""
        where, holder = self.where(command), self.holder()
        if command.running:
            command.pause()
        said = json.loads(holder.read_text()) if holder.exists() else {"released": True}
        if said["released"] or said["pid"] != command.process.pid:
            if command.running:
                command.resume()
            self.tally["overtaken", "missed"] += 1
            return self.harm(command, "none")
        holder.write_text(json.dumps(said | {"ttl_s": 1.0}))  # else the other one waits for a minute
        self.tally["overtaken", where] += 1
        second = self.workspace.start(*self.options)
        assert second.wait(WAIT_S) == 0, f"{second}\nThe one that sleeps: {command}"
        before = {path: path.stat().st_mtime_ns for path in self.visible()}
        command.resume()
        code = command.wait(WAIT_S)
        self.remark(command, code == 5, f"overtaken {where} scoring gave {code}: {command.errors()[-1:]}")
        assert code != 0, str(command)
        assert until(command.is_harmless, 30), command.family()
        assert {path: path.stat().st_mtime_ns for path in self.visible()} == before, "the one that slept wrote"
        return True

    def holder(self) -> Path:
        """Where it says who holds the output."""
        epochs = self.output / ".lease"
        return epochs / max(os.listdir(epochs) if epochs.exists() else [], default="none") / "holder.json"

    def visible(self) -> list[Path]:
        return [path for path in self.output.rglob("*") if path.is_file() and ".lease" not in path.parts]

    def where(self, command: ScoreProcess) -> str:
        """Of a command, before anything harms it: before, within or after scoring."""
        if "adding up" in command.stderr.read_text():
            return "after"
        return "within" if written(self.output) - self.before else "before"

    def remark(self, command: ScoreProcess, fine: object, what: str) -> None:
        if not fine:
            self.remarks[what.replace(str(self._folder), "…")[:300]] += 1

    def interrupted(self, command: ScoreProcess) -> None:
        """After a kill: at once, or when all have died, the same command goes on. Or the archive changes meanwhile."""
        self.kills_in_a_row += 1
        if self.rng.random() < 0.5:
            assert until(command.is_harmless, 60), command.family()
            check_reader(self.output)
        self.kept = self.scored_at()
        if self.rng.random() < 0.15:
            self.archive.change_at_random(remove=False)

    def scored_at(self) -> dict[str, object]:
        """What is finished of the generation that grows: when the rows of each version of an image were scored."""
        if not self.rescoring:
            return _scored_at(self.output)
        growing = generations(self.output)[1].parent
        if not (self.output / "_SUCCESS").exists():
            self.remarks["killed in the midst of a switch: all is scored a second time"] += 1
            return {}
        return _scored_at(growing)

    def complete(self) -> None:
        """A command has ended well."""
        self.kills_in_a_row = 0
        clean = self._folder / "clean"
        shutil.rmtree(clean, ignore_errors=True)
        bundle = self.scoring_model
        score_here(request_for(self.archive.root, clean, bundle, shard_size=4), engine_of(bundle))
        present = contents(clean)
        gone = {} if {"--rescore", "--forget-missing"} & set(self.options) else self.expected
        self.expected = gone | present
        check_whole(self.output, self.expected)
        found = _scored_at(self.output)
        again = [key for key, moment in self.kept.items() if key in found and found[key] != moment]
        assert not again, f"scored a second time: {again}"
        assert os.listdir(self.output / ".lease"), "no lease"
        self.kept = {}
        self.next_request()

    def next_request(self) -> None:
        """Another archive, and another wish."""
        if self.rng.random() < 0.9:
            self.archive.change_at_random()
        wish = self.rng.random()
        self.options = ["--forget-missing"] if wish < 0.2 else ["--rescore"] if wish < 0.5 else []
        if self.rescoring:
            self.workspace.model = self.rng.choice(self.models).uri

    def sweep(self) -> None:
        """Nothing of earlier rounds stays, neither processes nor Ray's files."""
        for command in [c for c in self.workspace.commands if not c.running and c.is_harmless()]:
            command.end()
            self.workspace.commands.remove(command)
        if not self.workspace.commands:
            shutil.rmtree(Path(self.workspace.ray, "ray"), ignore_errors=True)


def _scored_at(run: Path) -> dict[str, object]:
    return {f"{uri} {row['version']}": row["scored_at"] for uri, row in by_uri(rows_seen(run), without=()).items()}


def show(soak: Soak, rounds: int, seconds: float) -> None:
    print(f"\n{rounds} rounds in {seconds:.0f} s")
    print(f"{'kind':<12}{'rounds':>8}{'before':>8}{'within':>8}{'after':>8}{'missed':>8}")
    for kind in KINDS:
        counts = (soak.tally[kind, what] for what in ("rounds", "before", "within", "after", "missed"))
        print(f"{kind:<12}" + "".join(f"{count:>8}" for count in counts))
    for what, count in soak.remarks.items():
        print(f"{count} x {what}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=1e9)
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that what was started is ended
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    began, rounds = time.monotonic(), 0
    soak = Soak(folder, given.seed)
    with soak.workspace:
        try:
            while rounds < given.rounds and time.monotonic() - began < 60 * given.minutes:
                rounds += 1
                print(f"{rounds:4} {time.monotonic() - began:6.0f} s", end="", flush=True)
                soak.round()
        except (AssertionError, BrainrayError, subprocess.TimeoutExpired) as exc:
            traceback.print_exc()
            print(f"\nVIOLATION in round {rounds} of --seed {given.seed}: {exc}\nThe state is in {folder}")
            return 1
        finally:
            show(soak, rounds, time.monotonic() - began)
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
