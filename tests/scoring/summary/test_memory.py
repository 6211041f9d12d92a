"""The memory of a summary is that of a few parts, however many a run has."""

import weakref

import pytest
from support.scoring.run_rows import CLASSES, scored, write_run

from brainray.scoring.summary import build

pytestmark = pytest.mark.usefixtures("no_plot")
PARTS = 40


def test_few_parts_are_in_memory_at_a_time(tmp_path, monkeypatch):
    run = write_run(tmp_path / "run", [scored(f"/{number}", CLASSES[0], 0.9) for number in range(PARTS)], parts=PARTS)
    read, held, most = build._read_part, set(), 0

    def counted(*args):
        nonlocal most
        found = read(*args)
        number = id(found)
        held.add(number)
        weakref.finalize(found, held.discard, number)
        most = max(most, len(held))
        return found

    monkeypatch.setattr(build, "_read_part", counted)
    monkeypatch.setattr(build, "_THREADS", 1)
    assert build.build_summary(run).figures["totals"]["images"] == PARTS
    assert most <= 2 * build._PARTS_A_TASK < PARTS, f"{most} of {PARTS} parts were in memory at once"
