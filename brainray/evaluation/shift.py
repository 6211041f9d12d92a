"""Tests whether an archive differs from the reference of a model, and by what: its mix of classes, or its pictures.

Three kinds of tests, for they see different things (Rabanser et al., NeurIPS 2019): Kolmogorov and Smirnov's distance
of the probabilities of each class; the maximum mean discrepancy of features of a frozen encoder (MMD, Gretton et al.,
JMLR 2012) with a Gaussian kernel of the median distance; and the share of strangers, images whose features are farther
from all of the reference than 99 % of its own are from those of other groups. The last sees a few photographs among
many slices, which the second does not. The reference is weighted to a mix of classes: to its own, and
to that which is estimated of the archive. A difference that the second one removes is one of the mix only (Roschewitz
et al., MICCAI 2025).

Pictures come by the patient, so a difference counts only where it is larger than chance makes it among patients. Two
answers to that, of which the one that finds less holds: the reference is split at random into two halves of groups of
each class; and groups of both sides change places (permutation by group). The second says little where an archive has
no groups, the first where it has few. Axes: N rows, K classes, F features, G groups, R draws. Must not read files.
"""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from .counts import Flags, Ints, Reals

Singles = npt.NDArray[np.float32]
Kind = Literal["alike", "pictures alike", "class mix", "pictures", "unclear"]

LEVEL = 0.05  # of all tests together, by Holm (Scandinavian Journal of Statistics 6, 1979)
# Times what 95 % of the splits of the reference stay below. Splits vary too little where groups are few: without this,
# 15 % of archives of other patients were called different (`tests/bench/territory_power.py`).
LEAST_EFFECT = 2.0
# Times the usual, at the mix that is estimated of the archive: with less, what differs is unclear. Of 70 archives of
# real pictures in another mix seven would have been called other pictures with 1.0, and three were with 1.5; with 2.0
# 43 instead of 60 of 70 archives of coarser pictures were named.
_PLAIN = 1.5
# Times the usual excess of images that are called one class and look like another, at the mix that is estimated of the
# archive. Drawn archives in which 18 % of a class were called another reached it in 99 %, with 10 % in some 74 %, and
# others in at most 1 % (`tests/bench/territory_coverage.py`).
CONTRADICTED = 1.0
SOME_OTHERS, _MANY_OTHERS = 0.01, 0.02  # shares of images beyond the reference that tell that pictures differ
FEWEST = 50  # images, below which nothing is tested
MOST = 1_000  # rows of each side that are compared
STRANGERS, PICTURES = "strangers", "pictures"  # names of tests of features; the others are named by classes
_DRAWS = 199  # and more where there are many classes, so that Holm's least p-value can be reached
_RIDGE = 1e-3  # share of the mean variance that is added to each direction before whitening
# What is usual is at least this much: ratios to less mean nothing.
_LEAST_KS, _LEAST_STRANGERS, _LEAST_MMD, _LEAST_EXCESS = 0.02, 0.01, 2e-3, 0.01
_FEW_EXCESS = 3  # images that are called one class and look like another, of which fewer mean nothing
# Of archives smaller than half of the reference: others are compared with all of it, which halves have less of. Without
# this, what 9 of 156 drawn archives of 50 or 200 images were called contradicted what they looked like; then none.
_SMALL = 1.25
_STRANGE = 0.01  # share of the pictures of the reference that are farther than the limit from those of other groups


class Pictures(NamedTuple):
    """What is known of images: those of an archive, or with labels those of a reference."""

    probs_NK: Reals
    features_NF: Singles
    group_N: Ints  # any numbers; images without a group have one each

    def at(self, rows: Ints) -> "Pictures":
        """Some of them."""
        return Pictures(self.probs_NK[rows], self.features_NF[rows], self.group_N[rows])


@dataclass(frozen=True, kw_only=True)
class ShiftTest:
    """One test. `distance` is from 0: of shares and probabilities at most 1, of features the squared MMD, at most 2."""

    name: str
    distance: float
    usual: float  # what 95 % of the splits of the reference stay below
    p_value: float  # Holm's

    @property
    def effect(self) -> float:
        """The distance, in multiples of what is usual among patients."""
        return max(0.0, self.distance) / self.usual

    @property
    def is_different(self) -> bool:
        """Whether there is more than chance among patients."""
        return self.p_value <= LEVEL and self.effect >= LEAST_EFFECT


