"""Linear discriminant analysis, the nearest class mean and standardisation, as scikit-learn would fit them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from featurepipe.errors import ProbeError
from featurepipe.statistics.sums import EPSILON, Statistics


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
        Fewer than two classes have rows, or a shrinkage out of range; without shrinkage also if no class has two rows,
        or no feature varies within a class.

    Examples
    --------
    >>> from featurepipe.statistics import gather
    >>> X, y = np.array([[0.0, 1], [1, 0], [3, 5], [4, 3]]), np.array([0, 0, 1, 1])
    >>> to_lda(gather([(X, y)], y)).predict(X).tolist()
    [0, 0, 1, 1]
    """
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    if shrinkage is not None:
        return _with_covariance(lda_path(statistics, [shrinkage])[0], statistics.for_classifier())
    statistics = statistics.for_classifier()
    if statistics.rows == len(statistics.classes):
        raise ProbeError("every class has a single row; discriminant analysis needs rows that differ within a class")
    estimator = LinearDiscriminantAnalysis()
    _describe(estimator, statistics)
    covariance = statistics.within_scatter() / statistics.rows  # (D, D)
    rounding = statistics.width * EPSILON * statistics.deviations() ** 2
    varies = np.diag(covariance) > rounding  # within classes, (D,)
    if not varies.any():
        raise ProbeError("no feature varies within a class; discriminant analysis is not defined")
    _solve_svd(estimator, statistics, covariance, varies)
    _set_scores(estimator, estimator.coef_, estimator.intercept_)
    return estimator


def lda_path(statistics: Statistics, shrinkages: Sequence[float], *, scale: bool = False) -> list[Any]:
    """Fit linear discriminant analysis (solver ``lsqr``) at each shrinkage, from one eigendecomposition.

    The shrunk covariances (1 − s) S + s t I share the eigenvectors of S, the covariance within the classes, with t
    their mean variance. Outside these axes the covariance is s t I, or without shrinkage nothing, and what the class
    means have there is left out, as by least squares of least norm. Where nothing varies within a class (single rows)
    t is 1: the nearest class mean.

    Parameters
    ----------
    statistics : Statistics
        Their folds are put together.
    shrinkages : sequence of float
        Each from 0 to 1.
    scale : bool
        Standardise the features first (`feature_scales`); this is folded into the coefficients, so that the estimators
        take raw rows.

    Returns
    -------
    list of LinearDiscriminantAnalysis
        Without scikit-learn's ``covariance_`` (D, D), which no prediction needs; `to_lda` has it.

    Raises
    ------
    ProbeError
        Fewer than two classes have rows, or a shrinkage out of range.

    Examples
    --------
    >>> from featurepipe.statistics import gather
    >>> X, y = np.array([[0.0, 1], [1, 0], [3, 5], [4, 3]]), np.array([0, 0, 1, 1])
    >>> [one.predict(X).tolist() for one in lda_path(gather([(X, y)], y), [0.1, 1.0])]
    [[0, 0, 1, 1], [0, 0, 1, 1]]
    """
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    statistics = statistics.for_classifier()
    scales, origin = np.ones(statistics.width), np.zeros(statistics.width)
    if scale:
        scales, origin = statistics.scales(), statistics.mean
    means = (statistics.class_means - origin) / scales  # (K, D)
    values, vectors = statistics.principal(scales, within=True)  # (r,), (D, r)
    values = values / statistics.rows
    typical = values.sum() / statistics.width or 1.0
    along = means @ vectors  # (K, r)
    beside = means - along @ vectors.T if len(values) < statistics.width else np.zeros_like(means)  # (K, D)
    found = []
    for shrinkage in shrinkages:
        if not 0 <= shrinkage <= 1:
            raise ProbeError(f"shrinkage must be from 0 to 1; got {shrinkage}")
        coef = along / ((1 - shrinkage) * values + shrinkage * typical) @ vectors.T
        if shrinkage:
            coef += beside / (shrinkage * typical)
        estimator = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=float(shrinkage))
        _describe(estimator, statistics)
        intercept = np.log(estimator.priors_) - np.einsum("kd,kd->k", means, coef) / 2
        _set_scores(estimator, coef / scales, intercept - coef / scales @ origin)
        found.append(estimator)
    return found


