"""Keeps what the measurements of this folder found in results.csv, and makes the tables of tests/bench/README.md of it.

    .venv/bin/python tests/bench/speed/results.py

A measurement with `--record` adds rows: one for each figure, with the date, the machine and how busy it was. The tables
show the newest row of each figure and machine. The older ones stay in the CSV.
"""

import argparse
import csv
import datetime
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

CSV = Path(__file__).with_name("results.csv")
README = Path(__file__).parents[1] / "README.md"
_TABLE = re.compile(r"(<!-- results: (?P<name>[\w -]+) -->\n).*?(<!-- end -->)", re.DOTALL)
_UNITS_BY_CORE = (("amx_tile", "AMX"), ("avx512f", "AVX-512"), ("avx2", "AVX2"))


class Figure(NamedTuple):
    """One measured figure."""

    measured: str
    value: float
    unit: str
    ratio: float | None = None  # brainray's rate over this one


class Row(NamedTuple):
    """A line of results.csv; all of it text, an empty one where there is nothing."""

    date: str
    machine: str
    load: str  # average of the minute before it, also of what the same person had just run
    table: str
    measured: str
    value: str
    unit: str
    ratio: str
    command: str


def compared(rates: Mapping[str, float], of: str, unit: str = "images/s") -> Iterator[Figure]:
    """The rates of contestants, the first of which is brainray, with their ratios; `of`: what they all did."""
    own = next(iter(rates.values()))
    for number, (name, rate) in enumerate(rates.items()):
        yield Figure(f"{name}, {of}", rate, unit, own / rate if number else None)


def add_option(parser: argparse.ArgumentParser) -> None:
    """Add `--record` to a measurement's options."""
    parser.add_argument("--record", action="store_true", help="add the figures to results.csv and rewrite the tables")
    parser.set_defaults(load=os.getloadavg()[0])  # now, before the measurement makes the machine busy


def record(options: argparse.Namespace, table: str, figures: Iterable[Figure]) -> None:
    """Add the figures of a measurement whose options have `--record`, and rewrite the tables."""
    if not options.record:
        return
    given = " ".join(word for word in sys.argv[1:] if word != "--record")
    command = f"{Path(sys.argv[0]).resolve().relative_to(README.parents[2])} {_without_paths(given)}".strip()
    today, machine = datetime.date.today().isoformat(), machine_name()
    rows = [
        Row(
            today,
            machine,
            f"{options.load:.1f}",
            table,
            each.measured,
            f"{each.value:.6g}",
            each.unit,
            "" if each.ratio is None else f"{each.ratio:.2f}",
            command,
        )
        for each in figures
    ]
    with CSV.open("a", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)
    README.write_text(rewritten(README.read_text(), read()))


def read() -> list[Row]:
    """All rows of results.csv, oldest first."""
    with CSV.open(newline="") as file:
        return [Row(*line) for line in list(csv.reader(file))[1:]]


def machine_name() -> str:
    """The processors of this machine: how many, whose, and the widest instructions they have."""
    text = Path("/proc/cpuinfo").read_text()
    names = re.findall(r"model name\s*: (.*)", text) or ["unknown processor"]
    flags = set(" ".join(re.findall(r"flags\s*: (.*)", text)).split())
    widest = next((name for flag, name in _UNITS_BY_CORE if flag in flags), "no AVX2")
    return f"{len(os.sched_getaffinity(0))} cores, {' '.join(names[0].split())}, {widest}"


def rewritten(readme: str, rows: Sequence[Row]) -> str:
    """The text of a README with its tables made anew. Raises `ValueError` where rows belong to no table of it."""
    tables = {found["name"] for found in _TABLE.finditer(readme)}
    if homeless := {row.table for row in rows} - tables:
        raise ValueError(f"the README has no table for {', '.join(sorted(homeless))}")
    return _TABLE.sub(
        lambda found: found[1] + _table([row for row in rows if row.table == found["name"]]) + found[3], readme
    )


def _table(rows: Sequence[Row]) -> str:
    if not rows:
        return "Not measured yet.\n"
    newest = {(row.measured, row.machine): row for row in rows}
    lines = ["| measured | value | ratio | machine | command |", "| --- | --- | --- | --- | --- |"]
    for row in newest.values():
        value = f"{float(row.value):,.3g}" if float(row.value) < 100 else f"{float(row.value):,.0f}"
        busy = f", load {row.load} in the minute before" if row.load and float(row.load) >= 0.3 else ""
        where = f"{row.machine}, {row.date}{busy}"
        lines.append(f"| {row.measured} | {value} {row.unit} | {row.ratio} | {where} | `{row.command}` |")
    return "\n".join(lines) + "\n"


def _without_paths(arguments: str) -> str:
    """The options, with the last name only of what is a path."""
    return " ".join(word.rsplit("/", 1)[-1] if word.startswith(("/", "..")) else word for word in arguments.split())


if __name__ == "__main__":
    README.write_text(rewritten(README.read_text(), read()))
