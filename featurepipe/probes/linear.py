"""Fitting linear classifiers along a path of strengths, on standardised features."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import numpy as np

MAX_ITER = 1000
ROUNDING = 1e-6  # of float32 features, relative to the largest singular value
SMALL_BYTES = 2**26


def fit_path(kind: str, X: np.ndarray, y: np.ndarray, candidates: Sequence[float]) -> list[tuple[Any, bool]]:
    """Fit every candidate on standardised features; returns estimators for raw X, and whether each converged."""
    from threadpoolctl import threadpool_limits

    # Products of small matrices gain little from BLAS threads, and on a busy machine waiting for them costs tenfold.
    with threadpool_limits(1 if X.nbytes < SMALL_BYTES else None, "blas"):
        return _fit_standardised(kind, X, y, candidates)


def _fit_standardised(kind: str, X: np.ndarray, y: np.ndarray, candidates: Sequence[float]) -> list[tuple[Any, bool]]:
    mean, scale = X.mean(axis=0), X.std(axis=0)
    scale[scale <= ROUNDING * np.abs(mean)] = 1.0  # constant but for rounding: not to be blown up into a feature
    Z = (X - mean) / scale  # (n, D)
    axes = _row_space(Z)  # (r, D) or None
    if axes is not None:
        Z = Z @ axes.T  # (n, r): same inner products, so the same optimum
    fitted = []
    for estimator, ok in (_fit_ridge if kind == "ridge" else _fit_logistic)(Z, y, candidates):
        coef = np.atleast_2d(estimator.coef_)  # scikit-learn's versions disagree on a binary ridge
        coef = coef if axes is None else coef @ axes
        estimator.coef_ = coef / scale
        estimator.intercept_ = estimator.intercept_ - estimator.coef_ @ mean
        estimator.n_features_in_ = X.shape[1]
        fitted.append((estimator, ok))
    return fitted


def _row_space(Z: np.ndarray) -> np.ndarray | None:
    """Orthonormal axes that span the rows, (r, D), where there are fewer rows than features; else None.

    An L2-penalised linear model's coefficients lie in that span (the representer theorem), so nothing is lost. Axes
    below the rounding of float32 features are left out: enlarged small images have few others.
    """
    if len(Z) >= Z.shape[1]:
        return None
    squares, vectors = np.linalg.eigh(Z @ Z.T)  # ascending; (n,), (n, n)
    kept = squares > squares[-1] * ROUNDING**2
    return np.linalg.qr(Z.T @ vectors[:, kept])[0].T if kept.any() else None


def _fit_logistic(Z: np.ndarray, y: np.ndarray, candidates: Sequence[float]) -> list[tuple[Any, bool]]:
    """Strong to weak regularisation, each fit starting from the one before."""
    from sklearn.linear_model import LogisticRegression

    # In few large steps newton-cg comes closer to the optimum than lbfgs does in the same time.
    model = LogisticRegression(solver="newton-cg", max_iter=MAX_ITER, warm_start=True)
    fitted = []
    for c in candidates:
        model.C = c
        with warnings.catch_warnings(record=True) as caught:
            # not silenced (iterations used up, or a line search that failed): returned, and reported by callers
            warnings.simplefilter("always", UserWarning)
            model.fit(Z, y)
        fitted.append((deepcopy(model).set_params(warm_start=False), not caught))
    return fitted


def _fit_ridge(Z: np.ndarray, y: np.ndarray, candidates: Sequence[float]) -> list[tuple[Any, bool]]:
    from sklearn.linear_model import RidgeClassifier

    return [(RidgeClassifier(alpha=alpha).fit(Z, y), True) for alpha in candidates]
