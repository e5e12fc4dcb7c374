"""Ridge from statistics is scikit-learn's own RidgeClassifier, for every alpha and fold."""

import pickle

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.linear_model import RidgeClassifier, RidgeClassifierCV
from sklearn.model_selection import PredefinedSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from featurepipe.errors import ProbeError
from featurepipe.statistics import cross_validate_ridge, gather, gathering, ridge_path

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
            scaler, theirs = make_pipeline(StandardScaler(), RidgeClassifier(alpha=alpha)).fit(X, y)
            theirs.coef_ = theirs.coef_ / scaler.scale_
            theirs.intercept_ = theirs.intercept_ - theirs.coef_ @ scaler.mean_
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
        truth = np.linalg.lstsq(X - X.mean(axis=0), Y - Y.mean(axis=0))[0].T
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


# -- cross-validation


def fold_by_fold(X, y, folds, alphas, scale):
    """Accuracy and squared error by scikit-learn, fold by fold and alpha by alpha."""
    X, known = X.astype(np.float64), np.unique(y)
    accuracy, error = [], []
    for fold in range(folds.max() + 1):
        out = folds == fold
        for alpha in alphas:
            steps = ([StandardScaler()] if scale else []) + [RidgeClassifier(alpha=alpha)]
            model = make_pipeline(*steps).fit(X[~out], y[~out])
            accuracy.append(model.score(X[out], y[out]))
            scores = model.decision_function(X[out])
            scores = np.stack([-scores, scores], axis=1) if scores.ndim == 1 else scores
            every = np.full((out.sum(), len(known)), -1.0)  # a class that it has not seen
            every[:, np.isin(known, model.classes_)] = scores
            error.append(np.mean((every - np.where(y[out][:, None] == known, 1, -1)) ** 2))
    return np.reshape(accuracy, (-1, len(alphas))), np.reshape(error, (-1, len(alphas)))


@pytest.mark.parametrize("scale", [False, True])
@pytest.mark.parametrize(
    "case",
    [{"spread": 0.3}, {"known": 2, "spread": 0.2}, {"n": 40, "width": 60, "mean": 100.0}, {"mean": 1000.0}],
    ids=str,
)
def test_cross_validation_is_scikit_learns_fold_by_fold(case, scale, monkeypatch):
    monkeypatch.setattr(gathering, "BLOCK_BYTES", 2**13)
    X, y = sample(**case)
    folds = np.random.default_rng(1).integers(-1, 4, len(y))
    chunks = [(X[i : i + 37], y[i : i + 37], folds[i : i + 37]) for i in range(0, len(y), 37)]
    scores = cross_validate_ridge(gather(chunks, np.unique(y), folds=4), chunks, ALPHAS, scale=scale)
    accuracy, error = fold_by_fold(X, y, folds, ALPHAS, scale)
    assert scores.counts.tolist() == [(folds == fold).sum() for fold in range(4)]
    np.testing.assert_allclose(scores.accuracy, accuracy, 1e-12)
    np.testing.assert_allclose(scores.squared_error, error, 1e-6)


def test_the_choice_is_that_of_ridge_classifier_cv():
    X, y = sample(200, 30, spread=0.25)
    folds = np.arange(200) % 5
    alphas = np.logspace(-2, 5, 8)
    chunks = [(X, y, folds)]
    scores = cross_validate_ridge(gather(chunks, y, folds=5), chunks, alphas)
    theirs = RidgeClassifierCV(alphas, cv=PredefinedSplit(folds)).fit(X.astype(np.float64), y)
    assert scores.accuracy.mean(axis=0).max() == pytest.approx(theirs.best_score_, rel=1e-12)
    assert scores.best_alpha == theirs.alpha_


def test_equal_accuracies_are_told_apart_by_the_squared_error():
    X, y = sample(spread=50.0)  # everything is separable
    chunks = [(X, y, np.arange(len(y)) % 3)]
    scores = cross_validate_ridge(gather(chunks, y, folds=3), chunks, [1e3, 1.0, 1e5])
    assert (scores.accuracy[:, :2] == 1).all()
    assert scores.best_alpha == 1.0


def test_a_class_in_no_training_fold_is_never_predicted():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(60, 4)).astype(np.float32), np.array(["a", "b", "c", "only"])[np.arange(60) % 3]
    X[0], y[0] = 30, "only"  # so that the other classes' scores are far below −1 there
    folds = np.arange(60) // 12
    chunks = [(X, y, folds)]
    scores = cross_validate_ridge(gather(chunks, np.unique(y), folds=5), chunks, ALPHAS)
    accuracy, error = fold_by_fold(X, y, folds, ALPHAS, False)
    np.testing.assert_allclose(scores.accuracy, accuracy, 1e-12)
    np.testing.assert_allclose(scores.squared_error, error, 1e-6)
    kept = [(X, y, np.where(y == "only", -1, folds))]  # instead of that it can always be trained on
    scores = cross_validate_ridge(gather(kept, np.unique(y), folds=5), kept, ALPHAS)
    assert scores.counts.tolist() == [11, 12, 12, 12, 12]


def test_folds_without_rows_are_left_out():
    X, y = sample()
    chunks = [(X, y, np.arange(len(y)) % 2 * 3)]  # 0 and 3
    scores = cross_validate_ridge(gather(chunks, y, folds=5), chunks, ALPHAS)
    assert scores.accuracy.shape == scores.squared_error.shape == (2, 4)


def test_the_second_pass_must_meet_the_same_rows():
    X, y = sample()
    folds = np.arange(len(y)) % 3
    chunks = iter([(X, y, folds)])
    found = gather(chunks, y, folds=3)
    with pytest.raises(ProbeError, match=r"0 rows where the first had 300.*a generator gives its items once"):
        cross_validate_ridge(found, chunks, ALPHAS)
    with pytest.raises(ProbeError, match="300 rows where the first had 300, or others"):
        cross_validate_ridge(found, [(X, y, np.roll(folds, 1))], ALPHAS)


def test_folds_that_cannot_be_cross_validated():
    X, y = sample(known=2)
    chunks = [(X, y)]
    with pytest.raises(ProbeError, match="no fold has rows to hold out"):
        cross_validate_ridge(gather(chunks, y), chunks, ALPHAS)
    chunks = [(X, y, (y == "c01").astype(int))]
    with pytest.raises(ProbeError, match="without fold 0 fewer than two classes are left"):
        cross_validate_ridge(gather(chunks, y, folds=2), chunks, ALPHAS)


@pytest.mark.parametrize("alphas", [[], [-1.0], [np.nan], [np.inf, 1.0], 1.0, [[1.0]]])
def test_alphas_that_make_no_sense(alphas):
    X, y = sample()
    with pytest.raises(ProbeError, match="alphas must be numbers of 0 or above"):
        ridge_path(gather([(X, y)], y), alphas)
