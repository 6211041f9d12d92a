"""Where the seconds of a short run go, from the command to `_SUCCESS` and to the end of its process.

    .venv/bin/python tests/bench/speed/start.py --images FOLDER [--number 100] [--rounds 3]

Each round is a traced `brainray score` of some images in a fresh process, and Ray's floor in another: `ray.init`, an
actor that answers, `ray.shutdown`. Printed are the medians of the rounds: when each step ended, how long it took, and
the processor seconds that all processes had used until then. Steps of workers run beside those of the driver. Only on
an idle machine do the seconds on the clock say anything; processor seconds hold on a busy one, too.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import results

TICKS = os.sysconf("SC_CLK_TCK")
TRACE = "BRAINRAY_BENCH_TRACE"  # the file that driver and workers append their steps to

FLOOR = """
import ray
ray.init(include_dashboard=False, log_to_driver=False)
@ray.remote
class Actor:
    def answer(self):
        return 1
assert ray.get(Actor.remote().answer.remote()) == 1
ray.shutdown()
"""


def note(step: str) -> None:
    """Append a step that has just ended, with the time and the processor seconds of this process."""
    line = json.dumps([step, time.time(), sum(os.times()[:2])])
    with open(os.environ[TRACE], "a") as file:
        file.write(line + "\n")


def noted(step: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        finally:
            note(step)

    return wrapped


def drive(arguments: list[str]) -> int:
    """`brainray score` in this process, with its steps noted."""
    note("driver: Python has started")
    from brainray.cli.app import run

    note("driver: brainray's command line is imported")
    from brainray.cluster import score as cluster_score
    from brainray.commands import score as command

    note("driver: what score needs is imported")
    command._Job.plan = noted("driver: the plan is made", command._Job.plan)
    for name, step in (("read_request", "the model is read"), ("begin_run", "the manifest is written")):
        setattr(command, name, noted(f"driver: {step}", getattr(command, name)))
    for name, step in (("verify_and_close", "verified"), ("build_summary", "summary"), ("publish", "_SUCCESS")):
        setattr(command, name, noted(f"driver: {step}", getattr(command, name)))
    session = cluster_score.session

    @contextmanager
    def traced(**kwargs: Any) -> Iterator[Any]:
        with session(**kwargs) as nodes:
            note("driver: Ray runs")
            from brainray.cluster import score_workers

            note("driver: Ray Data is imported")
            score_workers.score_chain = noted("driver: the chain is built", score_workers.score_chain)
            score_workers.ShardScorer = _traced_scorer(score_workers.ShardScorer)
            yield nodes
            note("driver: the last part has come")
        note("driver: Ray has ended")

    cluster_score.session = traced
    code = run(arguments)
    note("driver: Python ends")
    return code


def _traced_scorer(scorer: type) -> type:
    """The scorer, whose steps are noted; local, so that Ray sends it along."""
    trace, write = os.environ[TRACE], note

    class Traced(scorer):  # type: ignore[misc]
        def __init__(self, job: Any) -> None:
            os.environ[TRACE] = trace
            write("worker: process and its imports are there")
            import brainray.models.predictor  # noqa: F401  which imports torch

            write("worker: torch is imported")
            super().__init__(job)
            write("worker: the model is loaded")

        def __call__(self, block: Any) -> Any:
            found = super().__call__(block)
            write("worker: a part is written")
            return found

    return Traced


def traced_run(folder: str, images: list[str], model: str) -> tuple[list[tuple[str, float, float]], float]:
    """The steps of one run as (step, seconds since the command, processor seconds of its process), and the whole."""
    with open(f"{folder}/list.txt", "w") as file:
        file.writelines(f"{path}\n" for path in images)
    trace = f"{folder}/trace"
    command = [sys.executable, __file__, "--drive", "score", "--input", f"{folder}/list.txt", "--model", model]
    command += ["--output", f"{folder}/run", "--max-failed", "100%"]
    environment = os.environ | {TRACE: trace, "RAY_ADDRESS": "local"}
    began = time.time()
    subprocess.run(command, env=environment, check=True, capture_output=True, timeout=3600)
    whole_s = time.time() - began
    lines = [json.loads(line) for line in Path(trace).read_text().splitlines()]
    return [(step, at - began, processor_s) for step, at, processor_s in lines], whole_s


def processor_seconds(run: Callable[[], Any]) -> tuple[Any, float]:
    """What a function returns, and the processor seconds of the processes that it started, ended and waited for.

    Ray's processes are children of the driver or of the raylet, which waits for its own; those that are orphaned are
    missed, so this is a lower bound.
    """
    before = os.times()
    result = run()
    after = os.times()
    return result, after[2] - before[2] + after[3] - before[3]


def floor() -> float:
    """The seconds of Ray's floor."""
    began = time.time()
    environment = os.environ | {"RAY_ADDRESS": "local", "RAY_USAGE_STATS_ENABLED": "0"}
    subprocess.run([sys.executable, "-c", FLOOR], env=environment, check=True, capture_output=True, timeout=3600)
    return time.time() - began


