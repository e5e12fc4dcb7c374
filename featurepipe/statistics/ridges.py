"""Ridge classifiers for every alpha and fold, from one eigendecomposition each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from featurepipe.errors import ProbeError
from featurepipe.statistics.gathering import Chunk, Statistics, blocks, by_fold, eigenpairs


@dataclass(frozen=True)
class RidgeScores:
    """What cross-validation says of each alpha.

    Attributes
    ----------
    alphas : ndarray of float64, shape (A,)
    counts : ndarray of int64, shape (F,)
        Rows held out in each fold.
    accuracy : ndarray of float64, shape (F, A)
        Top-1 on the rows held out.
    squared_error : ndarray of float64, shape (F, A)
        Mean over those rows and all classes of (score − target)², with targets −1 and 1.
    """

    alphas: np.ndarray
    counts: np.ndarray
    accuracy: np.ndarray
    squared_error: np.ndarray

    @property
    def best_alpha(self) -> float:
        """The alpha of the greatest accuracy (mean of the folds); equal ones are told apart by the squared error."""
        best = np.lexsort((self.squared_error.mean(axis=0), -self.accuracy.mean(axis=0)))[0]
        return float(self.alphas[best])


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
        Standardise the features first; this is folded into the coefficients, so that the estimators take raw rows.

    Returns
    -------
    list of RidgeClassifier

    Raises
    ------
    ProbeError
        Fewer than two classes have rows, or an alpha is not a number of 0 or above.

    Examples
    --------
    >>> from featurepipe.statistics import gather
    >>> X, y = np.array([[0.0, 1], [1, 0], [3, 5], [4, 4]]), np.array(["a", "a", "b", "b"])
    >>> weak, strong = ridge_path(gather([(X, y)], y), [0.1, 1e6])
    >>> weak.predict(X).tolist()
    ['a', 'a', 'b', 'b']
    """
    statistics = statistics.for_classifier()
    alphas = _check_alphas(alphas)
    weights, intercepts = solve_ridge(statistics, alphas, scale)
    kept = slice(1, None) if len(statistics.classes) == 2 else slice(None)  # of two classes, the second one's
    return [
        ridge_classifier(statistics.classes, np.ascontiguousarray(weights[:, i, kept].T), intercepts[i, kept], alpha)
        for i, alpha in enumerate(alphas.tolist())
    ]


def cross_validate_ridge(
    statistics: Statistics, chunks: Iterable[Chunk], alphas: Sequence[float], *, scale: bool = False
) -> RidgeScores:
    """Accuracy of every alpha in k-fold cross-validation, by a second pass over the rows.

    Each fold's classifiers come from the statistics of the other folds. The second pass only multiplies held-out
    rows with the coefficients of all alphas at once; these take folds × alphas × classes × width float64.
    The squared error needs no second pass, but comes along.

    Parameters
    ----------
    statistics : Statistics
        With folds.
    chunks : iterable of tuple
        The very rows that they were taken of.
    alphas : sequence of float
        Each 0 or above.
    scale : bool
        As in `ridge_path`; what it is standardised by comes from the training folds alone.

    Returns
    -------
    RidgeScores
        Folds without rows are left out.

    Raises
    ------
    ProbeError
        No fold has rows, a fold leaves fewer than two classes to train on, or the chunks are not the same rows.

    Examples
    --------
    >>> from featurepipe.statistics import gather
    >>> rng = np.random.default_rng(0)
    >>> y = np.arange(60) % 3
    >>> chunks = [(rng.normal(size=(60, 4)) + y[:, None], y, np.arange(60) // 12)]
    >>> scores = cross_validate_ridge(gather(chunks, y, folds=5), chunks, [0.1, 10, 1e6])
    >>> scores.accuracy.shape
    (5, 3)
    """
    alphas = _check_alphas(alphas)
    held_out = [fold for fold in range(statistics.folds) if statistics.counts[fold].any()]
    if not held_out:
        raise ProbeError("no fold has rows to hold out; give each row's fold to gather")
    fitted, errors = {}, []
    for fold in held_out:
        train = statistics.without(fold)
        if np.count_nonzero(train.class_counts) < 2:
            raise ProbeError(f"without fold {fold} fewer than two classes are left to train on; use other folds")
        weights, intercepts = solve_ridge(train, alphas, scale)  # (D, A, K), (A, K)
        errors.append(_squared_error(statistics.only(fold), weights, intercepts))
        # The others of scikit-learn's classifiers would not know a class that is in no training fold.
        intercepts = np.where(train.class_counts, intercepts, -np.inf)
        fitted[fold] = weights.reshape(len(weights), -1), intercepts
    counts, correct = _count_correct(statistics, chunks, fitted, len(alphas))
    if (counts != statistics.counts).any():
        raise ProbeError(
            f"the second pass met {counts.sum()} rows where the first had {statistics.rows}, or others; "
            "give the same chunks again (a generator gives its items once)"
        )
    sizes = counts[held_out].sum(axis=1)  # (F,)
    return RidgeScores(alphas, sizes, correct[held_out] / sizes[:, None], np.stack(errors))


