"""The whole main job as a user runs it: draw, train with two workers, score, report."""

import csv
import json

import pyarrow.parquet as pq
import pytest
from support.scoring.runs import contents, engine_of, request_for, score_here

from brainray import storage
from brainray.cli.app import run
from brainray.cluster import train as ray_train
from brainray.duplicates.seen import read_seen
from brainray.imaging.phantom import CLASSES, write_archive
from brainray.models.bundle import load_bundle
from brainray.models.reference import read_reference


@pytest.fixture(scope="module")
def folders(tmp_path_factory, local_ray):
    """A training set in groups with a copy under another name, a broken file, an archive, and a model."""
    root = tmp_path_factory.mktemp("job")
    write_archive(str(root / "training"), images=64, seed=1)
    write_archive(str(root / "archive"), images=20, seed=2)
    first = sorted((root / "training" / "glioma").iterdir())[0]
    (root / "training" / "glioma" / f"copy{first.suffix}").write_bytes(first.read_bytes())
    (root / "training" / "glioma" / "broken.jpg").write_bytes(b"broken")
    named = [(path.parent.name, path.name) for path in sorted((root / "training").glob("*/*"))]
    rows = [f"{name}/{file},{name} {place // 2}" for place, (name, file) in enumerate(named) if file != "broken.jpg"]
    (root / "groups.csv").write_text("\n".join(["uri,patient", *rows]) + "\n")
    options = ["--workers", "2", "--epochs", "2", "--image-px", "32", "--seed", "5"]
    options += ["--groups", str(root / "groups.csv")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ray_train, "train_worker", noting(ray_train.train_worker, root))
        code = run(["train", "--data", str(root / "training"), "--output", str(root / "model"), *options])
    assert code == 0
    return root


def noting(train_worker, root):
    """The function of a worker, which notes the rows it takes; local, so that Ray sends it."""

    def note(config):
        import ray.train

        context = ray.train.get_context()
        rank = context.get_world_rank()
        for name in ("train", "validation"):
            batches = list(config["shares"].rows(name, rank=rank, workers=context.get_world_size()))
            seen = {key: [int(x) for batch in batches for x in batch[key]] for key in ("position", "picture")}
            (root / f"{name}-{rank}.json").write_text(json.dumps(seen))
        train_worker(config)

    return note


@pytest.mark.timeout(600)
def test_training_writes_a_bundle_that_says_what_it_is(folders):
    bundle = load_bundle(str(folders / "model"))
    assert bundle.classes == CLASSES
    data = bundle.provenance["data"]
    assert (data["images"], data["pictures"], data["unreadable"]) == (65, 64, {"not_an_image": 1})
    assert 65 - data["train_images"] - data["validation_images"] in (0, 1)  # 1: where the copy is measured on, once
    history = pq.read_table(folders / "model" / "training" / "history.parquet").to_pylist()
    assert [row["epoch"] for row in history] == [1, 2]
    assert {row["val_images"] for row in history} == {data["validation_images"]}  # all, though two workers share them
    assert bundle.metrics["images"] == data["validation_images"]
    assert storage.list_names(str(folders / "model")) == ["bundle.json", "model.safetensors", "training"]
    confusion = pq.read_table(folders / "model" / "training" / "confusion.parquet")
    assert sum(confusion["images"].to_pylist()) == data["validation_images"]


@pytest.mark.timeout(600)
def test_each_worker_of_ray_train_takes_its_share_and_nothing_else(folders):
    data = load_bundle(str(folders / "model")).provenance["data"]
    for name in ("train", "validation"):
        shares = [json.loads((folders / f"{name}-{rank}.json").read_text()) for rank in (0, 1)]
        images = data[f"{name}_images"]
        assert len({*shares[0]["position"], *shares[1]["position"]}) == images
        assert [len(share["position"]) for share in shares] <= [images // 2 + 1] * 2
        assert sum(len(share["position"]) for share in shares) == images, "no row twice"
        assert not {*shares[0]["picture"]} & {*shares[1]["picture"]}, "copies of one picture stay together"


@pytest.mark.timeout(600)
def test_pictures_that_two_workers_measured_are_told_their_groups(folders):
    data = load_bundle(str(folders / "model")).provenance["data"]
    assert (data["groups"]["by"], data["groups"]["images_without"]) == (["--groups"], 0)
    rows = list(csv.DictReader((folders / "model" / "training" / "groups.csv").open()))
    assert sum(int(row["pictures"]) for row in rows) == data["validation_images"]
    assert [row["classes"] for row in rows] == [row["group"].split()[0] for row in rows]
    assert "Not a medical device" in (folders / "model" / "training" / "model-card.md").read_text()


@pytest.mark.timeout(600)
def test_scoring_and_report_agree(folders, capfd):
    arguments = [
        "--input",
        str(folders / "archive"),
        "--model",
        str(folders / "model"),
        "--output",
        str(folders / "run"),
    ]
    assert run(["score", *arguments]) == 0
    shown = capfd.readouterr()
    assert "Confusion (rows: truth, columns: prediction)" in shown.out
    assert f"predictions and summary are in {folders / 'run'}" in shown.out
    assert all(line.startswith(("starting", "scoring", "adding up")) for line in shown.err.splitlines()), shown.err
    rows = pq.read_table(folders / "run" / "predictions").to_pylist()
    assert len(rows) == len({row["uri"] for row in rows}) == 20
    assert all(row["uri"].split("/")[-2] == row["label"] for row in rows)
    before = (folders / "run" / "summary" / "summary.json").read_bytes()
    assert run(["report", str(folders / "run")]) == 0
    assert (folders / "run" / "summary" / "summary.json").read_bytes() == before
    assert run(["score", *arguments]) == 0
    assert "nothing new to score" in capfd.readouterr().out


@pytest.mark.timeout(600)
def test_the_bundle_tells_what_was_learned_from_and_what_was_measured(folders):
    bundle = load_bundle(str(folders / "model"))
    reference, seen = read_reference(bundle), read_seen(bundle)
    assert len(reference) == bundle.metrics["images"] and reference["group"].null_count == 0
    assert len(seen.content_N) + len(reference) == bundle.provenance["data"]["pictures"], "a copy is no other file"
    score_here(request_for(folders / "training", folders / "again", bundle), engine_of(bundle))
    rows = list(contents(folders / "again").values())
    assert sum(row["seen"] or False for row in rows) == bundle.provenance["data"]["train_images"]
    assert {row["seen"] for row in rows if row["status"] == "error"} == {None}
