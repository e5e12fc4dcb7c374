"""Fitting linear classifiers along a path of strengths, on standardised features."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from featurepipe.probes.paths import ROUNDING, Certificate, LogisticPath

SMALL_BYTES = 2**26


def fit_path(
    kind: str, X: np.ndarray, y: np.ndarray, candidates: Sequence[float]
) -> list[tuple[Any, Certificate | None]]:
    """Fit every candidate on standardised features.

    Returns
    -------
    list of (estimator, certificate)
        scikit-learn estimators for raw X; ridge needs no certificate, as it is solved in closed form.
    """
    from threadpoolctl import threadpool_limits

    # Products of small matrices gain little from BLAS threads, and on a busy machine waiting for them costs tenfold.
    with threadpool_limits(1 if X.nbytes < SMALL_BYTES else None, "blas"):
        return list((_fit_ridge if kind == "ridge" else _fit_logistic)(X, y, candidates))


def _fit_logistic(X: np.ndarray, y: np.ndarray, candidates: Iterable[float]) -> Iterable[tuple[Any, Certificate]]:
    from sklearn.linear_model import LogisticRegression

    classes, codes = np.unique(y, return_inverse=True)
    for fit in LogisticPath(X, codes, scale=True).fit(candidates):
        certificate = fit.certificate
        estimator = LogisticRegression(C=certificate.C)
        estimator.classes_, estimator.coef_, estimator.intercept_ = classes, fit.coef, fit.intercept
        estimator.n_iter_, estimator.n_features_in_ = np.array([certificate.steps], np.int32), X.shape[1]
        yield estimator, certificate


def _fit_ridge(X: np.ndarray, y: np.ndarray, candidates: Iterable[float]) -> Iterable[tuple[Any, None]]:
    from sklearn.linear_model import RidgeClassifier

    mean, scale = X.mean(axis=0), X.std(axis=0)
    scale[scale <= ROUNDING * np.abs(mean)] = 1.0  # constant but for rounding: not to be blown up into a feature
    Z = (X - mean) / scale  # (n, D)
    axes = _row_space(Z)  # (r, D) or None
    if axes is not None:
        Z = Z @ axes.T  # (n, r): same inner products, so the same optimum
    for alpha in candidates:
        estimator = RidgeClassifier(alpha=alpha).fit(Z, y)
        coef = np.atleast_2d(estimator.coef_)  # scikit-learn's versions disagree on a binary ridge
        coef = coef if axes is None else coef @ axes
        estimator.coef_ = coef / scale
        estimator.intercept_ = estimator.intercept_ - estimator.coef_ @ mean
        estimator.n_features_in_ = X.shape[1]
        yield estimator, None


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
