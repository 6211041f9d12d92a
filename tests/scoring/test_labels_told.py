"""What a run says of a label file, and where its labels go."""

from support.runs import contents, engine_of, request_for

from brainray.commands.score import score
from brainray.inputs.label_file import read_label_file


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