def show(rounds: list[list[tuple[str, float, float]]]) -> None:
    """The median of each step over the rounds, in the order of time; of a step that repeats, the first and the last."""
    firsts: dict[str, list[float]] = {}
    processors: dict[str, list[float]] = {}
    for steps in rounds:
        seen: dict[str, list[tuple[float, float]]] = {}
        for step, at, processor_s in steps:
            seen.setdefault(step, []).append((at, processor_s))
        for step, times in seen.items():
            several = len(times) > 1
            ends = {f"{step}, the first": times[0], f"{step}, the last": times[-1]} if several else {step: times[0]}
            for name, (at, processor_s) in ends.items():
                firsts.setdefault(name, []).append(at)
                processors.setdefault(name, []).append(processor_s)
    previous = {"driver": 0.0, "worker": 0.0}
    print(f"{'at s':>7} {'took s':>7} {'processor s':>12}  step (the processor seconds are those of its process)")
    for step, at in sorted(((step, statistics.median(times)) for step, times in firsts.items()), key=lambda x: x[1]):
        who = step.partition(":")[0]
        print(f"{at:7.2f} {at - previous[who]:7.2f} {statistics.median(processors[step]):12.2f}  {step}")
        previous[who] = at


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", required=True)
    parser.add_argument("--model", default="shipped")
    parser.add_argument("--number", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    results.add_option(parser)
    options = parser.parse_args()
    found = sorted(str(p) for p in Path(options.images).rglob("*") if p.suffix.lower() in (".jpg", ".jpeg", ".png"))
    if len(found) < options.number:
        parser.error(f"{options.images} holds {len(found)} images, less than --number {options.number}")
    chosen = found[:: max(1, len(found) // options.number)][: options.number]
    traces, runs, floors, run_processors, floor_processors = [], [], [], [], []
    for _ in range(options.rounds):
        with tempfile.TemporaryDirectory() as folder:
            (steps, whole_s), processor_s = processor_seconds(lambda: traced_run(folder, chosen, options.model))
        traces.append(steps)
        runs.append(whole_s)
        run_processors.append(processor_s)
        floor_s, processor_s = processor_seconds(floor)
        floors.append(floor_s)
        floor_processors.append(processor_s)
    show(traces)
    run_s, floor_s = statistics.median(runs), statistics.median(floors)
    print(f"\nwhole run: {run_s:.2f} s, {statistics.median(run_processors):.1f} s of processors")
    print(f"Ray's floor: {floor_s:.2f} s, {statistics.median(floor_processors):.1f} s of processors")
    print(f"above the floor: {run_s - floor_s:.2f} s")
    figures = [
        results.Figure(f"`brainray score`, {len(chosen)} images, its start and end", run_s, "s"),
        results.Figure("Ray's floor: `ray.init`, an actor, `ray.shutdown`", floor_s, "s"),
    ]
    results.record(options, "start", figures)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--drive"]:
        with suppress(SystemExit):
            sys.exit(drive(sys.argv[2:]))
    else:
        main()
