"""An archive that lives: files come, change and go while a run starts and goes on. Each keeps its row."""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pyarrow.parquet as pq
import pytest

from brainray.cli.app import run
from brainray.cluster import nodes
from brainray.cluster.score_workers import ScoreJob
from brainray.errors import BadRequest
from brainray.storage.shared_paths import NamedPath, SharedPaths

CLASS = ("glioma",)


def statuses(output: Path) -> dict[str, str]:
    table = pq.read_table(output / "predictions", columns=["uri", "status"])
    return {Path(row["uri"]).name: row["status"] for row in table.to_pylist()}


@pytest.mark.ray
def test_listed_files_may_dangle_change_or_go_after_the_listing(archive, bundle, tmp_path, monkeypatch, local_ray):
    """Before nodes are checked, and before workers start; each time the first of those that are there."""
    folder = archive("in", images=6, classes=CLASS) / "glioma"
    (folder / "-dangling.jpg").symlink_to(tmp_path / "none")

    def change_after(name: str, changed: str, gone: str) -> None:
        original = getattr(nodes, name)

        def change(*arguments: Any, **options: Any) -> object:
            result = original(*arguments, **options)
            os.utime(folder / changed)
            (folder / gone).unlink()
            return result

        monkeypatch.setattr(nodes, name, change)

    change_after("await_workers", "0.jpg", "1.jpg")
    change_after("check_every_node", "2.jpg", "3.jpg")
    arguments = ["--input", str(tmp_path / "in"), "--model", bundle.uri, "--output", str(tmp_path / "run")]
    assert run(["score", *arguments, "--max-failed", "100%"]) == 0
    found = statuses(tmp_path / "run")
    assert set(found) == {"-dangling.jpg", *(f"{number}.jpg" for number in range(6))}
    assert {name for name, status in found.items() if status == "ok"} >= {"4.jpg", "5.jpg"}
    assert found["-dangling.jpg"] == found["1.jpg"] == found["3.jpg"] == "error"


def test_a_worker_checks_the_paths_on_a_node_that_was_not_checked_before(monkeypatch):
    """The successor of a dead one on the same node need not: files may have gone since."""
    shared_paths = SharedPaths(output="s3://out", mark=None, seen=(NamedPath("--input", "/none/such"),))
    anything = cast(Any, None)
    job = ScoreJob(
        target=anything,
        bundle=anything,
        batch_size=None,
        precision="fp32",
        inputs=(),
        max_unread=0.5,
        most_bytes=1 << 30,
        shared_paths=shared_paths,
        checked_nodes=frozenset(["a"]),
    )
    for node in ("a", "b"):
        monkeypatch.setattr("ray.get_runtime_context", lambda node=node: SimpleNamespace(get_node_id=lambda: node))
        if node == "a":
            job.check_paths()
        else:
            with pytest.raises(BadRequest, match="--input /none/such is not the same on node"):
                job.check_paths()