@dataclass(frozen=True, kw_only=True)
class Contradiction:
    """Images that are called one class and look like another, of the pair that the archive has most too many of.

    Where a model takes images of a class for another as surely as it knows that one, its probabilities are those of
    another mix of classes. What they look like tells.
    """

    called: str
    like: str
    share: float  # in the archive
    expected: float  # by the reference, at the mix that is estimated of the archive
    usual: float  # excess of the worst pair that 95 % of the splits of the reference stay below

    @property
    def effect(self) -> float:
        """The excess, in multiples of what is usual among patients."""
        return max(0.0, self.share - self.expected) / self.usual


def rows_spread(rows: int, most: int = MOST) -> Ints:
    """At most `most` places of rows, evenly over all."""
    return np.unique(np.linspace(0, rows - 1, min(rows, most)).astype(np.int64)) if rows else np.zeros(0, np.int64)


class Comparison:
    """A reference and an archive, prepared once for tests under several mixes of classes."""

    def __init__(self, reference: Pictures, label_N: Ints, archive: Pictures, classes: tuple[str, ...]) -> None:
        """Takes rows evenly from a reference with more than `MOST`, and of an archive the first."""
        own = rows_spread(len(label_N))
        reference, archive = reference.at(own), archive.at(np.arange(min(MOST, len(archive.group_N))))
        self._classes, self._label_N = classes, label_N[own]
        self._split_N = len(own)
        self._images = len(archive.group_N)
        self._is_small = self._images < len(own) / 2
        probs_NK = np.concatenate([reference.probs_NK, archive.probs_NK])
        features_NF = np.concatenate([reference.features_NF, archive.features_NF])
        self._kernel_NN = gaussian_kernel(features_NF @ whitening(reference.features_NF))
        of_reference, of_archive = (np.unique(side.group_N, return_inverse=True)[1] for side in (reference, archive))
        self._reference_group_N = of_reference
        self._group_N = np.concatenate([of_reference, of_archive + of_reference.max(initial=0) + 1])
        self._draws = max(_DRAWS, int(2 * (len(classes) + 2) / LEVEL) - 1)
        self._half_NR = _halves(self._reference_group_N, self._label_N, self._draws, np.random.default_rng(0))
        likeness_NS = self._to_other_groups()
        nearest_N = np.asarray(likeness_NS.max(axis=1), np.float32)
        self._pair_N = _pairs(probs_NK.argmax(axis=1), self._looks_like(likeness_NS), len(classes))
        own_S = nearest_N[: self._split_N]
        is_strange_N = nearest_N < np.quantile(own_S, _STRANGE)
        self.strangers = float(is_strange_N[self._split_N :].mean())  # share of the archive
        # Images of the archive that are farther than any picture of the reference is from those of other groups.
        self.is_beyond_N = np.asarray(nearest_N[self._split_N :] < own_S.min())
        self._values_NK = np.column_stack([probs_NK, is_strange_N])

    def tests(self, mix_K: Reals) -> list[ShiftTest]:
        """The tests against the reference with these shares of the classes; always the same draws."""
        weight_N, is_archive_N = self._weights(mix_K)
        found_T = self._distances(weight_N[:, None], ~is_archive_N[:, None])[:, 0]
        first = self._split_N
        split_NR, half_NR = self._splits(mix_K), self._half_NR
        splits_TR = _distances(self._kernel_NN[:first, :first], self._values_NK[:first], split_NR, half_NR)
        p_values = _p_values(found_T, splits_TR)
        if len(np.unique(self._group_N[first:])) < self._images:
            swapped = _sides(self._group_N, weight_N, self._draws, np.random.default_rng(1))
            p_values = np.maximum(p_values, _p_values(found_T, self._distances(weight_N[:, None], swapped)))
        floor_T = np.r_[np.full(len(self._classes), _LEAST_KS), _LEAST_STRANGERS, _LEAST_MMD]
        usual_T = np.maximum(np.quantile(splits_TR, 1 - LEVEL, axis=1), floor_T)
        names = (*self._classes, STRANGERS, PICTURES)
        return [
            ShiftTest(name=name, distance=float(found), usual=float(usual), p_value=float(p))
            for name, found, usual, p in zip(names, found_T, usual_T, holm(p_values), strict=True)
        ]

    def contradiction(self, mix_K: Reals) -> Contradiction:
        """What is called one class and looks like another, against the reference with these shares of the classes."""
        weight_N, is_archive_N = self._weights(mix_K)
        pairs, place_N = np.unique(self._pair_N, return_inverse=True)
        share_P, expected_P = (
            np.bincount(place_N[side_N], weight_N[side_N], minlength=len(pairs))
            for side_N in (is_archive_N, ~is_archive_N)
        )
        excess_P = np.where(pairs < 0, -1.0, share_P - expected_P)
        worst = int(excess_P.argmax())
        usual = float(np.quantile(self._usual_excess(mix_K), 1 - LEVEL))
        called, like = divmod(max(0, int(pairs[worst])), len(self._classes))
        return Contradiction(
            called=self._classes[called],
            like=self._classes[like],
            share=float(share_P[worst]),
            expected=float(expected_P[worst]),
            usual=max(usual * (_SMALL if self._is_small else 1), _LEAST_EXCESS, _FEW_EXCESS / self._images),
        )

    def _usual_excess(self, mix_K: Reals) -> Reals:
        """[R] by how much one half of the reference has more of a pair than the other, of the worst pair."""
        gap_NR = np.subtract(*_normalised(self._splits(mix_K), self._half_NR))
        order = np.argsort(self._pair_N[: self._split_N], kind="stable")
        order = order[self._pair_N[order] >= 0]
        if not len(order):
            return np.zeros(self._draws)
        starts = np.flatnonzero(np.diff(self._pair_N[order], prepend=-1))
        return np.asarray(-np.add.reduceat(gap_NR[order], starts, axis=0).min(axis=0), np.float64)

    def _weights(self, mix_K: Reals) -> tuple[Singles, Flags]:
        """[N] the weights of the reference with this mix and of the archive, 1 each; and [N] whose a row is."""
        first = self._split_N
        weight_N = np.full(first + self._images, 1 / max(1, self._images), np.float32)
        weight_N[:first] = _mixed(np.ones((first, 1), bool), self._label_N, mix_K)[:, 0]
        return weight_N, np.arange(len(weight_N)) >= first

    def _to_other_groups(self) -> Singles:
        """[N, S] the likeness to the pictures of the reference; of those within it, 0 to those of the same group."""
        first, group_N = self._split_N, self._reference_group_N
        likeness_NS = self._kernel_NN[:, :first].copy()
        likeness_NS[:first][group_N[:, None] == group_N[None, :]] = 0
        return likeness_NS

    def _looks_like(self, likeness_NS: Singles) -> Ints:
        """[N] the class of the reference that a picture is most like on average, whatever the model calls it."""
        is_of_SK = np.eye(len(self._classes), dtype=np.float32)[self._label_N]
        of_group_GK = np.zeros((self._reference_group_N.max(initial=0) + 1, len(self._classes)), np.float32)
        np.add.at(of_group_GK, self._reference_group_N, is_of_SK)
        pictures_NK = np.tile(is_of_SK.sum(axis=0), (len(likeness_NS), 1))
        pictures_NK[: self._split_N] -= of_group_GK[self._reference_group_N]
        return np.asarray((likeness_NS @ is_of_SK / np.maximum(pictures_NK, 1)).argmax(axis=1), np.int64)

    def _splits(self, mix_K: Reals) -> Singles:
        """[N, R] the weights of halves of the reference, both with this mix.

        Of an archive with fewer images than a half, the second one has as many, drawn at random: chance does more
        among few.
        """
        half_NR, label_N = self._half_NR, self._label_N
        weight_NR = _mixed(half_NR, label_N, mix_K) + _mixed(~half_NR, label_N, mix_K)
        if self._is_small:
            chance_NR = np.random.default_rng(2).random(weight_NR.shape, np.float32)
            is_drawn_NR = half_NR | (chance_NR < self._images * weight_NR)
            weight_NR = np.where(half_NR, weight_NR, np.maximum(weight_NR, 1 / self._images)) * is_drawn_NR
        return weight_NR

    def _distances(self, weight_N1: Singles, first_NR: Flags) -> Reals:
        return _distances(self._kernel_NN, self._values_NK, np.broadcast_to(weight_N1, first_NR.shape), first_NR)


