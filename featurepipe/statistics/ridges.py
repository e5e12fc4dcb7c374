"""Ridge classifiers of every alpha, from one eigendecomposition."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from featurepipe.errors import ProbeError
from featurepipe.statistics.sums import Statistics


def ridge_path(statistics: Statistics, alphas: Sequence[float], *, scale: bool = False) -> list[Any]:
    """Fit scikit-learn's RidgeClassifier for every alpha.

    One eigendecomposition of the covariance, S = V Λ V', serves them all: (S + αI)⁻¹ = V (Λ + α)⁻¹ V'. Directions
    without variance beyond rounding are left out, in which the coefficients are zero; so this also holds for more
    features than rows, and for alpha 0, which gives the solution of least norm.

    Parameters
    ----------
    statistics : Statistics
        Their folds are put together.
    alphas : sequence of float
        Each 0 or above.
    scale : bool
        Standardise the features first (`feature_scales`); this is folded into the coefficients, so that the estimators
        take raw rows.

    Returns
    -------
    list of RidgeClassifier

    Raises
    ------
    ProbeError
        Fewer than two classes have rows, or an alpha is not a number of 0 or above.

    Notes
    -----
    Coefficients agree with scikit-learn's fit in float64 to 1e-5 as long as the features' deviations differ by less
    than a factor of about 10⁵; beyond, the smallest features' lose digits to the rounding of the largest. `scale`
    cures that.

    Examples
    --------
    >>> from featurepipe.statistics import gather
    >>> X, y = np.array([[0.0, 1], [1, 0], [3, 5], [4, 4]]), np.array(["a", "a", "b", "b"])
    >>> weak, strong = ridge_path(gather([(X, y)], y), [0.1, 1e6])
    >>> weak.predict(X).tolist()
    ['a', 'a', 'b', 'b']
    """
    statistics = statistics.for_classifier()
    checked = check_alphas(alphas)
    ridge = solve_ridge(statistics, scale)
    weights = ridge.weights(ridge.factors(checked))  # (A, D, K)
    intercepts = ridge.targets - ridge.mean @ weights  # (A, K)
    kept = slice(1, None) if len(statistics.classes) == 2 else slice(None)  # of two classes, the second one's
    return [
        ridge_classifier(statistics.classes, np.ascontiguousarray(weights[i, :, kept].T), intercepts[i, kept], alpha)
        for i, alpha in enumerate(checked.tolist())
    ]


@dataclass(frozen=True)
class Ridge:
    """All ridge regressions on targets −1 and 1, one column per class, with an intercept that is not penalised.

    Attributes
    ----------
    mean : ndarray, shape (D,)
        Mean of the features.
    targets : ndarray, shape (K,)
        Mean target of each class; −1 for a class without rows, whose coefficients are zero.
    values : ndarray, shape (r,)
        Eigenvalues Λ of the (scaled) features' X'X about their mean.
    axes : ndarray, shape (D, r)
        Its eigenvectors, for raw features.
    products : ndarray, shape (r, K)
        X'Y along these axes.
    """

    mean: np.ndarray
    targets: np.ndarray
    values: np.ndarray
    axes: np.ndarray
    products: np.ndarray

    def factors(self, alphas: np.ndarray) -> np.ndarray:
        """1 / (Λ + α), (r, A)."""
        return 1 / (self.values[:, None] + alphas)

    def weights(self, factors: np.ndarray) -> np.ndarray:
        """Coefficients for raw features about the mean, one set per column of `factors` (r, J): (J, D, K)."""
        return self.axes @ (factors.T[:, :, None] * self.products)


def solve_ridge(statistics: Statistics, scale: bool = False) -> Ridge:
    """The eigendecomposition from which every alpha's coefficients follow; `scale` as in `ridge_path`."""
    scales = statistics.scales() if scale else np.ones(statistics.width)
    values, vectors = statistics.principal(scales)
    axes = vectors / scales[:, None]
    targets = 2 * statistics.class_counts / statistics.rows - 1
    return Ridge(statistics.mean, targets, values, axes, axes.T @ target_products(statistics))


def target_products(statistics: Statistics) -> np.ndarray:
    """(X − mean)'Y for targets −1 and 1, (D, K): twice the class sums about the mean."""
    total = statistics.sums.sum(axis=(0, 1))
    return 2 * (statistics.class_sums - np.outer(statistics.class_counts / statistics.rows, total)).T


def check_alphas(alphas: Sequence[float]) -> np.ndarray:
    """The alphas as float64 (A,), or a ProbeError."""
    checked = np.asarray(alphas, np.float64)
    if checked.ndim != 1 or not len(checked) or not (np.isfinite(checked) & (checked >= 0)).all():
        raise ProbeError(f"alphas must be numbers of 0 or above; got {alphas}")
    return checked


def ridge_classifier(classes: np.ndarray, weight: np.ndarray, bias: np.ndarray, alpha: float) -> Any:
    """A RidgeClassifier with these coefficients, as if scikit-learn had fitted it.

    Parameters
    ----------
    classes : ndarray, shape (K,)
        Sorted.
    weight : ndarray, shape (K, D), or (1, D) for two classes
    bias : ndarray, shape (K,) or (1,)
    alpha : float

    Returns
    -------
    RidgeClassifier
    """
    from sklearn.linear_model import RidgeClassifier
    from sklearn.preprocessing import LabelBinarizer

    estimator = RidgeClassifier(alpha=alpha)
    estimator._label_binarizer = LabelBinarizer(pos_label=1, neg_label=-1).fit(classes)
    vars(estimator)["classes_"] = classes  # in some versions a property, which then stands
    estimator.coef_ = weight.reshape(-1) if len(classes) == 2 and _binary_is_flat() else weight
    estimator.intercept_ = bias
    estimator.n_features_in_ = weight.shape[1]
    return estimator


@cache
def _binary_is_flat() -> bool:
    """Whether this scikit-learn gives a RidgeClassifier of two classes coefficients (D,), and not (1, D)."""
    from sklearn.linear_model import RidgeClassifier

    return RidgeClassifier().fit([[0.0], [1.0]], [0, 1]).coef_.ndim == 1
