"""Runs that are written row by row, as `score` writes them: run.json, parts, and a manifest where it is asked for."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

import pyarrow as pa

from brainray import storage
from brainray.scoring.parts import PartInfo, ShardWork, write_part
from brainray.scoring.prediction_schema import prediction_schema

CLASSES = ("glioma", "notumor")
MODEL = "f00d" * 8
START = datetime(2025, 1, 2, 3, tzinfo=UTC)


def scored(
    uri: str, predicted: str, confidence: float = 0.75, *, classes: Sequence[str] = CLASSES, **values: Any
) -> dict[str, Any]:
    """The row of a scored image; `values` are other columns of it."""
    rest = (1 - confidence) / max(1, len(classes) - 1)
    probs = {f"prob_{name}": confidence if name == predicted else rest for name in classes}
    known = {"uri": uri, "predicted": predicted, "confidence": confidence, "status": "ok", "review": False}
    return _row(classes) | known | {"width": 512, "height": 400, "format": "JPEG"} | probs | values


def failed(uri: str, error: str = "truncated", *, classes: Sequence[str] = CLASSES, **values: Any) -> dict[str, Any]:
    """The row of an image that could not be scored."""
    return _row(classes) | {"uri": uri, "status": "error", "error": error} | values


def _row(classes: Sequence[str]) -> dict[str, Any]:
    return dict(empty_row(tuple(classes)))


@cache
def empty_row(classes: tuple[str, ...]) -> Mapping[str, Any]:
    """A row without any value but those that none lacks."""
    return dict.fromkeys(prediction_schema(classes).names) | {"shard_id": "0", "model": MODEL, "scored_at": START}


def write_run(
    folder: object,
    rows: Sequence[Mapping[str, Any]],
    *,
    classes: Sequence[str] = CLASSES,
    parts: int = 1,
    **values: Any,
) -> str:
    """A run of these rows in `parts` parts; `values` are other fields of run.json."""
    run = str(folder)
    known = {"classes": list(classes), "fingerprint": MODEL, "images": len(rows), "inputs": ["/archive"]}
    storage.write_json(f"{run}/run.json", known | {"model": "shipped", "versions": {"brainray": "0.1"}} | values)
    schema = prediction_schema(tuple(classes))
    for number in range(parts):
        shard_id = f"{number:x}"
        own = [dict(row) | {"shard_id": shard_id} for row in rows[number::parts]]
        work = ShardWork(
            started_at=START.isoformat(timespec="microseconds"),
            finished_at=(START + timedelta(seconds=10)).isoformat(timespec="microseconds"),
            images=len(own),
            seconds={"read": 1.0},
        )
        info = PartInfo(
            shard_id=shard_id,
            digest="d",
            model=MODEL,
            rows=len(own),
            failed=sum(row["status"] == "error" for row in own),
            unread=0,
            retries=0,
            work=(work,),
        )
        write_part(run, pa.Table.from_pylist(own, schema=schema), info, writer=storage.Writer())
    return run
