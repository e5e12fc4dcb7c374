"""What features are divided by: their own deviation, or of few rows one for all."""

import numpy as np
import pytest
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
