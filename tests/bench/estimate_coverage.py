"""How often the 95 % intervals of `brainray estimate` hold the truth: labels are hidden, and samples drawn many times.

Archives are of a classifier that is drawn, whose errors come by the patient, or with --reference of the pictures of a
bundle's training/reference.parquet, judged by folds that had not seen their patients. Each archive is drawn from as
`brainray pick` does, and estimated as `brainray estimate` does. Prints a row for each archive, or for many mixtures of
classes their mean and their worst.
"""

import argparse
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq

from brainray.evaluation.counts import UNITS
from brainray.evaluation.metrics import IntervalEstimate
from brainray.evaluation.sampling import BINS, STRATA, cut_strata, draw_order, error_bin, stratum_of
from brainray.evaluation.stratified import LabelledEstimates, Population, Sample, estimate

GOAL = 0.93


class Rows(NamedTuple):
    """Images with what is known of them."""

    probs: np.ndarray  # [N, K]
    label: np.ndarray  # [N]
    patient: np.ndarray  # [N]

    def at(self, rows: np.ndarray) -> "Rows":
        return Rows(*(column[rows] for column in self))


class Result(NamedTuple):
    """Draws of one archive: whether each interval holds the truth, and its half width; NaN where none is printed."""

    held: np.ndarray  # [draws, 1 + 2 K] accuracy, recall and prevalence of each class
    half: np.ndarray  # the same
    error: float  # the largest of a prevalence, in any draw

    def lines(self) -> list[tuple[float, float]]:
        """How often accuracy is held, recall and prevalence of the class for which it is least so; and half widths."""
        held, half = np.nanmean(self.held, axis=0), np.nanmean(self.half, axis=0)
        K = (len(held) - 1) // 2
        return [
            (float(np.nanmin(held[places])), float(np.nanmean(half[places])))
            for places in (slice(0, 1), slice(1, K + 1), slice(K + 1, None))
        ]


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    rng = np.random.default_rng(options.seed)
    print(f"{'archive':<44}{'labels':>7}  accuracy      recall        prevalence    worst error")
    for name, found in _results(options, rng):
        cells = "".join(f"{held:>7.3f} ±{100 * half:<5.1f}" for held, half in found.lines())
        missed = "" if min(held for held, _ in found.lines()) >= GOAL else "  below the goal"
        print(f"{name:<44}{options.labels:>7}{cells}{100 * found.error:>8.1f}{missed}", flush=True)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", help="training/reference.parquet of a bundle, instead of drawn pictures")
    parser.add_argument("--draws", type=int, default=1000, help="samples of each archive")
    parser.add_argument("--mixtures", type=int, default=50, help="archives with other shares of the classes")
    parser.add_argument("--images", type=int, default=5000, help="images of an archive")
    parser.add_argument("--labels", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(arguments)


def _results(options: argparse.Namespace, rng: np.random.Generator) -> Iterator[tuple[str, Result]]:
    size, labels, draws = options.images, options.labels, options.draws
    pool = _pool(options, rng)
    for name, rows in _archives(pool, size, rng):
        yield name, _cover(rows, labels, draws, rng)
        # `pick` refuses whole patients of which one has more images than labels.
        if rows is pool and np.unique(rows.patient, return_counts=True)[1].max() <= labels:
            yield f"{name}, whole patients", _cover(rows, labels, draws, rng, whole=True)
            largest = _with_errors_of_the_largest(rows, 0.1)
            yield "the same, the largest are wrong", _cover(largest, labels, draws, rng, whole=True)
    each = max(1, draws // options.mixtures)
    found = [_cover(_mixture(pool, size, rng), labels, each, rng) for _ in range(options.mixtures)]
    together = (np.concatenate([getattr(one, name) for one in found]) for name in ("held", "half"))
    yield f"{options.mixtures} mixtures, together", Result(*together, max(one.error for one in found))


def _archives(pool: Rows, size: int, rng: np.random.Generator) -> Iterator[tuple[str, Rows]]:
    """Archives with their names; the first is the pool itself."""
    yield "as it is", pool
    shares = np.full(pool.probs.shape[1], 0.33)
    shares[-1] = 0.01
    yield "one class of 1 %", _with_shares(pool, shares / shares.sum(), size, rng)
    sharper = pool._replace(probs=_sharpened(pool.probs, 3.0)).at(rng.integers(0, len(pool.label), size))
    yield "confidences three times too sharp", sharper
    yield "confidences of no use", sharper._replace(probs=_shuffled(sharper.probs, rng))
    yield "photographs are 20 % of it", _with_photographs(pool, 0.2, size, rng)
    yield (
        "10 % of the patients are wrong and sure",
        _with_confident_errors(pool, 0.1, rng).at(rng.integers(0, len(pool.label), size)),
    )


def _pool(options: argparse.Namespace, rng: np.random.Generator) -> Rows:
    """Pictures that archives are made of."""
    if options.reference is None:
        return drawn_pictures(600, 9, rng)
    table = pq.read_table(options.reference)
    names = [name for name in table.column_names if name.startswith("prob_")]
    classes = [name.removeprefix("prob_") for name in names]
    label = np.array([classes.index(each) for each in table["label"].to_pylist()])
    return Rows(np.stack([table[name] for name in names], axis=1).astype(np.float64), label, table["unit"].to_numpy())


def drawn_pictures(
    patients: int,
    each: int,
    rng: np.random.Generator,
    *,
    least: int = 1,
    classes: int = 4,
    shares: np.ndarray | None = None,
) -> Rows:
    """Pictures of a classifier with some 4 % of errors that come by the patient, and of calibrated probabilities.

    A patient has `least` pictures or more, on average `each`, all of one class; `shares` are those of the classes.
    """
    size = rng.integers(least, 2 * each - least + 1, patients)
    patient = np.repeat(np.arange(patients), size)
    label = (rng.integers(0, classes, patients) if shares is None else rng.choice(classes, patients, p=shares))[patient]
    scores = rng.normal(size=(len(label), classes)) + 0.7 * rng.normal(size=(patients, classes))[patient]
    scores[np.arange(len(label)), label] += 3.7
    spread = 1 + 0.7**2
    return Rows(_softmax(3.7 / spread * scores), label, patient)


def _softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def _sharpened(probs: np.ndarray, factor: float) -> np.ndarray:
    return _softmax(factor * np.log(np.maximum(probs, 1e-12)))


def _shuffled(probs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The same predictions, with the confidences of other images."""
    confidence, predicted = rng.permutation(probs.max(axis=1)), probs.argmax(axis=1)
    K = probs.shape[1]
    others = np.repeat(((1 - confidence) / (K - 1))[:, None], K, axis=1)
    others[np.arange(len(others)), predicted] = confidence
    return others


def _with_shares(pool: Rows, shares: np.ndarray, size: int, rng: np.random.Generator) -> Rows:
    """An archive with these shares of the classes, as in pure label shift."""
    by_class = [np.flatnonzero(pool.label == k) for k in range(len(shares))]
    return pool.at(np.concatenate([rng.choice(by_class[k], n) for k, n in enumerate(rng.multinomial(size, shares))]))


def _mixture(pool: Rows, size: int, rng: np.random.Generator) -> Rows:
    return _with_shares(pool, rng.dirichlet(np.ones(pool.probs.shape[1])), size, rng)


def _with_photographs(pool: Rows, share: float, size: int, rng: np.random.Generator) -> Rows:
    """Images of no class, at the end of the pool's labels, of which the model is as sure as it happens to be."""
    rows = pool.at(rng.integers(0, len(pool.label), size))
    is_photograph = rng.random(size) < share
    random = _softmax(4 * rng.normal(size=rows.probs.shape))
    return rows._replace(
        probs=np.where(is_photograph[:, None], random, rows.probs), label=np.where(is_photograph, -3, rows.label)
    )


def _with_confident_errors(pool: Rows, share: float, rng: np.random.Generator) -> Rows:
    """Some patients of whom every picture is taken for another class, as surely as it is recognised elsewhere."""
    bad = np.isin(pool.patient, rng.choice(np.unique(pool.patient), int(share * len(np.unique(pool.patient)))))
    return pool._replace(probs=np.where(bad[:, None], np.roll(pool.probs, 1, axis=1), pool.probs))


def _with_errors_of_the_largest(pool: Rows, share: float) -> Rows:
    """The patients with the most pictures are those of whom every picture is taken for another class."""
    size = np.bincount(pool.patient)
    bad = size[pool.patient] > np.quantile(size, 1 - share)
    return pool._replace(probs=np.where(bad[:, None], np.roll(pool.probs, 1, axis=1), pool.probs))


def _cover(rows: Rows, labels: int, draws: int, rng: np.random.Generator, *, whole: bool = False) -> Result:
    """Draw samples, of single images or of whole patients, and compare their intervals with the truth."""
    K, images = rows.probs.shape[1], len(rows.label)
    unit = np.unique(rows.patient, return_inverse=True)[1] if whole else np.arange(images)
    predicted, size = rows.probs.argmax(axis=1), np.bincount(unit)
    error = np.bincount(unit, 1 - rows.probs.max(axis=1)) / size
    bins = error_bin(error)
    sums = np.zeros(BINS, np.int64)
    np.add.at(sums, bins, np.rint(error * UNITS).astype(np.int64))
    strata = cut_strata(np.bincount(bins, minlength=BINS), sums, strata=1 if whole else STRATA)
    stratum_of_unit = stratum_of(bins, strata)
    stratum, order = stratum_of_unit[unit], draw_order(strata, labels)
    by_class = np.stack([np.bincount(predicted[stratum == h], minlength=K) for h in range(len(strata.units))])
    population = Population(by_class.sum(axis=1), strata.units, by_class, np.zeros((K, K), np.int64))
    found = []
    for _ in range(draws):
        units = _drawn_units(stratum_of_unit, order, rng)
        units = units[np.cumsum(size[units]) - size[units] < labels]
        at = np.flatnonzero(np.isin(unit, units))
        found.append(estimate(population, Sample(stratum[at], unit[at], predicted[at], rows.label[at])))
    return _result(found, rows.label, predicted, K)


def _drawn_units(stratum: np.ndarray, order: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Units in the order in which they are drawn."""
    units = np.empty(len(order), np.int64)
    for h in np.unique(order):
        own = np.flatnonzero(order == h)
        units[own] = rng.choice(np.flatnonzero(stratum == h), len(own), replace=False)
    return units


def _result(found: Sequence[LabelledEstimates], label: np.ndarray, predicted: np.ndarray, K: int) -> Result:
    recall = [(predicted[label == k] == k).mean() if (label == k).any() else np.nan for k in range(K)]
    prevalence = [(label == k).mean() for k in range(K)]
    truth = np.array([(label == predicted).mean(), *recall, *prevalence])
    ends = np.array([[_ends(one) for one in (each.accuracy, *each.recall, *each.prevalence)] for each in found])
    low, high = ends[:, :, 0], ends[:, :, 1]
    held = np.where(np.isnan(low) | np.isnan(truth), np.nan, (low - 1e-9 <= truth) & (truth <= high + 1e-9))
    values = np.array([[one.value for one in each.prevalence] for each in found])
    return Result(held, (high - low) / 2, float(np.abs(values - prevalence).max()))


def _ends(interval: IntervalEstimate | None) -> tuple[float, float]:
    return (np.nan, np.nan) if interval is None else (interval.low, interval.high)


if __name__ == "__main__":
    main()
