"""What a run says of a label file, and where its labels go."""

import pytest
from support.scoring.runs import contents, engine_of, request_for

from brainray.commands.score import score
from brainray.errors import BadRequest
from brainray.inputs.labels.answer_file import read_label_file


def test_rows_without_label_are_told_and_near_names_label_the_predictions(archive, bundle, tmp_path):
    root = archive(images=1)
    (tmp_path / "l.csv").write_text("image;label\nglioma\\0.JPG;NA\n./pituitary/0;glioma\nnotumor/0.jpg;\n")
    label_file = read_label_file(str(tmp_path / "l.csv"), bundle.classes)
    request = request_for(root, tmp_path / "run", bundle, label_file=label_file)
    told: list[str] = []
    outcome = score(request, listener=lambda _: None, say=told.append, engine=engine_of(bundle))
    assert "--labels: 2 row(s) have no label (empty, NA or unknown)" in told
    labels = {uri.removeprefix(f"{root}/"): row["label"] for uri, row in contents(outcome.plan.uri).items()}
    assert labels == {
        "glioma/0.jpg": None,
        "meningioma/0.jpg": None,
        "notumor/0.jpg": None,
        "pituitary/0.jpg": "glioma",
    }


def run_with(root, text, bundle, tmp_path, **options):
    (tmp_path / "l.csv").write_text(text)
    label_file = read_label_file(str(tmp_path / "l.csv"), bundle.classes)
    told: list[str] = []
    request = request_for(root, tmp_path / "run", bundle, label_file=label_file, **options)
    outcome = score(request, listener=lambda _: None, say=told.append, engine=engine_of(bundle))
    return told, {uri.rpartition("/")[2]: row["label"] for uri, row in contents(outcome.plan.uri).items()}


MORE = "image,label\nnotumor/0.jpg,glioma\nnone.jpg,glioma\nother.jpg,NA\n"


def test_labels_that_name_no_image_are_counted_and_refused(archive, bundle, tmp_path):
    with pytest.raises(
        BadRequest, match=r"2 row\(s\) name images that are not in .* .of 3 row\(s\) 1 name one.; correct"
    ) as no:
        run_with(archive(images=1) / "notumor", MORE.replace("notumor/", ""), bundle, tmp_path)
    assert "--labels-may-miss" in str(no.value)


def test_labels_may_name_no_image_where_that_is_allowed(archive, bundle, tmp_path):
    root = archive(images=1) / "notumor"
    told, labels = run_with(root, MORE.replace("notumor/", ""), bundle, tmp_path, labels_may_miss=True)
    assert labels == {"0.jpg": "glioma"}
    assert "--labels: 2 of 3 row(s) name no image of the input" in told


def test_labels_that_may_miss_may_not_fit_several_images(archive, bundle, tmp_path):
    with pytest.raises(BadRequest, match="fit several images"):
        run_with(archive(images=1), "image,label\n0.jpg,glioma\nx,glioma\n", bundle, tmp_path, labels_may_miss=True)


def test_labels_and_groups_that_a_night_takes_away_are_told(archive, bundle, tmp_path):
    """A nightly command without the options of the first night leaves a run without accuracy."""
    images = archive(images=1, classes=("one", "other"))
    (tmp_path / "l.csv").write_text("path,label\none/0.jpg,glioma\nother/0.jpg,glioma\n")
    label_file, told = read_label_file(str(tmp_path / "l.csv"), bundle.classes), []
    first = request_for(images, tmp_path / "run", bundle, label_file=label_file, group_by="folder")
    for request in (first, first, request_for(images, tmp_path / "run", bundle)):
        score(request, listener=lambda _: None, say=told.append, engine=engine_of(bundle))
    assert told == [
        "2 image(s) had a label in the run and get none now; --labels must be given as before",
        "2 image(s) had a group in the run and get none now; --groups or --group-by must be given as before",
    ]
