"""What `brainray train` measures and promises where `--init` or `--teacher` has seen the pictures, with no Ray."""

import hashlib
from functools import partial

import pytest
from support.imaging.images import image_bytes
from support.models.bundles import untrained
from support.models.telling import telling
from support.training.fitting import fit_here, says_the_truth

from brainray import storage
from brainray.cli.app import run
from brainray.commands import train as train_job
from brainray.commands.results import TrainResult
from brainray.duplicates.seen import read_seen
from brainray.models.bundle import load_bundle
from brainray.models.reference import read_reference

CLASSES = ("a", "b")
IMAGES = 24  # of each class
SMALL = ("--epochs", "1", "--image-px", "32", "--width", "0.25")


@pytest.fixture
def data(archive):
    return archive("data", images=IMAGES, classes=CLASSES)


@pytest.fixture
def train(data, tmp_path, monkeypatch):
    """The command on 48 pictures, of which a stand-in calls each by its name; gives the bundle and its card."""
    monkeypatch.setattr(train_job, "_fit", partial(fit_here, says=says_the_truth))

    def command(*options, name="model"):
        output = tmp_path / name
        given = ("train", "--data", data, "--output", output, *SMALL, "--folds", "2", *options)
        assert run([str(each) for each in given]) == 0
        return load_bundle(str(output)), (output / "training" / "model-card.md").read_text()

    return command


@pytest.fixture
def model_of(tmp_path):
    """A model that tells that it has learned from these files."""

    def make(*files):
        folder = tmp_path / "init"
        telling(untrained(tmp_path / "plain", image_px=32, classes=CLASSES), folder, [f.read_bytes() for f in files])
        return folder

    return make


def files_of(data, numbers=range(IMAGES)):
    return [data / name / f"{number}.jpg" for name in CLASSES for number in numbers]


def short_hash(file):
    return int(hashlib.sha256(file.read_bytes()).hexdigest()[:16], 16)


def assert_promises_nothing(bundle, card):
    assert bundle.metrics["review"]["promise"] is None and bundle.calibration.review_below > 1
    assert bundle.calibration.temperature >= 1, "what is known by heart must make it no surer"
    assert read_reference(bundle) is None and bundle.reference is None
    names = storage.list_names(storage.join(bundle.uri, "training"))
    assert "confusion.parquet" not in names and "reference.parquet" not in names
    assert "**No promise.** What was measured here had been learned from before, or may have been" in card
    assert "On images it has not seen" not in card and "judged by a model that has seen no copy" not in card
    assert "**Promise" not in card


def test_nothing_is_promised_from_pictures_that_the_first_weights_know_by_heart(train, data, model_of, capfd):
    """Else random labels, learned by heart and then "measured", give 100 % and a promise of 90 %."""
    assert train()[0].metrics["review"]["promise"] == 0.9
    bundle, card = train("--init", model_of(*files_of(data)), name="second")
    assert_promises_nothing(bundle, card)
    assert bundle.metrics["learned_before"] == {"by": ["--init"], "pictures": 48, "flatters": True}
    assert "**These figures flatter.** Training began with what the model of --init had learned" in card
    assert "2 folds: pictures that the model of --init had learned from, so every figure flatters." in card
    said = capfd.readouterr()
    line = "the model of --init had learned from 48 of 48 measured pictures, or their groups, and too few others are"
    assert said.err.count(line) == 1
    result = TrainResult(
        model=bundle.uri, fingerprint=bundle.fingerprint, classes=bundle.classes, metrics=bundle.metrics
    )
    assert "on 48 pictures that it may know already;" in str(result)
    assert "48 pictures it may know already\nthat flatters, so nothing is promised" in said.out


def test_nothing_is_promised_where_the_model_of_init_does_not_tell(train, tmp_path, capfd):
    untrained(tmp_path / "init", image_px=32, classes=CLASSES)
    bundle, card = train("--init", tmp_path / "init")
    assert_promises_nothing(bundle, card)
    assert "**These figures may flatter.**" in card and "may have learned from" in card
    assert capfd.readouterr().err.count("nothing tells what the model of --init had learned from") == 1
    assert_promises_nothing(*train("--init", bundle.uri, name="third"))


def test_a_model_of_other_images_is_measured_and_promises_as_without_it(train, tmp_path, model_of):
    other = tmp_path / "other.jpg"
    other.write_bytes(image_bytes(77))
    plain, _ = train("--crop", "none")  # as the model of --init, whose crop is kept
    bundle, card = train("--init", model_of(other), name="second")
    assert bundle.metrics["review"] == plain.metrics["review"]
    assert bundle.metrics["accuracy"] == plain.metrics["accuracy"]
    assert read_reference(bundle).equals(read_reference(plain))
    assert "had learned" not in card


def test_what_was_seen_and_its_groups_are_left_out_and_all_else_is_measured(train, data, model_of, tmp_path, capfd):
    groups = tmp_path / "groups.csv"
    rows = [f"{name}/{number}.jpg,{name}{number // 2}\n" for name in CLASSES for number in range(IMAGES)]
    groups.write_text("image,patient\n" + "".join(rows))
    init = model_of(*files_of(data, (1, 4)))
    bundle, card = train("--init", init, "--groups", groups)
    reference = read_reference(bundle)
    seen = {f"{name}{group}" for name in CLASSES for group in (0, 2)}
    assert set(reference["group"].to_pylist()) == {f"{k}{n}" for k in CLASSES for n in range(IMAGES // 2)} - seen
    assert bundle.metrics["images"] == len(reference) == 2 * IMAGES - 8
    assert bundle.metrics["resampled"] == {"groups": 20, "units": 20}
    assert bundle.metrics["learned_before"] == {"by": ["--init"], "pictures": 8, "flatters": False}
    assert "8 pictures that the model of --init had learned from, or from copies of them or others of their" in card
    assert "no image of the same group; without what the model of --init had learned from." in card
    assert "had learned from 8 of 48 measured pictures, or their groups: they are left out" in capfd.readouterr().err


def test_without_folds_what_was_seen_is_left_out_of_the_validation_pictures(train, data, model_of):
    half = ("--folds", "0", "--val-fraction", "0.5", "--crop", "none")
    plain, _ = train(*half)
    learned = set(read_seen(plain).content_N.tolist())
    held_out = [file for file in files_of(data) if short_hash(file) not in learned]
    bundle, card = train(*half, "--init", model_of(*held_out[:3]), name="second")
    assert plain.metrics["images"] == 24 and bundle.metrics["images"] == len(read_reference(bundle)) == 21
    assert "3 pictures that the model of --init had learned from" in card
    assert "epoch, temperature and threshold were chosen on these images" in card


def test_a_teacher_passes_on_what_its_first_weights_had_seen(train, data, model_of):
    init = model_of(*files_of(data, range(4)))
    plain_teacher, _ = train("--keep-folds", name="plain-teacher")
    bundle, _ = train("--teacher", plain_teacher.uri)
    assert bundle.metrics["images"] == 48 and "learned_before" not in bundle.metrics
    teacher, _ = train("--keep-folds", "--init", init, name="teacher")
    bundle, card = train("--teacher", teacher.uri, "--crop", "none", name="second")
    assert bundle.metrics["learned_before"] == {"by": ["--teacher"], "pictures": 8, "flatters": False}
    assert len(read_reference(bundle)) == 40 and "that the weights that --teacher began with had learned from" in card
    assert read_seen(bundle).earlier_N.sum() == 8, "so that it is passed on once more"
