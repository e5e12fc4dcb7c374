"""Linear classifiers along a path of strengths, on standardised features; what comes out takes raw ones."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from featurepipe.probes.axes import ROUNDING
from featurepipe.probes.paths import Certificate, LogisticPath, SvmPath

Fitted = Iterable[tuple[Any, Certificate | None]]


def fit_logistic(X: np.ndarray, y: np.ndarray, candidates: Iterable[float], weights: np.ndarray | None) -> Fitted:
    """LogisticRegression at each C."""
    from sklearn.linear_model import LogisticRegression

    return _along_path(LogisticPath, LogisticRegression, X, y, candidates, weights)


def fit_svm(X: np.ndarray, y: np.ndarray, candidates: Iterable[float], weights: np.ndarray | None) -> Fitted:
    """LinearSVC (squared hinge) at each C; its intercept is penalised, for features about their mean."""
    from sklearn.svm import LinearSVC

    return _along_path(SvmPath, LinearSVC, X, y, candidates, weights)


def _along_path(
    path: type[LogisticPath],
    make: Any,
    X: np.ndarray,
    y: np.ndarray,
    candidates: Iterable[float],
    weights: np.ndarray | None,
) -> Fitted:
    classes, codes = np.unique(y, return_inverse=True)
    for fit in path(X, codes, sample_weight=weights, scale=True).fit(candidates):
        certificate = fit.certificate
        estimator = linear_estimator(make(C=certificate.C), classes, fit.coef, fit.intercept)
        estimator.n_iter_ = np.array([certificate.steps], np.int32)
        yield estimator, certificate


def fit_ridge(X: np.ndarray, y: np.ndarray, candidates: Iterable[float], weights: np.ndarray | None) -> Fitted:
    """RidgeClassifier at each alpha."""
    from sklearn.linear_model import RidgeClassifier

    scaled = standardise(X, weights)
    Z, axes = scaled.reduced()
    for alpha in candidates:
        estimator = RidgeClassifier(alpha=alpha).fit(Z, y, sample_weight=weights)
        coef = np.atleast_2d(estimator.coef_)  # scikit-learn's versions disagree on a binary ridge
        coef = coef if axes is None else coef @ axes
        estimator.coef_ = coef / scaled.scale
        estimator.intercept_ = estimator.intercept_ - estimator.coef_ @ scaled.mean
        estimator.n_features_in_ = X.shape[1]
        yield estimator, None


def fit_lda(X: np.ndarray, y: np.ndarray, candidates: Iterable[float], weights: np.ndarray | None) -> Fitted:
    """LinearDiscriminantAnalysis (solver lsqr) at each shrinkage, from one eigendecomposition.

    The shrunk covariances (1 - s) S + s t I share the eigenvectors of S, the covariance within the classes, with t
    their mean variance. Where nothing varies within a class (single samples) t is 1: the nearest class mean.
    """
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    scaled = standardise(X, weights)
    Z, axes = scaled.reduced()  # (n, r); the classes' means and the samples about them lie in that span
    classes, codes = np.unique(y, return_inverse=True)
    w = np.ones(len(Z)) if weights is None else weights
    priors = np.bincount(codes, w) / w.sum()  # (K,)
    means = class_means(Z, codes, w)  # (K, r)
    within = (Z - means[codes]) * np.sqrt(w / w.sum())[:, None]
    values, vectors = np.linalg.eigh(within.T @ within)  # (r,), (r, r)
    rounding = max(values[-1], 0) * len(values) * np.finfo(np.float64).eps
    values = np.where(values > rounding, values, 0.0)
    typical = values.sum() / X.shape[1] or 1.0
    for shrinkage in candidates:
        shrunk = (1 - shrinkage) * values + shrinkage * typical
        inverse = np.divide(1, shrunk, out=np.zeros_like(shrunk), where=shrunk > 0)  # as lsqr: of least norm
        coef = means @ vectors * inverse @ vectors.T  # (K, r)
        intercept = np.log(priors) - (coef * means).sum(axis=1) / 2
        coef = (coef if axes is None else coef @ axes) / scaled.scale  # (K, D)
        intercept = intercept - coef @ scaled.mean
        if len(classes) == 2:
            coef, intercept = np.diff(coef, axis=0), np.diff(intercept)
        estimator = linear_estimator(
            LinearDiscriminantAnalysis(solver="lsqr", shrinkage=float(shrinkage)), classes, coef, intercept
        )
        estimator.priors_ = priors
        yield estimator, None


def linear_estimator(estimator: Any, classes: np.ndarray, coef: np.ndarray, intercept: np.ndarray) -> Any:
    """A scikit-learn estimator with these coefficients, as if it had been fitted."""
    estimator.classes_, estimator.coef_, estimator.intercept_ = classes, coef, intercept
    estimator.n_features_in_ = coef.shape[1]
    return estimator


def class_means(X: np.ndarray, codes: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted mean of each class, (K, D), of rows (n, D) and class numbers (n,) of which each occurs."""
    from scipy.sparse import csr_array

    one_hot = csr_array((weights, (codes, np.arange(len(codes)))), shape=(codes.max() + 1, len(codes)))
    return (one_hot @ X) / np.bincount(codes, weights)[:, None]


@dataclass(frozen=True)
class Scaled:
    """Standardised features.

    Attributes
    ----------
    Z : ndarray of float64, shape (n, D)
    mean, scale : ndarray, shape (D,)
        Z is (X - mean) / scale.
    """

    Z: np.ndarray
    mean: np.ndarray
    scale: np.ndarray

    def reduced(self) -> tuple[np.ndarray, np.ndarray | None]:
        """Z on the axes (r, D) that its rows span, where there are fewer rows than features; else Z and None.

        Inner products, and so the optimum of whatever depends on those alone, stay the same.
        """
        axes = _row_space(self.Z)
        return (self.Z, None) if axes is None else (self.Z @ axes.T, axes)


def standardise(X: np.ndarray, weights: np.ndarray | None) -> Scaled:
    """Features of (weighted) mean 0 and variance 1."""
    mean = np.average(X, axis=0, weights=weights)
    centred = X - mean
    scale = np.sqrt(np.average(centred**2, axis=0, weights=weights))
    scale[scale <= ROUNDING * np.abs(mean)] = 1.0  # constant but for rounding: not to be blown up into a feature
    return Scaled(centred / scale, mean, scale)


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