def solve_ridge(statistics: Statistics, alphas: np.ndarray, scale: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients of every alpha and class, for raw rows and targets −1 and 1, and intercepts without penalty.

    Returns
    -------
    weights : ndarray of float64, shape (D, A, K)
        Zero for a class without rows, whose intercept is −1.
    intercepts : ndarray of float64, shape (A, K)
    """
    rows, counts = statistics.rows, statistics.class_counts
    scales = statistics.scales() if scale else np.ones(statistics.width)
    values, vectors = eigenpairs(statistics.scatter() / np.outer(scales, scales))  # (r,), (D, r)
    projected = vectors.T @ (_target_products(statistics) / scales[:, None])  # (r, K)
    shrunk = projected[:, None] / (values[:, None] + alphas)[..., None]  # (r, A, K)
    weights = np.tensordot(vectors, shrunk, 1)  # (D, A, K)
    weights /= scales[:, None, None]
    intercepts = 2 * counts / rows - 1 - np.tensordot(statistics.mean, weights, 1)  # (A, K)
    return weights, intercepts


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


def _check_alphas(alphas: Sequence[float]) -> np.ndarray:
    checked = np.asarray(alphas, np.float64)
    if checked.ndim != 1 or not len(checked) or not (np.isfinite(checked) & (checked >= 0)).all():
        raise ProbeError(f"alphas must be numbers of 0 or above; got {alphas}")
    return checked


def _target_products(statistics: Statistics) -> np.ndarray:
    """(X − mean)'Y for targets −1 and 1, (D, K): twice the class sums about the mean."""
    total = statistics.sums.sum(axis=(0, 1))
    return 2 * (statistics.class_sums - np.outer(statistics.class_counts / statistics.rows, total)).T


def _squared_error(held_out: Statistics, weights: np.ndarray, intercepts: np.ndarray) -> np.ndarray:
    """Mean (score − target)² over rows and classes, per alpha: (A,).

    About the rows' own means, so that nothing large is subtracted:
    ‖Xw − y‖² = w'Sw − 2 w'(X − mean)'y + ‖y − mean y‖² + n (mean score − mean target)².
    """
    targets = 2 * held_out.class_counts / held_out.rows - 1  # (K,)
    flat = weights.reshape(len(weights), -1)  # (D, A K)
    spread = np.einsum("dj,dj->j", flat, held_out.scatter() @ flat).reshape(intercepts.shape)  # (A, K)
    fit = np.einsum("dak,dk->ak", weights, _target_products(held_out))
    offset = np.tensordot(held_out.mean, weights, 1) + intercepts - targets
    return ((spread - 2 * fit) / held_out.rows + 1 - targets**2 + offset**2).mean(axis=1)


def _count_correct(
    statistics: Statistics, chunks: Iterable[Chunk], fitted: dict[int, tuple[np.ndarray, np.ndarray]], alphas: int
) -> tuple[np.ndarray, np.ndarray]:
    """Rows met per part and class (F + 1, K), and correct ones per part and alpha (F + 1, A)."""
    known = len(statistics.classes)
    counts = np.zeros(statistics.counts.size, np.int64)
    correct = np.zeros((len(statistics.counts), alphas), np.int64)
    for X, cells in blocks(chunks, statistics.classes, statistics.folds, made=alphas * known):
        counts += np.bincount(cells, minlength=len(counts))
        for fold, rows in by_fold(cells, known):
            if fold in fitted:
                weights, intercepts = fitted[fold]
                scores = (X[rows] @ weights).reshape(-1, alphas, known)  # (n, A, K)
                scores += intercepts
                correct[fold] += (scores.argmax(axis=2) == cells[rows, None] % known).sum(axis=0)
    return counts.reshape(statistics.counts.shape), correct
