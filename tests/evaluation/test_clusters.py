"""Intervals by resampling patients agree with what every possible resample gives, and are wider than by images."""

from itertools import product

import numpy as np
import pytest
from support.each import each

from brainray.evaluation.clusters import bootstrap, cluster_intervals
from brainray.evaluation.metrics import wilson


def rows_of(clusters):
    """Cluster and rightness of each row, for clusters of (right, rows)."""
    cluster = np.repeat(np.arange(len(clusters)), [rows for _, rows in clusters])
    right = np.concatenate([np.arange(rows) < hits for hits, rows in clusters])
    return cluster, right


def interval(clusters):
    cluster, right = rows_of(clusters)
    low, high = bootstrap(cluster * 7 + 3, np.zeros(len(cluster), np.int64), right, columns=1)
    return float(low[0]), float(high[0])


def test_the_ends_are_those_of_all_resamples_by_hand():
    clusters = [(4, 4), (1, 5), (9, 10), (0, 2), (6, 6)]
    shares = [
        sum(hits for hits, _ in drawn) / sum(rows for _, rows in drawn) for drawn in product(clusters, repeat=5)
    ]  # all 3,125 of them, each as likely as the others
    assert interval(clusters) == pytest.approx(np.quantile(shares, [0.025, 0.975]), abs=0.02)


def test_two_patients_one_right_and_one_wrong_tell_nothing():
    assert interval([(30, 30), (0, 30)]) == (0.0, 1.0)


def test_images_of_their_own_give_about_the_interval_by_images():
    assert interval([(1, 1)] * 360 + [(0, 1)] * 40) == pytest.approx([float(x) for x in wilson(360, 400)], abs=0.01)


def test_errors_of_one_patient_widen_the_interval():
    """40 wrong of 400: all of two patients with 20 slices each."""
    low, high = interval([(20, 20)] * 18 + [(0, 20)] * 2)
    by_image = [float(x) for x in wilson(360, 400)]
    assert high - low > 3 * (by_image[1] - by_image[0])


@each(("clusters", "share"), [([(9, 9)] * 12, 1.0), ([(8, 10)], 0.8), ([(0, 3)] * 4, 0.0)])
def test_where_resamples_do_not_vary_the_number_of_clusters_decides(clusters, share):
    count = len(clusters)
    assert interval(clusters) == pytest.approx([float(x) for x in wilson(share * count, count)])


def test_each_class_has_its_interval_and_one_without_images_has_none():
    label = np.repeat([0, 1], [300, 200])
    predicted = np.where(np.arange(500) % 10 == 0, 1 - label, label)
    found = cluster_intervals(label, predicted, np.arange(500) // 5, classes=3)
    assert found.accuracy.value == 0.9 and found.accuracy.low < 0.9 < found.accuracy.high
    assert (found.per_class["recall_low"][:2] < 0.9).all() and (found.per_class["recall_high"][:2] > 0.9).all()
    assert np.isnan(found.per_class["recall_low"][2]) and np.isnan(found.per_class["recall_high"][2])
    again = cluster_intervals(label, predicted, np.arange(500) // 5, classes=3)
    assert again.accuracy == found.accuracy, "one result for equal rows"
