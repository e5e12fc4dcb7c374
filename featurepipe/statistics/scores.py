"""How well features suit labels, without fitting a classifier: H-score and LogME."""

from __future__ import annotations

import numpy as np

from featurepipe.errors import ProbeError
from featurepipe.statistics.sums import Statistics, eigenpairs

# Of the authors' LogME, so that scores can be compared with published ones.
STEPS = 11
TOLERANCE = 1e-3
EPSILON = 1e-5


def h_score(statistics: Statistics, *, shrinkage: float = 0.0) -> float:
    """H-score: how much of the features' covariance is between classes, trace(cov(X)⁻¹ cov(class means)).

    Bao et al. 2019, "An Information-Theoretic Approach to Transferability in Task Transfer Learning"; with a
    shrinkage a, (1 − a) trace(((1 − a) cov(X) + a trace(cov(X))/D I)⁻¹ cov(class means)) of Ibrahim, Ponomareva &
    Mazumder 2021, "Newer Is Not Always Better: Rethinking Transferability Metrics", who take a from Ledoit and Wolf;
    that needs fourth moments and cannot be had from these statistics.

    Parameters
    ----------
    statistics : Statistics
        Their folds are put together.
    shrinkage : float
        From 0 to below 1. Without one, no more rows than features always give the number of classes − 1.

    Returns
    -------
    float
        From 0 to the number of classes − 1; greater is better.

    Raises
    ------
    ProbeError
        Fewer than two classes have rows, or a shrinkage out of range.

    Examples
    --------
    >>> from featurepipe.statistics import gather
    >>> X, y = np.array([[0.0], [2], [4], [6]]), [0, 0, 1, 1]
    >>> round(h_score(gather([(X, y)], y)), 6)  # 4 of a variance of 5
    0.8
    """
    if not 0 <= shrinkage < 1:
        raise ProbeError(f"shrinkage must be from 0 to below 1; got {shrinkage}")
    statistics = statistics.for_classifier()
    values, vectors = statistics.principal(np.ones(statistics.width))  # (r,), (D, r)
    values = (1 - shrinkage) * values + shrinkage * values.sum() / statistics.width
    centred = np.sqrt(statistics.class_counts)[:, None] * (statistics.class_means - statistics.mean)  # (K, D)
    return float((1 - shrinkage) * ((centred @ vectors) ** 2 / values).sum())


def logme(statistics: Statistics) -> float:
    """LogME: the log evidence per row of a Bayesian linear model on the features, mean over the classes.

    You et al. 2021, "LogME: Practical Assessment of Pre-trained Models for Transfer Learning", by the fixed point of
    You et al. 2022, "Ranking and Tuning Pre-trained Models" (https://github.com/thuml/LogME), with their starting
    point, number of steps and tolerance. With a one-hot target y of n_k rows, X'y is the class sum and y'y = n_k.

    Parameters
    ----------
    statistics : Statistics
        Their folds are put together.

    Returns
    -------
    float
        Greater is better.

    Raises
    ------
    ProbeError
        Fewer than two classes have rows, or all features are zero.

    Notes
    -----
    As in the papers the features are neither centred nor standardised. For more features than rows the authors'
    program leaves the directions without rows out of log|A|, which its paper has; here they are in it.

    Examples
    --------
    >>> from featurepipe.statistics import gather
    >>> rng = np.random.default_rng(0)
    >>> y = np.arange(90) % 3
    >>> good, bad = (gather([(rng.normal(size=(90, 3)) + a * np.eye(3)[y], y)], y) for a in (4, 0))
    >>> logme(good) > logme(bad)
    True
    """
    statistics = statistics.for_classifier()
    shift, rows, counts = statistics.shift, statistics.rows, statistics.class_counts
    total, sums = statistics.sums.sum(axis=(0, 1)), statistics.class_sums
    gram = statistics.gram() + np.outer(total, shift) + np.outer(shift, total) + rows * np.outer(shift, shift)
    values, vectors = eigenpairs(gram)  # X'X about zero: (r,), (D, r)
    if not len(values):
        raise ProbeError("all features are zero; LogME is not defined")
    explained = ((sums + np.outer(counts, shift)) @ vectors) ** 2 / values  # (K, r): target on X's singular vectors
    rest = np.maximum(counts - explained.sum(axis=1), 0)  # (K,): what no linear model explains
    evidences = [_evidence(values, *pair, rows, statistics.width) for pair in zip(explained, rest, strict=True)]
    return float(np.mean(evidences)) / rows


def _evidence(values: np.ndarray, explained: np.ndarray, rest: float, rows: float, width: int) -> float:
    """Log evidence of one target at the fixed point.

    Parameters
    ----------
    values : ndarray, shape (r,)
        Squares of X's singular values above zero.
    explained : ndarray, shape (r,)
        Squares of the target's parts along X's left singular vectors.
    rest : float
        Square of its part outside them.
    rows, width : int
        Shape of X.
    """
    alpha = beta = 1.0  # precision of the weights, of the noise
    for _ in range(STEPS):
        ratio = alpha / beta
        kept, lost = values / (values + ratio), ratio / (values + ratio)  # (r,): they add up to 1
        weights2 = (kept**2 * explained / values).sum()  # ‖m‖²
        error2 = (lost**2 * explained).sum() + rest  # ‖Xm − y‖²
        alpha = kept.sum() / (weights2 + EPSILON)
        beta = (rows - len(values) + lost.sum()) / (error2 + EPSILON)
        if abs(alpha / beta - ratio) <= TOLERANCE * ratio:
            break
    log_det = np.log(alpha + beta * values).sum() + (width - len(values)) * np.log(alpha)
    fit = width * np.log(alpha) + rows * np.log(beta) - beta * error2 - alpha * weights2
    return float(fit - log_det - rows * np.log(2 * np.pi)) / 2
