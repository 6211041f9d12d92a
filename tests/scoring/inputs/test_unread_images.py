"""Images that are too large or archived get a row unread, and a prediction once that changes."""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from support.imaging.images import image_bytes
from support.inputs.archives import tar_of
from support.scoring.runs import brightness, contents, engine_of, request_for, score_here

from brainray import storage
from brainray.commands.score import plan_only
from brainray.config import MaxFailed
from brainray.inputs import ranges
from brainray.models.bundle import Bundle
from brainray.storage.base import FileInfo

pytestmark = pytest.mark.usefixtures("no_plot")
SMALL, LARGE = image_bytes(1, kind="JPEG"), image_bytes(2, size=(400, 400), kind="PNG")
LIMIT = len(LARGE) - 1


@pytest.fixture
def run(bundle: Bundle, tmp_path: Path) -> Callable[..., dict[str, dict]]:
    """Scores into one output, and gives the rows by the name of their image."""

    def go(root: Path, **options: object) -> dict[str, dict]:
        options = {"max_failed": MaxFailed(count=99)} | options
        request = request_for(root, tmp_path / "run", bundle, **options)
        score_here(request, engine_of(bundle, predict=brightness))
        return {uri[len(str(root)) + 1 :]: row for uri, row in contents(request.output).items()}

    return go


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that are read, and opened as archives."""
    names: list[str] = []
    before = storage.read_once

    def read_once(uri: str, **how: int) -> bytes:
        names.append(storage.name_of(uri))
        return before(uri, **how)

    monkeypatch.setattr(ranges, "storage", SimpleNamespace(**vars(storage) | {"read_once": read_once}))
    return names


@pytest.fixture
def images(tmp_path: Path) -> Path:
    root = tmp_path / "in"
    root.mkdir()
    (root / "small.jpg").write_bytes(SMALL)
    (root / "large.png").write_bytes(LARGE)
    return root


@pytest.fixture
def in_glacier(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The names of files that are listed as archived."""
    names: set[str] = set()
    before = storage.list_files

    def list_files(*arguments: object) -> Iterator[FileInfo]:
        for found in before(*arguments):  # type: ignore[arg-type]
            is_archived = storage.name_of(found.uri) in names
            yield dataclasses.replace(found, archived="DEEP_ARCHIVE") if is_archived else found

    monkeypatch.setattr(storage, "list_files", list_files)
    return names


def test_large_file_is_too_large_unread_until_the_limit_is_raised(run: Callable, images: Path, read: list) -> None:
    rows = run(images, max_file_bytes=LIMIT)
    assert rows["large.png"]["error"] == "too_large" and f"{LIMIT:,}" in rows["large.png"]["error_detail"]
    assert rows["small.jpg"]["status"] == "ok" and read == ["small.jpg"]
    assert run(images)["large.png"]["status"] == "ok"
    assert read == ["small.jpg", "large.png"]


def test_large_members_of_archives_are_too_large(run: Callable, tmp_path: Path) -> None:
    root = tmp_path / "archives"
    root.mkdir()
    (root / "a.tar").write_bytes(tar_of({"small.jpg": SMALL, "large.png": LARGE}))
    rows = run(root, max_file_bytes=LIMIT)
    assert rows["a.tar#large.png"]["error"] == "too_large" and rows["a.tar#small.jpg"]["status"] == "ok"


def test_large_row_of_parquet_is_too_large(run: Callable, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    root = tmp_path / "archives"
    root.mkdir()
    pq.write_table(pa.table({"image": [SMALL, LARGE]}), root / "a.parquet")
    rows = run(root, max_file_bytes=LIMIT)
    assert [rows[f"a.parquet#{n}"]["error"] for n in range(2)] == [None, "too_large"]


def test_archived_object_is_a_row_unread_until_it_is_restored(
    run: Callable, images: Path, read: list, in_glacier: set
) -> None:
    in_glacier.add("large.png")
    rows = run(images)
    assert rows["large.png"]["error"] == "archived" and "restore it" in rows["large.png"]["error_detail"]
    assert read == ["small.jpg"]
    in_glacier.clear()
    assert run(images)["large.png"]["status"] == "ok"


def test_image_that_is_archived_after_it_was_scored_keeps_its_prediction(
    run: Callable, images: Path, read: list, in_glacier: set
) -> None:
    before = run(images)
    in_glacier.update(("small.jpg", "large.png"))
    assert run(images) == before and len(read) == 2


def test_archived_archive_is_one_row_and_is_not_opened(run: Callable, images: Path, in_glacier: set) -> None:
    (images / "b.tar").write_bytes(b"not to be opened")
    in_glacier.add("b.tar")
    rows = run(images)
    assert rows["b.tar"]["error"] == "archived" and len(rows) == 3


def test_plan_counts_what_will_not_be_read(bundle: Bundle, images: Path, in_glacier: set, tmp_path: Path) -> None:
    in_glacier.add("small.jpg")
    names = "\n".join(["uri", *(f"{images}/{n}.jpg" for n in ("gone", "missing")), f"{images}/large.png"])
    (tmp_path / "list.csv").write_text(names)
    listed = request_for(tmp_path / "list.csv", tmp_path / "run", bundle, max_file_bytes=LIMIT)
    assert plan_only(listed).foreseen == {"not_found": 2, "too_large": 1}
    plan = plan_only(request_for(images, tmp_path / "run", bundle))
    assert plan.foreseen == {"archived": 1} and plan.todo_images == 2
