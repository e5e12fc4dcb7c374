"""Statistics of few rows, and of weighted classes, are the same as those of X'X, and scikit-learn's own fits."""

import numpy as np
import pytest
from scaling import divisors
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import RidgeClassifier
from sklearn.neighbors import NearestCentroid
from sklearn.preprocessing import StandardScaler

from featurepipe.errors import ProbeError
from featurepipe.statistics import (
    cross_validate_ridge,
    gather,
    gather_rows,
    h_score,
    lda_path,
    logme,
    ridge_path,
    to_centroids,
    to_scaler,
)

STRENGTHS = [0.01, 0.3, 1.0]
CASES = {
    "few rows": {"n": 20, "width": 50},
    "very few rows": {"n": 8, "width": 300, "known": 3, "mean": 10.0},
    "two classes": {"n": 12, "width": 40, "known": 2},
    "as many as features": {"n": 40, "width": 40},
    "many rows": {"n": 300, "width": 12},
    "many rows of two classes": {"n": 300, "width": 12, "known": 2},
    "more classes than features": {"n": 60, "width": 4, "known": 20},
    "a row per class": {"n": 5, "width": 30, "known": 5},
    "a row per class, few features": {"n": 30, "width": 10, "known": 30},
}


def sample(n=300, width=12, known=5, mean=2.0, seed=0):
    """Noisy classes, of which the last has one row; one feature is constant and another zero."""
    rng = np.random.default_rng(seed)
    y = np.concatenate([np.arange(known), rng.integers(0, max(known - 1, 1), n - known)])
    X = rng.uniform(0.05, 5, width) * (rng.normal(size=(n, width)) + rng.normal(size=(known, width))[y] + mean)
    X[:, 1], X[:, 2] = 0.1, 0
    return X.astype(np.float32).astype(np.float64), np.array([f"c{code:02}" for code in range(known)])[y]


def balance(y):
    _, counts = np.unique(y, return_counts=True)
    return len(y) / (len(counts) * counts)


def standardise(X, weights):
    """As FlooredScaler, except for scikit-learn's warning about constant features that have weights."""
    return (X - np.average(X, axis=0, weights=weights)) / divisors(X, weights)


def assert_scores(ours, theirs, X, Z, rtol=1e-5):
    """The same scores for raw X as theirs for standardised Z."""
    expected = theirs.decision_function(Z)
    np.testing.assert_allclose(ours.decision_function(X), expected, rtol, rtol * np.abs(expected).max())


@pytest.mark.filterwarnings("ignore:The number of unique classes")
@pytest.mark.parametrize("take", [gather, gather_rows])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_ridge_of_rows_and_of_weighted_classes_is_scikit_learns(case, weighted, take):
    X, y = sample(**case)
    weights = balance(y)[np.unique(y, return_inverse=True)[1]] if weighted else None
    found = take([(X[:4], y[:4]), (X[4:], y[4:])], y, class_weight=balance(y) if weighted else None)
    Z = standardise(X, weights)
    for ours, alpha in zip(ridge_path(found, STRENGTHS, scale=True), STRENGTHS, strict=True):
        theirs = RidgeClassifier(alpha=alpha, solver="cholesky").fit(Z, y, sample_weight=weights)
        assert_scores(ours, theirs, X, Z, 1e-6)
        assert ours.coef_.shape == theirs.coef_.shape
        assert np.abs(np.atleast_2d(ours.coef_)[:, [1, 2]]).max() == 0


@pytest.mark.filterwarnings("ignore:Only one sample available", "ignore:The number of unique classes")
@pytest.mark.parametrize("take", [gather, gather_rows])
@pytest.mark.parametrize("case", [case for name, case in CASES.items() if "per class" not in name], ids=str)
def test_discriminants_are_scikit_learns(case, take):
    X, y = sample(**case)
    Z = standardise(X, None)
    for ours, shrinkage in zip(lda_path(take([(X, y)], y), STRENGTHS, scale=True), STRENGTHS, strict=True):
        theirs = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage).fit(Z, y)
        assert_scores(ours, theirs, X, Z)
        np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(Z), 1e-5, 1e-7)
        np.testing.assert_allclose(ours.means_, [X[y == label].mean(axis=0) for label in np.unique(y)], 1e-9, 1e-9)