def kind_of(
    own: list[ShiftTest], mixed: list[ShiftTest], *, others: float = 0.0, is_contradicted: bool = False
) -> Kind:
    """What differs, by the tests against the reference's own mix and against that of the archive.

    A difference is one of the mix where at that of the archive all is as usual, and one of the pictures where they
    plainly differ still; between the two it is unclear. Tests that find nothing do not vouch for the mix: of real
    archives with other mixes they found two in five. `others`: the least share of images that are beyond the reference.
    `is_contradicted`: what pictures look like contradicts what they are called.
    """
    if not any(test.is_different for test in own):
        if others > SOME_OTHERS:
            return "pictures"
        # Probabilities may contradict the estimated mix, although they are as usual at the reference's. Of strangers
        # there are as many at any mix, but for chance. With `_PLAIN` 6 % of archives as they are were not called alike.
        is_contradicted |= any(test.effect >= LEAST_EFFECT for test in mixed if test.name != STRANGERS)
        return "unclear" if is_contradicted else "pictures alike"
    if others > _MANY_OTHERS or any(test.effect >= _PLAIN for test in mixed):
        return "pictures"
    is_as_usual = all(test.effect < 1 for test in mixed) and not is_contradicted
    return "class mix" if is_as_usual and others <= SOME_OTHERS else "unclear"


