"""What is said of an archive without labels, and what is withheld with a reason."""

import numpy as np
import pytest
from support.each import each

from brainray.evaluation import label_shift
from brainray.evaluation.shift import Pictures
from brainray.evaluation.territory import PATIENTS, patients, territory

CLASSES = ("glioma", "notumor")


def drawn(counts, *, seed, moved=0.0, sure=6.0, each=1):
    rng = np.random.default_rng(seed)
    label = rng.permutation(np.repeat([0, 1], counts))
    features = rng.normal(size=(len(label), 4)) + moved
    features[:, 0] += 3 * (2 * label - 1)
    right = 1 / (1 + np.exp(sure * features[:, 0]))
    group = np.arange(len(label)) if each == 1 else label * 1000 + np.arange(len(label)) % each
    return Pictures(np.stack([right, 1 - right], axis=1), features.astype(np.float32), group), label


REFERENCE = drawn([250, 250], seed=0)


def alone(reference):
    """With the pictures of the first class from one site, among which everything would be as usual."""
    pictures, label = reference
    return pictures._replace(group_N=np.where(label == 0, 0, 1 + pictures.group_N)), label


@pytest.fixture(autouse=True)
def few_draws(monkeypatch):
    monkeypatch.setattr(label_shift, "DRAWS", 40)


def said(archive, reference=REFERENCE, features=300, **given):
    return territory(reference, archive, features=min(features, len(archive.group_N)), classes=CLASSES, **given)


def test_where_only_the_mix_of_classes_differs_all_is_said():
    found = said(drawn([7200, 800], seed=1)[0], features=1_000)
    assert found["kind"] == "class mix" and found["withheld"] is None
    share = found["prevalence"]["notumor"]
    assert share["low"] < 0.1 < share["high"] < share["low"] + 0.05
    accuracy = found["accuracy"]
    assert accuracy["by_confidence"] == pytest.approx(0.999, abs=0.003) and accuracy["gap"] < 0.01
    assert accuracy["low"] < accuracy["by_threshold"] <= accuracy["high"]


@pytest.mark.parametrize(("counts", "kind"), [((4800, 3200), "class mix"), ((4040, 3960), "alike")])
def test_a_mix_that_is_too_near_for_the_tests_is_told_by_its_shares(counts, kind):
    """Else an archive with a third more of a tumour would be called like what the model knows."""
    found = said(drawn(counts, seed=1)[0], features=1_000)
    assert not any(test["different"] for test in found["tests"])
    assert found["kind"] == kind and found["prevalence"]


def test_where_the_pictures_differ_shares_and_accuracy_are_withheld_and_counts_are_not():
    found = said(drawn([300, 300], seed=1, moved=1.5)[0])
    assert found["kind"] == "pictures" and found["prevalence"] is found["accuracy"] is None
    assert found["withheld"] == "the pictures differ from those that the model knows"
    assert sum(found["counted"].values()) == pytest.approx(1)


@each(
    ("reference", "archive", "why"),
    [
        (None, drawn([300, 300], seed=1)[0], "the model brings no reference"),
        (drawn([200, 200], seed=0), drawn([300, 300], seed=1)[0], "the model's reference has fewer than 500"),
        (REFERENCE, drawn([20, 20], seed=1)[0], "fewer than 50 scored images have features"),
        (REFERENCE, drawn([0, 0], seed=1)[0], "fewer than 50 scored images have features"),
        (drawn([500, 1], seed=0), drawn([300, 300], seed=1)[0], "the model's reference has no pictures of notumor"),
        (alone(REFERENCE), drawn([300, 300], seed=1)[0], "the model's reference has one patient, or one site, of glio"),
    ],
    ids=["no reference", "few pictures in it", "few images", "no image", "a class without pictures", "one site"],
)
def test_what_cannot_be_compared_has_a_reason(reference, archive, why):
    found = said(archive, reference)
    assert found["kind"] is found["prevalence"] is found["accuracy"] is None
    assert found["reason"].startswith(why) and found["withheld"] == found["reason"]


