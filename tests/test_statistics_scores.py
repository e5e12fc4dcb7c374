"""H-score and LogME against their papers' formulas on the matrix itself."""

import numpy as np
import pytest

from featurepipe.errors import ProbeError
from featurepipe.statistics import gather, h_score, logme


def sample(n=200, width=10, known=4, mean=0.0, spread=1.0, seed=0):
    rng = np.random.default_rng(seed)
    y = np.concatenate([np.arange(known), rng.integers(0, known, n - known)])
    X = rng.normal(size=(n, width)) + spread * rng.normal(size=(known, width))[y] + mean
    return (X * rng.uniform(0.1, 3, width)).astype(np.float32), y


def pass_over(X, y):
    return gather([(X[:7], y[:7]), (X[7:], y[7:])], y)


def h_score_of_matrix(X, y, shrinkage=0.0):
    """Bao et al. 2019: class means in every row's place, and two covariances."""
    X = X.astype(np.float64)
    g = np.stack([X[y == label].mean(axis=0) for label in y])
    covariance, between = np.cov(X.T), np.cov(g.T)
    covariance = (1 - shrinkage) * covariance + shrinkage * np.trace(covariance) / len(covariance) * np.eye(X.shape[1])
    return (1 - shrinkage) * np.trace(np.linalg.pinv(covariance, rcond=1e-12, hermitian=True) @ between)


def logme_of_matrix(X, y):
    """You et al. 2021: the posterior mean m, its precision A, and alpha and beta from them in turn."""
    X = X.astype(np.float64)
    rows, width = X.shape
    squares = np.zeros(width)
    singular = np.linalg.svd(X, compute_uv=False)
    squares[: len(singular)] = singular**2
    evidences = []
    for label in np.unique(y):
        target = (y == label).astype(np.float64)
        alpha = beta = 1.0
        for _ in range(11):
            ratio = alpha / beta
            m = np.linalg.solve(alpha * np.eye(width) + beta * X.T @ X, beta * X.T @ target)
            gamma = (beta * squares / (alpha + beta * squares)).sum()
            alpha = gamma / (m @ m + 1e-5)
            error = ((X @ m - target) ** 2).sum()
            beta = (rows - gamma) / (error + 1e-5)
            if abs(alpha / beta - ratio) / ratio <= 1e-3:
                break
        log_det = np.linalg.slogdet(alpha * np.eye(width) + beta * X.T @ X)[1]
        evidences.append(
            width / 2 * np.log(alpha)
            + rows / 2 * np.log(beta)
            - beta / 2 * error
            - alpha / 2 * m @ m
            - log_det / 2
            - rows / 2 * np.log(2 * np.pi)
        )
    return np.mean(evidences) / rows


CASES = {
    "plain": {},
    "two classes": {"known": 2},
    "hardly any difference": {"spread": 0.01},
    "well apart": {"spread": 20.0},
    "large means": {"mean": 100.0},
    "one row per class": {"n": 25, "known": 25},
    "more features than rows": {"n": 30, "width": 60},
    "one feature": {"width": 1},
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_logme_is_the_papers(case):
    X, y = sample(**case)
    assert logme(pass_over(X, y)) == pytest.approx(logme_of_matrix(X, y), rel=1e-6, abs=1e-7)


def test_logme_prefers_features_that_tell_the_classes_apart():
    scores = [logme(pass_over(*sample(spread=spread))) for spread in (0.0, 0.3, 1.0, 3.0)]
    assert scores == sorted(scores)


@pytest.mark.parametrize("case", [{**case} for name, case in CASES.items() if name != "one feature"], ids=str)
@pytest.mark.parametrize("shrinkage", [0.0, 0.1, 0.9])
def test_h_score_is_the_papers(case, shrinkage):
    X, y = sample(**case)
    ours = h_score(pass_over(X, y), shrinkage=shrinkage)
    assert ours == pytest.approx(h_score_of_matrix(X, y, shrinkage), rel=1e-6)


def test_h_score_of_one_feature_is_its_share_of_variance_between_classes():
    X, y = sample(width=1)
    between = sum((y == c).mean() * (X[y == c].mean(dtype=float) - X.mean(dtype=float)) ** 2 for c in np.unique(y))
    assert h_score(pass_over(X, y)) == pytest.approx(between / X.var(dtype=float), rel=1e-9)


def test_h_score_without_shrinkage_says_nothing_where_features_outnumber_rows():
    for spread in (0.0, 10.0):
        X, y = sample(30, 60, spread=spread)
        assert h_score(pass_over(X, y)) == pytest.approx(3)
    apart, alike = (h_score(pass_over(*sample(30, 60, spread=s)), shrinkage=0.5) for s in (10.0, 0.0))
    assert apart > 1.5 * alike


def test_folds_and_classes_without_rows_make_no_difference():
    X, y = sample()
    plain = pass_over(X, y)
    folded = gather([(X, y, np.arange(len(y)) % 3)], [*range(9)], folds=3)
    assert h_score(folded) == pytest.approx(h_score(plain), rel=1e-12)
    assert logme(folded) == pytest.approx(logme(plain), rel=1e-12)


def test_constant_features():
    X, y = sample()
    flat = np.full_like(X, 0.1)
    assert h_score(pass_over(flat, y)) == 0
    assert logme(pass_over(flat, y)) == pytest.approx(logme_of_matrix(flat, y), rel=1e-6)
    assert h_score(pass_over(np.hstack([X, flat]), y)) == pytest.approx(h_score(pass_over(X, y)), rel=1e-9)


def test_what_has_no_score():
    X, y = sample()
    with pytest.raises(ProbeError, match="all features are zero"):
        logme(pass_over(np.zeros_like(X), y))
    for score in (h_score, logme):
        with pytest.raises(ProbeError, match="only class 0 has rows"):
            score(pass_over(X, np.zeros_like(y)))
    for shrinkage in (-0.1, 1.0, np.nan):
        with pytest.raises(ProbeError, match="shrinkage must be from 0 to below 1"):
            h_score(pass_over(X, y), shrinkage=shrinkage)
