"""Linear classifiers along a path of strengths, on standardised features; what comes out takes raw ones."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from featurepipe.solvers import Certificate, Fit, LogisticPath, Rows, SvmPath

Fitted = Iterable[tuple[Any, Certificate | None]]


def fit_logistic(X: Rows, y: np.ndarray, candidates: Iterable[float], weights: np.ndarray | None, **how: Any) -> Fitted:
    """LogisticRegression at each C; `keep` and `device` as of LogisticPath."""
    from sklearn.linear_model import LogisticRegression

    return _along_path(LogisticPath, LogisticRegression, X, y, candidates, weights, **how)


def fit_svm(X: Rows, y: np.ndarray, candidates: Iterable[float], weights: np.ndarray | None, **how: Any) -> Fitted:
    """LinearSVC (squared hinge) at each C; its intercept is penalised, for features about their mean."""
    from sklearn.svm import LinearSVC

    return _along_path(SvmPath, LinearSVC, X, y, candidates, weights, **how)


def _along_path(
    path: type[LogisticPath],
    make: Any,
    X: Rows,
    y: np.ndarray,
    candidates: Iterable[float],
    weights: np.ndarray | None,
    **how: Any,
) -> Fitted:
    classes, codes = np.unique(y, return_inverse=True)
    for fit in path(X, codes, sample_weight=weights, scale=True, **how).fit(candidates):
        yield path_estimator(make, classes, fit), fit.certificate


def path_estimator(make: Any, classes: np.ndarray, fit: Fit) -> Any:
    """A point of a path as an estimator of class `make`, LogisticRegression or LinearSVC."""
    estimator = linear_estimator(make(C=fit.certificate.C), classes, fit.coef, fit.intercept)
    estimator.n_iter_ = np.array([fit.certificate.steps], np.int32)
    return estimator


def linear_estimator(estimator: Any, classes: np.ndarray, coef: np.ndarray, intercept: np.ndarray) -> Any:
    """A scikit-learn estimator with these coefficients, as if it had been fitted."""
    estimator.classes_, estimator.coef_, estimator.intercept_ = classes, coef, intercept
    estimator.n_features_in_ = coef.shape[1]
    return estimator
