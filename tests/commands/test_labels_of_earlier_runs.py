"""`report --labels` on a run that an earlier version began, whose rows have no column `seen`."""

import pytest
from support.imaging.images import image_bytes
from support.models.bundles import CLASSES
from support.scoring.runs import (
    Stopped,
    as_of_an_earlier_version,
    brightness,
    contents,
    engine_of,
    request_for,
    score_here,
)

from brainray.commands.report import report
from brainray.config import PageOptions
from brainray.scoring.run_folder import verify_run

pytestmark = pytest.mark.usefixtures("no_plot")


@pytest.mark.parametrize("parts", [None, 1], ids=["complete", "unfinished"])
def test_its_parts_are_labelled_and_keep_their_columns(tmp_path, bundle, parts):
    root, output = tmp_path / "in", tmp_path / "run"
    root.mkdir()
    for seed in range(5):
        (root / f"{seed}.jpg").write_bytes(image_bytes(seed))
    request = request_for(root, output, bundle, shard_size=3)
    try:
        score_here(request, engine_of(bundle, predict=brightness, only=parts))
    except Stopped:
        assert parts
    as_of_an_earlier_version(output)
    labels = tmp_path / "labels.csv"
    named = next(iter(contents(output)))
    labels.write_text(f"image,label\n{named},{CLASSES[0]}\n")
    report(str(output), say=str, labels=str(labels), page=PageOptions(report=False))
    found = contents(output)
    assert {uri for uri, row in found.items() if row["label"] == CLASSES[0]} == {named}
    assert not any("seen" in row for row in found.values())
    if parts is None:
        assert verify_run(str(output)).rows == 5
