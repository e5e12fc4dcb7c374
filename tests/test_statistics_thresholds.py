"""Curves of coverage, and the thresholds that are chosen by them."""

import numpy as np
import pytest

from featurepipe.statistics import Kept, coverage, threshold


def test_each_point_counts_all_answers_that_are_sure_enough():
    rng = np.random.default_rng(0)
    sure, right = np.round(rng.random(5000), 2), rng.random(5000) < 0.8  # many of one confidence
    points = coverage(sure, right)
    assert len(points) <= 100
    assert points[-1].kept == 5000
    assert [point.confidence for point in points] == sorted({point.confidence for point in points}, reverse=True)
    for point in points:
        kept = sure >= point.confidence
        assert (point.kept, point.right) == (kept.sum(), right[kept].sum())


def test_the_chosen_threshold_is_the_lowest_that_is_accurate_enough():
    sure = np.linspace(0.5, 1, 1000)
    points = coverage(sure, sure > 0.6)  # all wrong below
    found = threshold(points, 0.99)
    assert found.accuracy >= 0.99
    worse = [point for point in points if point.confidence < found.confidence]
    assert all(point.accuracy < 0.99 for point in worse)
    assert threshold(coverage(sure, sure < 0), 0.5) is None


def test_where_there_are_no_answers_there_is_no_curve():
    assert coverage(np.zeros(0), np.zeros(0, bool)) == []


def test_a_confidence_of_six_decimals_is_kept_by_its_own_threshold():
    sure = np.array([0.29, 0.57, 0.999999, 1.0])  # 0.29 * 10**6 is a bit less than 290,000
    assert [point.confidence for point in coverage(sure, np.ones(4, bool))] == pytest.approx(sorted(sure)[::-1], abs=0)
    assert Kept(0.5, 4, 3).accuracy == 0.75