@pytest.mark.parametrize(
    ("reference", "archive", "why"),
    [
        (
            drawn([250, 250], seed=0, each=5),
            drawn([300, 300], seed=1)[0],
            "the model's reference knows glioma from too",
        ),
        (drawn([250, 250], seed=0, sure=0), drawn([300, 300], seed=1, sure=0)[0], "the model hardly tells"),
        (REFERENCE, drawn([200, 200], seed=1)[0], "from 400 images the intervals would be"),
    ],
    ids=["few patients", "a useless model", "few images"],
)
def test_shares_that_nothing_vouches_for_are_withheld(reference, archive, why):
    found = said(archive, reference)
    assert found["kind"] == "pictures alike", "a mix of which no shares are known may differ"
    assert found["prevalence"] is found["accuracy"] is None
    assert found["withheld"].startswith(why)


@pytest.mark.parametrize(
    ("each", "kind", "why"),
    [(100, "alike", None), (20, "pictures alike", "of which up to "), (4, "pictures", "the pictures differ")],
)
def test_photographs_among_the_images_widen_intervals_or_are_named(each, kind, why):
    """Shares of all were held too seldom where 2 % of the images were of no class."""
    archive, _ = drawn([4000, 4000], seed=1)
    features = archive.features_NF.copy()
    features[:: 5 * each] += 40
    found = said(archive._replace(features_NF=features), features=1_000)
    assert found["kind"] == kind
    assert found["beyond"]["value"] == pytest.approx(0.2 / each, abs=0.005)
    assert found["withheld"] is why or why in found["withheld"]


def test_a_class_that_is_called_another_is_no_other_mix():
    """Else shares would be off by as many points as are called wrong, and their intervals would not say so."""
    archive, label = drawn([4000, 4000], seed=1)
    probs = archive.probs_NK.copy()
    is_hit = (label == 0) & (np.arange(8000) % 5 == 0)
    probs[is_hit] = probs[is_hit][:, ::-1]
    found = said(archive._replace(probs_NK=probs), features=1_000)
    assert found["kind"] == "unclear" and found["prevalence"] is None
    assert found["withheld"].startswith("more of the images than usual are called notumor and look like glioma (9.6 %")


@pytest.mark.parametrize("images", [50, 200])
def test_few_images_do_not_differ_for_being_few(images):
    """Of folders of 50 images of other patients three in four were called different."""
    for seed in range(1, 7):
        archive, _ = drawn([images // 2, images // 2], seed=seed)
        assert said(archive)["kind"] == "pictures alike"


def test_a_few_large_groups_are_no_patients():
    assert len(set(patients(np.zeros(100, int)).tolist())) == 100
    assert len(set(patients(np.arange(100) % PATIENTS).tolist())) == PATIENTS


def test_a_few_groups_that_are_known_to_be_patients_widen_intervals(monkeypatch):
    """Errors come by the patient: ten of them may all be those that the model is wrong about. Ten sites are not."""
    archive, _ = drawn([4000, 4000], seed=1)
    archive = archive._replace(group_N=np.arange(8000) % 10)
    pictures, label = REFERENCE
    wrong_N = np.arange(len(label)) % 10 == 0
    monkeypatch.setattr("brainray.evaluation.territory.WIDEST", 1.0)
    of_sites, of_patients = (
        said(archive, (pictures, np.where(wrong_N, 1 - label, label)), 1_000, patient_count=count)["prevalence"][
            "glioma"
        ]
        for count in (None, 10)
    )
    assert of_patients["low"] < of_sites["low"] < of_sites["high"] < of_patients["high"]


def test_an_archive_of_one_group_and_one_class_is_compared():
    archive, _ = drawn([400, 0], seed=1)
    found = said(archive._replace(group_N=np.zeros(400, int)))
    assert found["kind"] == "class mix"
    assert found["counted"]["glioma"] > 0.98
