"""What features are divided by: their own deviation but no less than a floor, or of few rows one for all."""

import numpy as np
import pytest
from scaling import divisors
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import RidgeClassifier

from featurepipe.statistics import (
    cross_validate_ridge,
    feature_scales,
    gather,
    gather_rows,
    lda_path,
    ridge_path,
    to_scaler,
)

DEVIATIONS = np.array([1.0, 7.0, 0.0, 5.0])
CONSTANT = np.array([False, False, True, False])


@pytest.mark.parametrize("rows", [10, 1000, 9.9999999])  # weights of ten rows, added up
def test_enough_rows_scale_each_feature_by_its_own_deviation(rows):
    assert feature_scales(DEVIATIONS, CONSTANT, rows).tolist() == [1, 7, 1, 5]


@pytest.mark.parametrize("rows", [1, 2, 9, 9.0000001])
def test_few_rows_share_the_root_mean_square_of_those_that_vary(rows):
    assert feature_scales(DEVIATIONS, CONSTANT, rows).tolist() == [5, 5, 1, 5]


@pytest.mark.parametrize("rows", [2, 10])
def test_where_nothing_varies_nothing_is_scaled(rows):
    assert feature_scales(np.zeros(3), np.ones(3, bool), rows).tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("deviations", "wanted"),
    [
        ([0.01, 5.0, 5.0, 5.0], [0.1 * 3**0.5 * 5, 5, 5, 5]),  # a fifth of √(75 / 4), a hair more for 0.01² / 4
        ([3.0], [3.0]),
        ([1e8, 0.5], [1e8, 0.5]),  # of few features, too, the largest does not count
        ([4.0, 4.0, 0.5], [4.0, 4.0, 0.2 * (32.25 / 3) ** 0.5]),
        (90 * [1.0] + 10 * [0.001], 90 * [1.0] + 10 * [0.2 * 0.9**0.5]),
        (96 * [1.0] + 4 * [100.0], 96 * [1.0] + 4 * [100.0]),  # 4 of 100 count as 1: no floor of 0.2 √(1 + 0.04 · 100²)
        (95 * [1.0] + [0.05] + 4 * [1e6], 95 * [1.0] + [0.2 * 0.990025**0.5] + 4 * [1e6]),
        (80 * [1.0] + 20 * [10.0], 80 * [1.0] + 20 * [10.0]),  # a fifth of √20.8 is 0.91
        (50 * [1.0] + 50 * [10.0], 50 * [0.2 * 50.5**0.5] + 50 * [10.0]),
    ],
)
def test_no_feature_is_divided_by_less_than_a_fifth_of_the_common_deviation(deviations, wanted):
    deviations = np.array(deviations)
    found = feature_scales(deviations, np.zeros(len(deviations), bool), 10)
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_the_floor_is_of_the_features_that_vary_and_of_any_unit():
    rng = np.random.default_rng(0)
    deviations = 10 ** rng.uniform(-2, 1, 200)
    found = feature_scales(deviations, np.zeros(200, bool), 1000)
    assert (found >= deviations).all()
    low = found > deviations
    assert 0 < low.sum() < 150
    assert len(set(found[low])) == 1 > deviations[low].max() / found[low][0]
    with_constants = feature_scales(np.append(deviations, np.zeros(300)), np.arange(500) >= 200, 1000)
    np.testing.assert_array_equal(with_constants, np.append(found, np.ones(300)))
    scaled = feature_scales(deviations * 1e-9, np.zeros(200, bool), 1000)
    np.testing.assert_allclose(scaled, found * 1e-9, rtol=1e-12)
    order = rng.permutation(200)
    np.testing.assert_allclose(feature_scales(deviations[order], np.zeros(200, bool), 1000), found[order], rtol=1e-12)


def test_the_tests_own_divisors_are_these():
    X, _ = sample(50, 40)
    vary = np.arange(40) != 1
    found = feature_scales(X.std(axis=0), ~vary, 50)
    np.testing.assert_allclose(divisors(X), np.where(vary, found, np.inf), rtol=1e-9)
    assert 0 < (found > X.std(axis=0))[vary].sum() < 30


@pytest.mark.parametrize("take", [gather, gather_rows])
def test_statistics_have_the_floor_but_a_scaler_has_not(take):
    X, y = sample(50, 40)
    found = take([(X, y)], y)
    np.testing.assert_allclose(found.scales(), divisors(X), rtol=1e-9)
    own = np.where(np.arange(40) == 1, 1, X.std(axis=0))
    np.testing.assert_allclose(to_scaler(found).scale_, own, rtol=1e-9)
    assert (found.scales() > 1.5 * own)[:5].all()


def sample(n, width):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, width)) * 10.0 ** np.linspace(-1, 1, width) + 3
    X[:, 1] = 7.25
    return X, np.arange(n) % 2


@pytest.mark.parametrize("take", [gather, gather_rows])
@pytest.mark.parametrize("width", [5, 40])
def test_ridge_and_discriminants_of_nine_rows_have_one_scale(take, width):
    X, y = sample(9, width)
    found, vary = take([(X, y)], y), np.arange(width) != 1
    Z = (X - X.mean(axis=0)) / np.sqrt(X[:, vary].var(axis=0).mean())
    pairs = [
        (ridge_path(found, [2.0], scale=True)[0], RidgeClassifier(alpha=2.0)),
        (lda_path(found, [0.3], scale=True)[0], LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.3)),
    ]
    for ours, theirs in pairs:
        expected = theirs.fit(Z, y).decision_function(Z)
        np.testing.assert_allclose(ours.decision_function(X), expected, atol=1e-6 * np.abs(expected).max())
        assert np.abs(ours.coef_.reshape(1, -1)[:, 1]).max() == 0


def test_the_scaler_is_scikit_learns_of_any_number_of_rows():
    X, y = sample(2, 5)
    np.testing.assert_allclose(to_scaler(gather([(X, y)], y)).scale_, np.where(np.arange(5) == 1, 1, X.std(axis=0)))


def test_the_rows_of_each_training_part_count():
    X, y = sample(12, 5)
    chunks = [(X, y, np.arange(12) // 6)]  # six to fit, six held out
    found = gather(chunks, y, folds=2)
    assert len(set(found.scales()[[0, 2, 3, 4]])) == 4
    assert len(set(found.without(0).scales()[[0, 2, 3, 4]])) == 1
    ours = cross_validate_ridge(found, chunks, [2.0], scale=True).squared_error[0, 0]
    rest, deviation = X[6:], np.sqrt(X[6:, [0, 2, 3, 4]].var(axis=0).mean())
    theirs = RidgeClassifier(alpha=2.0).fit(rest / deviation, y[6:])
    np.testing.assert_allclose(ours, np.mean((theirs.decision_function(X[:6] / deviation) - 2 * y[:6] + 1) ** 2))
