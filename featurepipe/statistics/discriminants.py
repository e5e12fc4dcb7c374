"""Linear discriminant analysis, the nearest class mean and standardisation, as scikit-learn would fit them."""

from __future__ import annotations

from typing import Any

import numpy as np

from featurepipe.errors import ProbeError
from featurepipe.statistics.gathering import Statistics, eigenpairs


def to_lda(statistics: Statistics, *, shrinkage: float | None = None) -> Any:
    """Linear discriminant analysis.

    Parameters
    ----------
    statistics : Statistics
        Their folds are put together.
    shrinkage : float, optional
        From 0 to 1, the weight of the identity in the covariance. Ledoit and Wolf's choice, scikit-learn's
        ``"auto"``, needs fourth moments and cannot be had from these statistics: choose on validation data.

    Returns
    -------
    LinearDiscriminantAnalysis
        With scikit-learn's default solver ``svd`` (which also has ``transform``, and copes with more features than
        rows) or, where a shrinkage is given, with ``lsqr``.

    Raises
    ------
    ProbeError
        Fewer than two classes have rows, no class has two rows, no feature varies within a class, or a shrinkage
        out of range.

    Examples
    --------
    >>> from featurepipe.statistics import gather
    >>> X, y = np.array([[0.0, 1], [1, 0], [3, 5], [4, 3]]), np.array([0, 0, 1, 1])
    >>> to_lda(gather([(X, y)], y)).predict(X).tolist()
    [0, 0, 1, 1]
    """
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    statistics = statistics.for_classifier()
    if shrinkage is not None and not 0 <= shrinkage <= 1:
        raise ProbeError(f"shrinkage must be from 0 to 1; got {shrinkage}")
    if statistics.rows == len(statistics.classes):
        raise ProbeError("every class has a single row; discriminant analysis needs rows that differ within a class")
    estimator = LinearDiscriminantAnalysis(solver="svd" if shrinkage is None else "lsqr", shrinkage=shrinkage)
    estimator.classes_, estimator.means_ = statistics.classes, statistics.class_means
    estimator.priors_ = statistics.class_counts / statistics.rows
    estimator.n_features_in_ = statistics.width
    estimator._max_components = estimator._n_features_out = min(len(statistics.classes) - 1, statistics.width)
    covariance = statistics.within_scatter() / statistics.rows  # (D, D)
    rounding = statistics.width * np.finfo(np.float64).eps * statistics.scales() ** 2
    varies = np.diag(covariance) > rounding  # within classes, (D,)
    if not varies.any():
        raise ProbeError("no feature varies within a class; discriminant analysis is not defined")
    if shrinkage is None:
        _solve_svd(estimator, statistics, covariance, varies)
    else:
        _solve_lsqr(estimator, covariance)
    if len(statistics.classes) == 2:
        estimator.coef_ = np.diff(estimator.coef_, axis=0)  # (1, D)
        estimator.intercept_ = np.diff(estimator.intercept_)  # (1,)
    return estimator


def _solve_svd(estimator: Any, statistics: Statistics, covariance: np.ndarray, varies: np.ndarray) -> None:
    """scikit-learn's solver ``svd``: the squares of its singular values are the eigenvalues of X'X."""
    deviations = np.sqrt(np.where(varies, np.diag(covariance), 1.0))
    values, vectors = np.linalg.eigh(covariance / np.outer(deviations, deviations))
    order = np.flatnonzero(values > estimator.tol**2)[::-1]  # (r,), descending
    whitening = vectors[:, order] / deviations[:, None] / np.sqrt(values[order])  # (D, r)
    estimator.xbar_ = estimator.priors_ @ estimator.means_
    centred = estimator.means_ - estimator.xbar_  # (K, D)
    weights = np.sqrt(statistics.class_counts / (len(centred) - 1))[:, None]
    _, singular, axes = np.linalg.svd(weights * centred @ whitening, full_matrices=False)
    shares = singular**2 / max((singular**2).sum(), np.finfo(np.float64).tiny)  # all class means may be the same
    estimator.explained_variance_ratio_ = shares[: estimator._max_components]
    estimator.scalings_ = whitening @ axes.T[:, singular > estimator.tol * singular[0]]
    projected = centred @ estimator.scalings_
    estimator.coef_ = projected @ estimator.scalings_.T
    estimator.intercept_ = np.log(estimator.priors_) - (projected**2).sum(1) / 2 - estimator.coef_ @ estimator.xbar_


def _solve_lsqr(estimator: Any, covariance: np.ndarray) -> None:
    """scikit-learn's solver ``lsqr``; pooled, its shrinkage of each class's covariance is one of theirs together."""
    width = len(covariance)
    target = np.trace(covariance) / width * np.eye(width)
    estimator.covariance_ = (1 - estimator.shrinkage) * covariance + estimator.shrinkage * target
    values, vectors = eigenpairs(estimator.covariance_)  # (r,), (D, r)
    estimator.coef_ = estimator.means_ @ vectors / values @ vectors.T
    estimator.intercept_ = np.log(estimator.priors_) - np.einsum("kd,kd->k", estimator.means_, estimator.coef_) / 2


def to_centroids(statistics: Statistics) -> Any:
    """The nearest class mean, by Euclidean distance.

    Parameters
    ----------
    statistics : Statistics
        Their folds are put together.

    Returns
    -------
    NearestCentroid

    Raises
    ------
    ProbeError
        Fewer than two classes have rows, or all features are constant.

    Examples
    --------
    >>> from featurepipe.statistics import gather
    >>> X, y = np.array([[0.0, 1], [1, 0], [3, 5], [4, 3]]), np.array([0, 0, 1, 1])
    >>> to_centroids(gather([(X, y)], y)).centroids_.tolist()
    [[0.5, 0.5], [3.5, 4.0]]
    """
    from sklearn.neighbors import NearestCentroid

    statistics = statistics.for_classifier()
    counts, rows, known = statistics.class_counts, statistics.rows, len(statistics.classes)
    if statistics.constant().all():
        raise ProbeError("all features are constant; there is no nearest class mean")
    estimator = NearestCentroid()
    estimator.classes_, estimator.centroids_ = statistics.classes, statistics.class_means
    estimator.n_features_in_ = statistics.width
    estimator.class_prior_ = np.full(known, 1 / known)
    squares = np.maximum(np.diag(statistics.within_scatter()), 0)  # (D,)
    # As in scikit-learn nan or infinite where nothing varies within a class; `predict` does not use them.
    with np.errstate(divide="ignore", invalid="ignore"):
        deviations = np.sqrt(squares / (rows - known))
        standard_errors = np.sqrt(1 / counts - 1 / rows)[:, None] * (deviations + np.median(deviations))  # (K, D)
        estimator.deviations_ = (estimator.centroids_ - statistics.mean) / standard_errors
    estimator.within_class_std_dev_ = deviations
    return estimator


def to_scaler(statistics: Statistics) -> Any:
    """Standardisation to mean 0 and variance 1.

    Parameters
    ----------
    statistics : Statistics
        Their folds are put together; the classes do not matter.

    Returns
    -------
    StandardScaler

    Examples
    --------
    >>> from featurepipe.statistics import gather
    >>> X = np.array([[0.0, 7], [2, 7]])
    >>> to_scaler(gather([(X, [0, 0])], [0])).transform(X).tolist()
    [[-1.0, 0.0], [1.0, 0.0]]
    """
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler()
    scaler.n_samples_seen_, scaler.n_features_in_ = np.int64(statistics.rows), statistics.width
    scaler.mean_, scaler.var_, scaler.scale_ = statistics.mean, statistics.variances(), statistics.scales()
    return scaler