def before_and_now(features_NF: Singles, group_N: Ints, first_N: Flags) -> ShiftTest:
    """Whether two sets of images differ, by features alone and permutation by group; `first_N` are those before.

    What is usual is the distance that 95 % of the permutations stay below.
    """
    _, group_N = np.unique(group_N, return_inverse=True)
    weight_N = np.where(first_N, 1 / first_N.sum(), 1 / (~first_N).sum()).astype(np.float32)
    swapped_NR = _sides(group_N, weight_N, _DRAWS, np.random.default_rng(0))
    sides_NR = np.column_stack([first_N, swapped_NR])
    nothing_NK = np.zeros((len(weight_N), 0))
    weights_NR = np.broadcast_to(weight_N[:, None], sides_NR.shape)
    with one_thread():
        kernel_NN = gaussian_kernel(features_NF @ whitening(features_NF[first_N]))
        distance_TR = _distances(kernel_NN, nothing_NK, weights_NR, sides_NR)
    found_T, null_TR = distance_TR[:, 0], distance_TR[:, 1:]
    usual = max(_LEAST_MMD, float(np.quantile(null_TR, 1 - LEVEL)))
    p_value = float(_p_values(found_T, null_TR)[0])
    return ShiftTest(name=PICTURES, distance=float(found_T[0]), usual=usual, p_value=p_value)


def one_thread() -> AbstractContextManager[object]:
    """Products of matrices in one thread: others wait busily after each, and take more processor than it does."""
    from threadpoolctl import threadpool_limits

    limits: AbstractContextManager[object] = threadpool_limits(1, user_api="blas")
    return limits


def whitening(features_NF: Singles) -> Singles:
    """[F, F] the matrix after which features of the reference are uncorrelated, each with spread 1."""
    N, F = features_NF.shape
    covariance = np.atleast_2d(np.cov(features_NF.T.astype(np.float64)))
    mean = max(float(np.trace(covariance)) / F, 1e-12)
    # The share that is replaced by an equal variance in all directions: Chen et al., IEEE Transactions on Signal
    # Processing 58, 2010 (OAS). Otherwise pictures that the matrix was not fitted to would be too far apart.
    squares = float((covariance**2).mean())
    rest = (N + 1) * (squares - mean**2 / F)
    share = min(1.0, (squares + mean**2) / rest) if rest > 0 else 1.0
    covariance = (1 - share) * covariance + (share + _RIDGE) * mean * np.eye(F)
    values, vectors = np.linalg.eigh(covariance)
    return np.asarray(vectors / np.sqrt(values), np.float32)


def gaussian_kernel(features_NF: Singles) -> Singles:
    """[N, N] likeness, 0 to 1, by squared distance over its median."""
    square_N = (features_NF**2).sum(axis=1)
    ones_N = np.ones_like(square_N)
    # Sums with the squares within the product spare three walks over a large matrix.
    kernel_NN = (
        np.column_stack([-2 * features_NF, ones_N, square_N]) @ np.column_stack([features_NF, square_N, ones_N]).T
    )
    some = kernel_NN[np.ix_(rows_spread(len(square_N), 500), rows_spread(len(square_N), 500))]
    median = float(np.median(some[some > 1e-6])) if (some > 1e-6).any() else 1.0
    kernel_NN *= -1 / median
    return np.asarray(np.exp(kernel_NN, out=kernel_NN), np.float32)


