"""The column `seen` of a run: true for what the model has learned from, null where its bundle does not tell."""

import io
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from support.imaging.pictures import head, neighbour, resized
from support.models.bundles import untrained
from support.models.telling import telling
from support.scoring.runs import as_of_an_earlier_version, brightness, engine_of, request_for, rows, score_here

from brainray.commands.score import read_request
from brainray.config import ScoreOptions
from brainray.duplicates import seen
from brainray.errors import BadRequest

pytestmark = pytest.mark.usefixtures("no_plot")


def file(picture, kind="PNG", **options):
    sink = io.BytesIO()
    Image.fromarray(picture).save(sink, kind, **options)
    return sink.getvalue()


SEEN = {"the-file": True, "recompressed": True, "resized": True, "neighbour": False, "other": False, "black": False}


@cache
def learned() -> list[bytes]:
    return [file(head(index)) for index in (0, 5)]


@cache
def drawn() -> dict[str, bytes]:
    return {
        "the-file.png": learned()[0],
        "recompressed.jpg": file(head(0), "JPEG", quality=70),
        "resized.jpg": file(resized(head(5), 0.6), "JPEG", quality=85),
        "neighbour.png": file(neighbour(0, step=0.7)),
        "other.png": file(head(7)),
        "broken.png": learned()[0][:200],
        "black.png": file(np.zeros((64, 64), np.uint8)),
    }


@pytest.fixture(scope="module")
def silent(tmp_path_factory):
    return untrained(tmp_path_factory.mktemp("silent"), image_px=96)


@pytest.fixture(scope="module")
def model(silent, tmp_path_factory):
    return telling(silent, tmp_path_factory.mktemp("telling"), learned())


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "archive"
    root.mkdir()
    for name, content in drawn().items():
        (root / name).write_bytes(content)
    return root


def run(root, output, bundle, **options):
    engine = engine_of(bundle, predict=brightness)
    score_here(request_for(root, output, bundle, labels_may_miss=True, **options), engine)
    return {Path(row["uri"]).stem: row.get("seen", "no column") for row in rows(output)}


def test_files_and_their_copies_are_marked_neighbours_and_failures_are_not(root, tmp_path, model):
    assert run(root, tmp_path / "run", model) == SEEN | {"broken": None}


def test_a_bundle_without_a_list_leaves_the_column_null(root, tmp_path, silent):
    assert run(root, tmp_path / "run", silent) == dict.fromkeys(SEEN, None) | {"broken": None}


def test_a_run_of_an_earlier_version_is_extended_with_its_columns(root, tmp_path, silent):
    output = tmp_path / "run"
    run(root, output, silent)
    as_of_an_earlier_version(output)
    before = {path.name: path.read_bytes() for path in Path(output, "predictions").iterdir()}
    (root / "new.png").write_bytes(file(head(9)))
    found = run(root, output, silent)
    assert found == dict.fromkeys([*SEEN, "broken", "new"], "no column")
    after = {path.name: path.read_bytes() for path in Path(output, "predictions").iterdir()}
    assert before.items() <= after.items(), "no old part is written again"
    schemas = [pq.read_schema(path).remove_metadata() for path in Path(output, "predictions").iterdir()]
    assert all(schema == schemas[0] for schema in schemas)


def test_scoring_anew_marks_the_rows_of_an_earlier_version(root, tmp_path, model):
    output = tmp_path / "run"
    run(root, output, model)
    as_of_an_earlier_version(output)
    assert run(root, output, model, rescore=True) == SEEN | {"broken": None}


def test_a_damaged_list_is_refused_before_anything_is_done(root, tmp_path, silent):
    model = telling(silent, tmp_path / "model", learned())
    path = tmp_path / "model" / seen.FILE
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(BadRequest, match=r"seen\.parquet: it is damaged"):
        read_request([str(root)], model=model.uri, output=str(tmp_path / "run"), labels=None, options=ScoreOptions())
