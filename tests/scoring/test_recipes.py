"""The recipes of the README run on a run, where their library is installed; else syntax and columns are checked."""

import ast
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest
from support.scoring.run_rows import CLASSES, failed, scored, write_run

from brainray.scoring.summary.build import build_summary

README = Path(__file__).resolve().parents[2] / "brainray" / "scoring" / "README.md"
TEXT = README.read_text().split("## Recipes")[1].split("\n## ")[0]
PYTHON = dict(re.findall(r"^(\w+): .*\n\n```python\n([^`]*)^```$", TEXT, re.MULTILINE))
MODULES = {"pandas": "pandas", "Polars": "polars", "Spark": "pyspark"}
WHOLE = re.compile(r"run/(?:predictions|summary)\S*")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder that holds `run`: two mistakes, one failure, one image for review."""
    place = tmp_path_factory.mktemp("recipes")
    rows = [
        scored("/1", "glioma", label="glioma", group="a"),
        scored("/2", "notumor", label="glioma", group="a"),
        scored("/3", "notumor", label="glioma", group="b", review=True),
        scored("/4", "notumor", label="notumor"),
        failed("/5", label="notumor", group="b"),
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("brainray.scoring.summary.build.draw_confusion", lambda *_: b"")
        build_summary(write_run(place / "run", rows, parts=2, group_by="folder"))
    return place


@pytest.fixture
def results(place, monkeypatch):
    """Runs a Python recipe and gives its names."""
    monkeypatch.chdir(place)

    def run(name: str) -> dict[str, object]:
        names: dict[str, object] = {}
        exec(compile(PYTHON[name], f"{name} of {README.name}", "exec"), names)
        return names

    return run


def test_every_recipe_is_known():
    assert list(PYTHON) == list(MODULES)


def test_duckdb(place, monkeypatch):
    monkeypatch.chdir(place)
    (block,) = re.findall(r"^```sql\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    mistakes, worst, groups = (duckdb.sql(query).fetchall() for query in filter(str.strip, block.split(";")))
    assert mistakes == [("glioma", "notumor", 2)]
    assert worst == [("glioma", pytest.approx(1 / 3))]
    assert [(name, images, accuracy) for name, images, accuracy, _ in groups] == [
        ("b", 2, 0),
        ("a", 2, 0.5),
        ("(none)", 1, 1),
    ]


def test_pandas(results):
    names = results("pandas")
    shares = names["for_review"].to_dict()
    assert (shares.pop("a"), shares.pop("b")) == (0, 1)
    assert list(shares.values()) == [0], "the images without a group"
    assert names["table"].loc["glioma"].to_dict() == dict(zip(CLASSES, (1, 2), strict=True))


@pytest.mark.parametrize("name", ["Polars", "Spark"])
def test_what_may_not_be_installed(name, results, place):
    if importlib.util.find_spec(MODULES[name]):
        found = results(name)
        if name == "Polars":
            assert found["failed"].rows() == [("truncated", 1)]
        else:
            assert {row[0]: row[2] for row in found["means"].collect()} == {"glioma": 1, "notumor": 3}
        return
    tree = ast.parse(PYTHON[name])
    paths = {text for text in texts(tree) if WHOLE.fullmatch(text)}
    files = [next(iter(sorted(place.glob(path if "*" in path else f"{path}*")))) for path in sorted(paths)]
    known = {column for path in files for column in columns_of(path)}
    values = {"ok", "error"}  # of `status`
    assert paths and {text for text in texts(tree) if text not in paths} <= known | values


def texts(tree: ast.AST) -> Iterator[str]:
    return (node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str))


def columns_of(path: Path) -> list[str]:
    """The columns of a Parquet file, or of those in a folder."""
    return pq.read_schema(path if path.is_file() else next(path.iterdir())).names
