"""The tables of measurements are those of the figures that were recorded."""

import importlib.util
from pathlib import Path

BENCH = Path(__file__).parent


def bench_results():
    spec = importlib.util.spec_from_file_location("results", BENCH / "speed/results.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_tables_of_measurements_are_made_of_their_bench_results():
    module, readme = bench_results(), (BENCH / "README.md").read_text()
    assert module.rewritten(readme, module.read()) == readme


def test_a_table_of_measurements_shows_the_newest_figure_of_each_machine():
    """Else a reader would take an old figure for that of today."""
    module = bench_results()
    row = module.Row("2026-01-01", "2 cores", "0.1", "scoring", "brainray", "100", "images/s", "0.5", "bench.py")
    rows = [row, row._replace(machine="64 cores"), row._replace(date="2026-02-02", value="1234.5", load="1.5")]
    made = module.rewritten("<!-- results: scoring -->\nold\n<!-- end -->\n", rows)
    assert made.count("bench.py") == 2 and "old" not in made
    assert "1,234 images/s | 0.5 | 2 cores, 2026-02-02, load 1.5 in the minute before" in made
