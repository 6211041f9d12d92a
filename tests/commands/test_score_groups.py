"""`score --groups`: the table that tells the group of each image, as `train` takes it."""

import pytest
from support.scoring.runs import contents, engine_of, request_for

from brainray.commands.options import score_options
from brainray.commands.score import read_request, score
from brainray.errors import BadRequest
from brainray.inputs.labels.group_file import read_group_file

pytestmark = pytest.mark.usefixtures("no_plot")
ROWS = "image,patient\nglioma/0.jpg,p1\nGLIOMA\\1.JPG,p1\nnotumor/0.jpg,p2\nnotumor/1,NA\n"


def groups_of(root, text, bundle, tmp_path):
    (tmp_path / "groups.csv").write_text(text)
    told = []
    request = request_for(root, tmp_path / "run", bundle)
    request = type(request)(**{**vars(request), "group_file": read_group_file(str(tmp_path / "groups.csv"))})
    outcome = score(request, listener=lambda _: None, say=told.append, engine=engine_of(bundle))
    rows = contents(outcome.plan.uri)
    return outcome, told, {uri.removeprefix(f"{root}/"): row["group"] for uri, row in rows.items()}


def test_the_group_of_each_image_is_that_of_its_row(archive, bundle, tmp_path):
    root = archive(images=2, classes=("glioma", "notumor"))
    outcome, told, groups = groups_of(root, ROWS, bundle, tmp_path)
    assert groups == {"glioma/0.jpg": "p1", "glioma/1.jpg": "p1", "notumor/0.jpg": "p2", "notumor/1.jpg": None}
    figures = outcome.summary.figures["groups"]
    assert {name: group["totals"]["images"] for name, group in figures.items()} == {"(none)": 1, "p1": 2, "p2": 1}
    assert "--groups: 1 row(s) have no group (empty, NA or unknown)" in told
    again, _, _ = groups_of(root, ROWS, bundle, tmp_path)
    assert again.plan.complete
    changed, _, groups = groups_of(root, ROWS.replace("p2", "p3"), bundle, tmp_path)
    assert (changed.scored, groups["notumor/0.jpg"]) == (0, "p3"), "no image is read again"


def test_a_row_that_may_be_misspelt_is_refused(archive, bundle, tmp_path):
    root = archive(images=2, classes=("glioma", "notumor"))
    with pytest.raises(BadRequest, match=r"not in the input: 'notumor/7.jpg'.* 1 image\(s\) have no row"):
        groups_of(root, ROWS.replace("notumor/1", "notumor/7.jpg"), bundle, tmp_path)


def test_a_table_and_a_rule_exclude_each_other(bundle, tmp_path):
    options = score_options(
        max_failed="1%", max_unread="50%", include=(), exclude=(), keep_columns=(), group_by="folder"
    )
    with pytest.raises(BadRequest, match=r"--groups g\.csv and --group-by both give"):
        read_request(["x"], model=bundle.uri, output="o", labels=None, groups="g.csv", options=options)
