"""How often intervals of a summary without labels hold the truth, and how often a summary withholds them.

A reference and archives of other patients are drawn from the classifier of `estimate_coverage.py`, with features whose
means are those of their class and their patient. Labels are hidden; a figure counts in the draws in which it is given.
Most archives have no groups: their images are drawn one by one. Others are of whole patients, of 10 to 40 images each,
of which --images are looked at; groups are known or not. The truth is that of the images that are looked at, and that
of all which they are drawn from: the archive. Kinds of which a summary withholds all are drawn in every tenth draw
only. Prints a row for each kind.
With --output each draw is kept in a file, and those that are there are not drawn again.

    python tests/bench/territory_coverage.py --draws 200 --workers 2 --output draws.jsonl
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
from estimate_coverage import Rows, drawn_pictures

from brainray.evaluation.shift import Kind, Pictures
from brainray.evaluation.territory import territory

CLASSES = ("glioma", "meningioma", "notumor", "pituitary")
FEATURES, _OF_CLASS, _OF_PATIENT = 32, 0.7, 0.8  # spread of the means; that of images is 1
NO_CLASS = -1
KINDS = get_args(Kind)
_WITHHELD = 10  # of so many draws, kinds of which nothing is ever given are drawn in one


class Truth(NamedTuple):
    """What is hidden of an archive."""

    shares: list[float]  # of the classes
    accuracy: float

    @classmethod
    def of(cls, rows: Rows, shares: np.ndarray) -> "Truth":
        """Of pictures of these classes in this mix."""
        right = rows.probs.argmax(axis=1) == rows.label
        by_class = [right[rows.label == k].mean() if (rows.label == k).any() else 0.0 for k in range(len(shares))]
        return cls(shares.tolist(), float(shares @ by_class))


class Archive(NamedTuple):
    """Images with features, drawn at random from more; their labels are hidden."""

    rows: Rows
    features: np.ndarray
    all: Truth  # of those that they are drawn from
    group: np.ndarray  # what is known of their patients

    def first(self, images: int) -> "Archive":
        """The first of them, which are a random part."""
        at = np.arange(images)
        return Archive(self.rows.at(at), self.features[at], self.all, self.group[at])


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    known = {"seed": options.seed, "images": options.images, "patients": options.patients}
    draws = dict(_kept(options.output, known))
    missing = [number for number in range(options.draws) if number not in draws]
    with ProcessPoolExecutor(options.workers) as pool:
        for task in as_completed([pool.submit(_drawn, number, **known) for number in missing]):
            draw = task.result()
            draws[draw["number"]] = draw
            if options.output:
                with options.output.open("a") as file:
                    file.write(json.dumps(draw) + "\n")
    archives = [draws[number]["archives"] for number in sorted(draws) if number < options.draws]
    print(f"{'':<44}  of the images looked at     of all they are drawn from")
    print(f"{'archive':<30}{'draws':>7}{'given':>7}{'  shares  acc.  error, most' * 2}  half  kinds")
    for name in archives[0]:
        print(f"{name:<30}{_row([each[name] for each in archives if name in each])}")


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=200, help="references and archives of each kind")
    parser.add_argument("--images", type=int, default=5_000, help="of an archive")
    parser.add_argument(
        "--patients", type=int, default=600, help="of a reference, and of those an archive is drawn from"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1, help="processes")
    parser.add_argument("--output", type=Path, help="file with a line for each draw, which others are added to")
    return parser.parse_args(arguments)


def _kept(output: Path | None, known: dict[str, int]) -> Iterator[tuple[int, dict[str, Any]]]:
    """The draws with these options in a file, by their numbers."""
    if output and output.exists():
        for line in output.read_text().splitlines():
            draw = json.loads(line)
            if draw["options"] == known:
                yield draw["number"], draw


def _drawn(number: int, **options: int) -> dict[str, Any]:
    """A draw: what is said of an archive of each kind, and the truth."""
    rng = np.random.default_rng([options["seed"], number])
    means = _OF_CLASS * rng.normal(size=(len(CLASSES), FEATURES))
    known = _with_features(drawn_pictures(options["patients"], 9, rng), means, rng)
    others = _with_features(drawn_pictures(options["patients"], 9, rng), means, rng)
    archives = _archives(others, options["images"], rng, withheld=number % _WITHHELD == 0)
    found = {name: _said(known, archive) for name, archive in archives}
    found |= {name: _said(known, archive) for name, archive in _of_patients(means, options["images"], rng)}
    slope, bias_K = np.exp(0.15 * rng.normal()), 0.25 * rng.normal(size=len(CLASSES))
    known_off, others_off = (_off(side, slope, bias_K) for side in (known, others))
    mixed = _mixed(others_off, rng.dirichlet(np.ones(len(CLASSES))), options["images"], rng)
    found["another mix, probabilities off"] = _said(known_off, mixed)
    if number % _WITHHELD == 0:
        twelve = _whole(12, np.full(len(CLASSES), 1 / len(CLASSES)), means, options["images"], rng)
        found["12 patients, groups known"] = _said(known, twelve)
    return {"number": number, "options": options, "archives": found}


def _archives(
    others: Archive, images: int, rng: np.random.Generator, *, withheld: bool
) -> Iterator[tuple[str, Archive]]:
    """Kinds of archives with their names; `withheld`: also those of which nothing is ever given."""
    K = len(CLASSES)
    as_it_is = _mixed(others, np.full(K, 1 / K), images, rng)
    yield "as it is", as_it_is
    yield "another mix of classes", _mixed(others, rng.dirichlet(np.ones(K)), images, rng)
    yield "one class is missing", _mixed(others, np.array([*rng.dirichlet(np.ones(K - 1)), 0.0]), images, rng)
    yield "18 % of one class called another", _called_another(as_it_is, 0.18, rng)
    yield "10 % of one class called another", _called_another(as_it_is, 0.1, rng)
    yield "50 images, as they are", as_it_is.first(50)
    yield "200 images, as they are", as_it_is.first(200)
    for share in (0.01, 0.02, 0.05, 0.1, 0.2) if withheld else (0.01, 0.02):
        yield f"photographs are {share:.0%} of it", _with_photographs(as_it_is, share, rng)
    if not withheld:
        return
    moved = as_it_is.features + 0.6 * rng.normal(size=FEATURES)
    yield "another source", as_it_is._replace(features=moved.astype(np.float32))


def _of_patients(means: np.ndarray, images: int, rng: np.random.Generator) -> Iterator[tuple[str, Archive]]:
    """Archives of whole patients with their names."""
    K = len(CLASSES)
    yield "2,000 patients, groups known", _whole(2_000, np.full(K, 1 / K), means, images, rng)
    yield "the same, another mix", _whole(2_000, rng.dirichlet(np.ones(K)), means, images, rng)
    few = _whole(200, rng.dirichlet(np.ones(K)), means, images, rng)
    yield "200, another mix, groups known", few
    yield "the same, groups unknown", few._replace(group=np.arange(len(few.group)))


def _whole(patients: int, shares: np.ndarray, means: np.ndarray, images: int, rng: np.random.Generator) -> Archive:
    """So many patients of classes with these shares, of 10 to 40 images each; at most `images` are looked at."""
    rows = drawn_pictures(patients, 25, rng, least=10, shares=shares)
    at = rng.permutation(len(rows.label))[:images]
    archive = _with_features(rows.at(at), means, rng)
    return archive._replace(all=Truth.of(rows, _shares(rows)), group=archive.rows.patient)


def _off(archive: Archive, slope: float, bias_K: np.ndarray) -> Archive:
    """Images of which the model is too sure, or not sure enough, and calls some classes too often."""
    logits = slope * np.log(np.maximum(archive.rows.probs, 1e-12)) + bias_K
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return archive._replace(rows=archive.rows._replace(probs=powers / powers.sum(axis=1, keepdims=True)))


def _with_features(rows: Rows, means: np.ndarray, rng: np.random.Generator) -> Archive:
    """Pictures with features and without groups."""
    of_patient = _OF_PATIENT * rng.normal(size=(rows.patient.max() + 1, FEATURES))
    features = means[rows.label] + of_patient[rows.patient] + rng.normal(size=(len(rows.label), FEATURES))
    single = np.arange(len(rows.label))
    return Archive(rows, features.astype(np.float32), Truth.of(rows, _shares(rows)), single)


def _shares(rows: Rows) -> np.ndarray:
    return np.bincount(rows.label[rows.label != NO_CLASS], minlength=len(CLASSES)) / len(rows.label)


def _mixed(others: Archive, shares: np.ndarray, images: int, rng: np.random.Generator) -> Archive:
    label = others.rows.label
    by_class = [rng.choice(np.flatnonzero(label == k), n) for k, n in enumerate(rng.multinomial(images, shares))]
    at = rng.permutation(np.concatenate(by_class))
    return Archive(others.rows.at(at), others.features[at], Truth.of(others.rows, shares), np.arange(images))


def _called_another(archive: Archive, share: float, rng: np.random.Generator) -> Archive:
    """Of one class the patients with this share, whom the model takes for another class, as surely as it knows that."""
    rows, probs = archive.rows, archive.rows.probs.copy()
    own = rng.permutation(np.unique(rows.patient[rows.label == 0]))
    is_hit = (rows.label == 0) & np.isin(rows.patient, own[: round(share * len(own))])
    probs[is_hit] = probs[is_hit][:, [1, 0, *range(2, probs.shape[1])]]
    found = rows._replace(probs=probs)
    shares = np.asarray(archive.all.shares)
    return archive._replace(rows=found, all=Truth.of(found, shares))


def _with_photographs(archive: Archive, share: float, rng: np.random.Generator) -> Archive:
    """Images of no class and far from all others, of which the model is as sure as it happens to be."""
    images = len(archive.rows.label)
    is_one = rng.random(images) < share
    logits = np.exp(4 * rng.normal(size=(images, len(CLASSES))))
    far = 4 * rng.normal(size=FEATURES) + rng.normal(size=(images, FEATURES))
    probs = np.where(is_one[:, None], logits / logits.sum(axis=1, keepdims=True), archive.rows.probs)
    rows = archive.rows._replace(probs=probs, label=np.where(is_one, NO_CLASS, archive.rows.label))
    rest = Truth([(1 - share) * each for each in archive.all.shares], (1 - share) * archive.all.accuracy)
    features = np.where(is_one[:, None], far, archive.features).astype(np.float32)
    return Archive(rows, features, rest, archive.group)


def _said(known: Archive, archive: Archive) -> dict[str, Any]:
    reference = Pictures(known.rows.probs, known.features, known.rows.patient)
    pictures = Pictures(archive.rows.probs, archive.features, archive.group)
    features = min(1_000, len(archive.group))
    patients = len(np.unique(archive.group))
    found = territory(
        (reference, known.rows.label), pictures, features=features, classes=CLASSES, patient_count=patients
    )
    return {
        "kind": found["kind"],
        "contradiction": found["contradiction"] and found["contradiction"]["effect"],
        "shares": found["prevalence"] and [found["prevalence"][name] for name in CLASSES],
        "accuracy": found["accuracy"],
        "drawn": Truth.of(archive.rows, _shares(archive.rows))._asdict(),
        "all": archive.all._asdict(),
    }


def _holds(interval: dict[str, float], value: float) -> bool:
    return interval["low"] - 1e-12 <= value <= interval["high"] + 1e-12


def _row(draws: Sequence[dict[str, Any]]) -> str:
    """Of the draws in which figures are given: how often they hold what is true, errors and half widths in points."""
    kinds = {kind: sum(draw["kind"] == kind for draw in draws) for kind in KINDS}
    counts = ", ".join(f"{kind} {number}" for kind, number in kinds.items() if number)
    given = [draw for draw in draws if draw["shares"]]
    if not given:
        return f"{len(draws):>7}{0:>7}{'':>60}  {counts}"
    half = 100 * np.mean([max((share["high"] - share["low"]) / 2 for share in draw["shares"]) for draw in given])
    return f"{len(draws):>7}{len(given):>7}{_held(given, 'drawn')}{_held(given, 'all')}{half:>6.1f}  {counts}"


def _held(given: Sequence[dict[str, Any]], of: str) -> str:
    """How often the share of the class held least, and accuracy; the error that 95 % stay below, and the largest."""
    pairs = [list(zip(draw["shares"], draw[of]["shares"], strict=True)) for draw in given]
    shares = np.mean([[_holds(*pair) for pair in draw] for draw in pairs], axis=0).min()
    accuracy = np.mean([_holds(draw["accuracy"], draw[of]["accuracy"]) for draw in given])
    errors = [100 * max(abs(share["value"] - true) for share, true in draw) for draw in pairs]
    return f"{shares:>8.3f}{accuracy:>7.3f}{np.quantile(errors, 0.95):>6.1f}{max(errors):>6.1f}"


if __name__ == "__main__":
    main()