@pytest.mark.parametrize("take", [gather, gather_rows])
def test_weighted_discriminants_are_those_of_so_many_copies(take):
    X, y = sample(60, 30, known=3)
    counts = np.array([1, 2, 4])
    copies = np.repeat(np.arange(60), counts[np.unique(y, return_inverse=True)[1]])
    weighted = lda_path(take([(X, y)], y, class_weight=counts.astype(float)), STRENGTHS, scale=True)
    for one, other in zip(weighted, lda_path(gather([(X[copies], y[copies])], y), STRENGTHS, scale=True), strict=True):
        np.testing.assert_allclose(one.decision_function(X), other.decision_function(X), 1e-7, 1e-7)
        np.testing.assert_allclose(one.priors_, other.priors_)


@pytest.mark.parametrize("take", [gather, gather_rows])
@pytest.mark.parametrize("shape", [(5, 30), (30, 10)])
def test_discriminants_of_single_rows_are_the_nearest_row(shape, take):
    n, width = shape
    X, y = sample(n, width, known=n)
    for one in lda_path(take([(X, y)], y), STRENGTHS, scale=True):
        assert one.predict(X).tolist() == y.tolist()
    (none,) = lda_path(take([(X, y)], y), [0.0], scale=True)
    assert np.isfinite(none.coef_).all()


@pytest.mark.parametrize("take", [gather, gather_rows])
@pytest.mark.parametrize("shape", [(12, 3), (6, 10)])
def test_equal_rows_leave_the_class_shares(shape, take):
    X, y = np.full(shape, 0.1), np.arange(shape[0]) % 3 // 2
    found = take([(X, y)], y)
    for one in (*lda_path(found, [0.0, *STRENGTHS], scale=True), *ridge_path(found, STRENGTHS, scale=True)):
        assert np.abs(one.coef_).max() == 0
        assert one.predict(X).tolist() == [0] * shape[0]
    assert np.allclose(to_centroids(found).centroids_, 0.1)


@pytest.mark.filterwarnings("ignore:The number of unique classes", "ignore:self.within_class_std_dev_ has")
@pytest.mark.parametrize("case", [case for name, case in CASES.items() if "per class" not in name], ids=str)
def test_centroids_scalers_and_scores_of_rows(case):
    X, y = sample(**case)
    rows, grams = gather_rows([(X, y)], y), gather([(X, y)], y)
    ours, theirs = to_centroids(rows), NearestCentroid().fit(X, y)
    np.testing.assert_allclose(ours.centroids_, theirs.centroids_, 1e-9, 1e-9)
    np.testing.assert_allclose(ours.within_class_std_dev_, theirs.within_class_std_dev_, 1e-6, 1e-7)
    assert ours.predict(X).tolist() == theirs.predict(X).tolist()
    np.testing.assert_allclose(to_scaler(rows).scale_, StandardScaler().fit(X).scale_, 1e-9)
    for of in ("scatter", "within_scatter"):
        one, other = getattr(rows, of)(), getattr(grams, of)()
        np.testing.assert_allclose(one, other, 1e-10, 1e-10 * np.abs(other).max())
    np.testing.assert_allclose(h_score(rows), h_score(grams), 1e-6)
    np.testing.assert_allclose(logme(rows), logme(grams), 1e-9)


def test_what_rows_and_weights_cannot_do():
    X, y = sample(20, 50)
    with pytest.raises(ProbeError, match="there are no rows"):
        gather_rows([], y)
    with pytest.raises(ProbeError, match="class 'dog' has no rows"):
        gather_rows([(X, y)], [*y, "dog"])
    with pytest.raises(ProbeError, match="no fold 0; these statistics have 0"):
        gather_rows([(X, y)], y).without(0)
    chunks = [(X, y, np.arange(20) % 2)]
    with pytest.raises(ProbeError, match="weighted; take them without class_weight"):
        cross_validate_ridge(gather(chunks, y, folds=2, class_weight=balance(y)), chunks, [1.0])