def holm(p_T: Reals) -> Reals:
    """[T] p-values that hold for all tests together."""
    order = np.argsort(p_T, kind="stable")
    raised = np.maximum.accumulate((len(p_T) - np.arange(len(p_T))) * p_T[order])
    found = np.empty(len(p_T))
    found[order] = np.minimum(raised, 1)
    return found


def _p_values(found_T: Reals, null_TR: Reals) -> Reals:
    """[T] the share of draws that are as far apart, with the observed one among them."""
    return np.asarray((1 + (null_TR >= found_T[:, None]).sum(axis=1)) / (1 + null_TR.shape[1]), np.float64)


def _distances(kernel_NN: Singles, values_NK: Reals, weight_NR: Singles, first_NR: Flags) -> Reals:
    """[K + 1, R] the distances of two sides: by the distribution of each value, and the squared MMD (unbiased)."""
    sides = _normalised(weight_NR, first_NR)
    gap_NR = sides[0] - sides[1]
    found = [np.abs(_steps(gap_NR, value_N)).max(axis=0) for value_N in values_NK.T]
    likeness = [kernel_NN @ side_NR for side_NR in sides]
    within = sum(_without_itself(side_NR, like_NR) for side_NR, like_NR in zip(sides, likeness, strict=True))
    return np.stack([*found, within - 2 * (sides[0] * likeness[1]).sum(axis=0)]).astype(np.float64)


def _normalised(weight_NR: Singles, first_NR: Flags) -> list[Singles]:
    """The weights of rows on either side, whose sum is 1 each."""
    sides = []
    for side_NR in (first_NR, ~first_NR):
        own_NR = np.where(side_NR, weight_NR, 0).astype(np.float32)
        sides.append(own_NR / np.maximum(own_NR.sum(axis=0), 1e-12))
    return sides


def _pairs(called_N: Ints, like_N: Ints, classes: int) -> Ints:
    """[N] a number for each pair of classes, what a picture is called and what it is like; -1 where they agree."""
    return np.where(called_N == like_N, -1, called_N * classes + like_N)


def _steps(gap_NR: Singles, value_N: Reals) -> Singles:
    """The difference of two distributions at each value; where rows share a value, after the last of them."""
    order = np.argsort(value_N, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(value_N[order]) > 0, True))
    return np.asarray(np.cumsum(gap_NR[order], axis=0)[ends], np.float32)


def _without_itself(side_NR: Singles, likeness_NR: Singles) -> Singles:
    """[R] the mean likeness within a side, of different rows; each row is like itself by 1."""
    same_R = (side_NR**2).sum(axis=0)
    whole_R = (side_NR * likeness_NR).sum(axis=0)
    return np.asarray((whole_R - same_R) / np.maximum(1 - same_R, 1e-6), np.float32)


def _mixed(side_NR: Flags, label_N: Ints, mix_K: Reals) -> Singles:
    """[N, R] weights of the rows of a side, with which its classes have the shares `mix_K`."""
    weight_NR = np.zeros(side_NR.shape, np.float32)
    for k, share in enumerate(mix_K):
        of_class_NR = side_NR[label_N == k]
        weight_NR[label_N == k] = of_class_NR * (share / np.maximum(of_class_NR.sum(axis=0), 1))
    return weight_NR


def _halves(group_N: Ints, label_N: Ints, draws: int, rng: np.random.Generator) -> Flags:
    """[N, R] whether rows are in the first half: half of the groups of each class, drawn at random."""
    half_NR = np.zeros((len(group_N), draws), bool)
    for k in np.unique(label_N):
        rows = np.flatnonzero(label_N == k)
        groups, place_n = np.unique(group_N[rows], return_inverse=True)
        rank_GR = rng.random((len(groups), draws)).argsort(axis=0).argsort(axis=0)
        half_NR[rows] = (rank_GR < (len(groups) + 1) // 2)[place_n]
    return half_NR


def _sides(group_N: Ints, weight_N: Singles, draws: int, rng: np.random.Generator) -> Flags:
    """[N, R] whether rows are on the first side: groups in random order, until they have half of the weight."""
    mass_G = np.bincount(group_N, weight_N)
    order_GR = rng.random((len(mass_G), draws)).argsort(axis=0)
    before_GR = np.cumsum(mass_G[order_GR], axis=0) - mass_G[order_GR] / 2
    first_GR = np.zeros(order_GR.shape, bool)
    np.put_along_axis(first_GR, order_GR, before_GR < mass_G.sum() / 2, axis=0)
    return first_GR[group_N]