def _describe(estimator: Any, statistics: Statistics) -> None:
    """What any fitted LinearDiscriminantAnalysis has."""
    estimator.classes_, estimator.means_ = statistics.classes, statistics.class_means
    estimator.priors_ = statistics.class_counts / statistics.rows
    estimator.n_features_in_ = statistics.width
    estimator._max_components = estimator._n_features_out = min(len(statistics.classes) - 1, statistics.width)


def _set_scores(estimator: Any, coef: np.ndarray, intercept: np.ndarray) -> None:
    """Coefficients (K, D) and intercepts (K,), of two classes their difference."""
    if len(estimator.classes_) == 2:
        coef, intercept = np.diff(coef, axis=0), np.diff(intercept)
    estimator.coef_, estimator.intercept_ = coef, intercept


def _with_covariance(estimator: Any, statistics: Statistics) -> Any:
    """scikit-learn's shrunk ``covariance_``; its shrinkage of each class's is one of theirs together."""
    covariance = statistics.within_scatter() / statistics.rows  # (D, D)
    target = np.trace(covariance) / statistics.width * np.eye(statistics.width)
    estimator.covariance_ = (1 - estimator.shrinkage) * covariance + estimator.shrinkage * target
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
        Fewer than two classes have rows.

    Examples
    --------
    >>> from featurepipe.statistics import gather
    >>> X, y = np.array([[0.0, 1], [1, 0], [3, 5], [4, 3]]), np.array([0, 0, 1, 1])
    >>> to_centroids(gather([(X, y)], y)).centroids_.tolist()
    [[0.5, 0.5], [3.5, 4.0]]
    """
    statistics = statistics.for_classifier()
    counts, rows, known = statistics.class_counts, statistics.rows, len(statistics.classes)
    squares = statistics.within_squares()  # (D,)
    # As in scikit-learn nan or infinite where nothing varies within a class; `predict` does not use them.
    with np.errstate(divide="ignore", invalid="ignore"):
        deviations = np.sqrt(squares / (rows - known))
        standard_errors = np.sqrt(1 / counts - 1 / rows)[:, None] * (deviations + np.median(deviations))  # (K, D)
        shifts = (statistics.class_means - statistics.mean) / standard_errors
    estimator = centroid_classifier(statistics.classes, statistics.class_means, deviations)
    estimator.deviations_ = shifts
    return estimator


def centroid_classifier(classes: np.ndarray, centroids: np.ndarray, deviations: np.ndarray) -> Any:
    """A NearestCentroid with these class means.

    Parameters
    ----------
    classes : ndarray, shape (K,)
        Sorted.
    centroids : ndarray, shape (K, D)
    deviations : ndarray, shape (D,)
        Within the classes; scikit-learn's own `decision_function` divides by them, `predict` does not.

    Returns
    -------
    NearestCentroid
    """
    from sklearn.neighbors import NearestCentroid

    estimator = NearestCentroid()
    estimator.classes_, estimator.centroids_, estimator.within_class_std_dev_ = classes, centroids, deviations
    estimator.class_prior_ = np.full(len(classes), 1 / len(classes))
    estimator.n_features_in_ = centroids.shape[1]
    return estimator


def to_scaler(statistics: Statistics) -> Any:
    """Standardisation to mean 0 and variance 1, except for features that are constant in float32 (see `is_constant`).

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
    scaler.n_samples_seen_, scaler.n_features_in_ = statistics.counts.sum(), statistics.width
    scaler.mean_, scaler.var_, scaler.scale_ = statistics.mean, statistics.variances(), statistics.deviations()
    return scaler
