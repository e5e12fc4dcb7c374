"""Ridge from statistics is scikit-learn's own RidgeClassifier, for every alpha and fold."""

import pickle

import numpy as np
import pytest
from scaling import divisors
from sklearn.base import clone
from sklearn.linear_model import RidgeClassifier

from featurepipe.errors import ProbeError
from featurepipe.statistics import gather, ridge_path

ALPHAS = [1e-3, 1.0, 30.0, 1e6]


def sample(n=300, width=12, known=5, mean=0.0, spread=1.0, seed=0, dtype=np.float32):
    """Features of very different scales about `mean` deviations from zero, and labels they say something of."""
    rng = np.random.default_rng(seed)
    y = np.concatenate([np.arange(known), rng.integers(0, known, n - known)])
    scales = rng.uniform(0.05, 5, width)
    X = scales * (rng.normal(size=(n, width)) + spread * rng.normal(size=(known, width))[y] + mean)
    return X.astype(dtype), np.array([f"c{code:02}" for code in range(known)])[y]


def assert_alike(ours, theirs, X, rtol=1e-5):
    """Everything that can be asked of a fitted RidgeClassifier."""
    assert ours.classes_.tolist() == theirs.classes_.tolist()
    assert ours.coef_.shape == theirs.coef_.shape
    assert np.shape(ours.intercept_) == np.shape(theirs.intercept_)
    assert ours.n_features_in_ == theirs.n_features_in_
    np.testing.assert_allclose(ours.coef_, theirs.coef_, rtol, rtol * np.abs(theirs.coef_).max())
    np.testing.assert_allclose(ours.intercept_, theirs.intercept_, rtol, rtol)
    np.testing.assert_allclose(ours.decision_function(X), theirs.decision_function(X), rtol, rtol)
    assert ours.predict(X).tolist() == theirs.predict(X).tolist()


CASES = {
    "plain": {},
    "float16": {"dtype": np.float16},
    "float64": {"dtype": np.float64},
    "large means": {"mean": 1000.0},
    "very large means": {"mean": 1e5, "dtype": np.float64},
    "two classes": {"known": 2},
    "more features than rows": {"n": 20, "width": 50},
    "far more features than rows": {"n": 8, "width": 300, "known": 3, "mean": 10.0},
    "as many features as rows": {"n": 40, "width": 40},
    "one row per class": {"n": 30, "known": 30, "width": 10},
    "one row per class, two classes": {"n": 2, "known": 2},
    "one feature": {"width": 1},
}


@pytest.mark.parametrize("scale", [False, True])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_every_alpha_is_scikit_learns_own_fit(case, scale):
    X, y = sample(**case)
    fitted = ridge_path(gather([(X[:7], y[:7]), (X[7:], y[7:])], np.unique(y)), ALPHAS, scale=scale)
    X = X.astype(np.float64)  # given float32, scikit-learn computes in it
    for ours, alpha in zip(fitted, ALPHAS, strict=True):
        theirs = RidgeClassifier(alpha=alpha).fit(X, y)
        if scale:
            deviations = divisors(X)
            theirs.fit((X - X.mean(axis=0)) / deviations, y)
            theirs.coef_ = theirs.coef_ / deviations
            theirs.intercept_ = theirs.intercept_ - theirs.coef_ @ X.mean(axis=0)
        assert ours.alpha == alpha
        assert_alike(ours, theirs, X)


@pytest.mark.parametrize("scale", [False, True])
def test_constant_features_have_no_weight(scale):
    X, y = sample(dtype=np.float64)
    X[:, 3], X[:, 7] = 0.1, 1e4 / 3
    (ours,) = ridge_path(gather([(X, y)], y), [1.0], scale=scale)
    rest = np.delete(X, [3, 7], axis=1)
    (without,) = ridge_path(gather([(rest, y)], y), [1.0], scale=scale)
    assert np.abs(ours.coef_[:, [3, 7]]).max() < 1e-9
    np.testing.assert_allclose(np.delete(ours.coef_, [3, 7], axis=1), without.coef_, 1e-9)
    assert ours.predict(X).tolist() == without.predict(rest).tolist()


def test_features_that_are_all_constant_leave_the_intercept():
    y = np.array([0, 1, 1, 2, 2, 2])
    (ours,) = ridge_path(gather([(np.full((6, 3), 7.0), y)], y), [1.0])
    theirs = RidgeClassifier(alpha=1.0).fit(np.full((6, 3), 7.0), y)
    assert_alike(ours, theirs, np.full((6, 3), 7.0))


def test_alpha_zero_is_least_squares_of_least_norm():
    for n, width in ((100, 10), (15, 40)):
        X, y = sample(n, width, known=3, dtype=np.float64)
        (ours,) = ridge_path(gather([(X, y)], y), [0.0])
        Y = np.where(y[:, None] == ours.classes_, 1.0, -1.0)
        truth = np.linalg.lstsq(X - X.mean(axis=0), Y - Y.mean(axis=0), rcond=None)[0].T
        np.testing.assert_allclose(ours.coef_, truth, 1e-7, 1e-9)


def test_classes_without_rows_are_left_out():
    X, y = sample(known=3)
    (ours,) = ridge_path(gather([(X, y)], [*"abcdefgh", *y]), [1.0])
    assert_alike(ours, RidgeClassifier(alpha=1.0).fit(X.astype(np.float64), y), X)
    (two,) = ridge_path(gather([(X[y != "c01"], y[y != "c01"])], y), [1.0])
    assert_alike(two, RidgeClassifier(alpha=1.0).fit(X[y != "c01"].astype(np.float64), y[y != "c01"]), X)


@pytest.mark.parametrize("known", [2, 4])
def test_it_is_a_real_estimator(known):
    X, y = sample(known=known)
    (ours,) = ridge_path(gather([(X, y)], y), [2.0])
    again = pickle.loads(pickle.dumps(ours))
    assert again.predict(X).tolist() == ours.predict(X).tolist()
    assert clone(ours).get_params() == RidgeClassifier(alpha=2.0).get_params()
    assert ours.score(X, y) == RidgeClassifier(alpha=2.0).fit(X.astype(np.float64), y).score(X, y)
    assert ours.coef_.flags["C_CONTIGUOUS"]


@pytest.mark.parametrize("alphas", [[], [-1.0], [np.nan], [np.inf, 1.0], 1.0, [[1.0]]])
def test_alphas_that_make_no_sense(alphas):
    X, y = sample()
    with pytest.raises(ProbeError, match="alphas must be numbers of 0 or above"):
        ridge_path(gather([(X, y)], y), alphas)
