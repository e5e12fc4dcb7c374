"""Cross-validation from statistics counts what scikit-learn's own fits, fold by fold, would count."""

import numpy as np
import pytest
from scaling import FlooredScaler
from sklearn.linear_model import RidgeClassifier, RidgeClassifierCV
from sklearn.model_selection import PredefinedSplit
from sklearn.pipeline import make_pipeline

from featurepipe.errors import ProbeError
from featurepipe.statistics import cross_validate_ridge, gather, sums, validation
from featurepipe.statistics.ridges import solve_ridge

ALPHAS = [1e-3, 1.0, 30.0, 1e6]


def sample(n=300, width=12, known=5, mean=0.0, spread=1.0, seed=0):
    rng = np.random.default_rng(seed)
    y = np.concatenate([np.arange(known), rng.integers(0, known, n - known)])
    scales = rng.uniform(0.05, 5, width)
    X = scales * (rng.normal(size=(n, width)) + spread * rng.normal(size=(known, width))[y] + mean)
    return X.astype(np.float32), np.array([f"c{code:02}" for code in range(known)])[y]


def fold_by_fold(X, y, folds, alphas, scale):
    """Accuracy and squared error by scikit-learn, fold by fold and alpha by alpha."""
    X, known = X.astype(np.float64), np.unique(y)
    accuracy, error = [], []
    for fold in range(folds.max() + 1):
        out = folds == fold
        for alpha in alphas:
            steps = ([FlooredScaler()] if scale else []) + [RidgeClassifier(alpha=alpha)]
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
    monkeypatch.setattr(sums, "BLOCK_BYTES", 2**13)
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


# -- what makes it fast must not be seen


def test_many_alphas_are_combinations_of_few():
    X, y = sample(400, 60)
    alphas = np.logspace(-6, 5, 200)
    ridge = solve_ridge(gather([(X, y)], y))
    basis = validation._basis(ridge, alphas)
    assert len(basis.weights) < 25
    truth = ridge.weights(ridge.factors(alphas))
    off = np.linalg.norm(np.tensordot(basis.mix.T, basis.weights, 1) - truth, axis=1).max(axis=1)  # (A,)
    assert (off < 1e-6 * np.linalg.norm(truth, axis=1).max(axis=1)).all()
    assert (off <= basis.rest + 1e-13 * np.linalg.norm(truth, axis=1).max(axis=1)).all()


def near_ties(seed=0):
    """Two classes told apart by one feature, beside many large ones; held out are rows within 1e-6 of the border."""
    rng = np.random.default_rng(seed)
    y = np.arange(400) % 2
    X = 100 * rng.normal(size=(400, 50))
    X[:, 0] = np.where(y == 1, 1.0, -1.0) + 0.5 * rng.normal(size=400)
    folds = np.where(np.arange(400) < 200, -1, 0)
    model = RidgeClassifier(alpha=1.0).fit(X[:200], y[:200])
    X[200:, 0] -= model.decision_function(X[200:]) / model.coef_.reshape(-1)[0]  # onto the border
    X[200:, 0] += 1e-6 * rng.normal(size=200)
    return X, y, folds


def test_what_float32_cannot_tell_is_told_by_float64():
    X, y, folds = near_ties()
    chunks = [(X, y, folds)]
    found = gather(chunks, [0, 1], folds=1)
    model = RidgeClassifier(alpha=1.0).fit(X[:200], y[:200])
    truth = model.score(X[200:], y[200:])
    assert cross_validate_ridge(found, chunks, [1.0]).accuracy == truth
    Z, coef = (X[200:] - X[:200].mean(axis=0)).astype(np.float32), model.coef_.reshape(-1).astype(np.float32)
    at_the_mean = np.float32(y[:200].mean() * 2 - 1)
    assert ((Z @ coef + at_the_mean > 0) != model.predict(X[200:])).any()  # what float32 alone would say


@pytest.mark.parametrize("mean", [0.0, 1e4])
def test_the_bound_of_the_error_holds(mean):
    X, y = sample(600, 40, mean=mean, spread=0.2)
    alphas = np.logspace(-4, 4, 30)
    basis = validation._basis(solve_ridge(gather([(X[:300], y[:300])], y)), alphas)
    judge = validation._Judge.of(basis, alphas, np.ones(5, bool))
    Z, codes = X[300:].astype(np.float64) - basis.ridge.mean, np.searchsorted(np.unique(y), y[300:])
    scores = Z @ basis.ridge.weights(basis.ridge.factors(alphas)) + basis.ridge.targets  # (A, n, K)
    own = scores[:, np.arange(300), codes]
    scores[:, np.arange(300), codes] = -np.inf
    off = np.abs(judge._margins(Z, codes) - (own - scores.max(axis=2)))
    assert (off <= 2 * (judge.errors[:, None] * np.linalg.norm(Z, axis=1) + 4 * validation.UNIT)).all()
    assert off.max() > 0


@pytest.mark.parametrize("size", [1e-60, 1e60])
def test_features_beyond_float32(size):
    X, y = sample(spread=0.3)
    X, folds = X.astype(np.float64), np.arange(300) % 3
    plain, scaled = (
        cross_validate_ridge(gather([(Z, y, folds)], y, folds=3), [(Z, y, folds)], [30 * of**2])
        for Z, of in ((X, 1.0), (X * size, size))
    )
    np.testing.assert_array_equal(plain.accuracy, scaled.accuracy)
