"""The few-shot protocols: bigvision-fewshot and vissl-lowshot-svm, a classifier for every draw."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from featurepipe.errors import ProbeError
from featurepipe.probes import mean_interval
from featurepipe.probes.inputs import check
from featurepipe.protocols import margins
from featurepipe.protocols.copies import distinct
from featurepipe.protocols.definitions import Protocol
from featurepipe.protocols.evaluations import average_precisions
from featurepipe.statistics import ridge_classifier

BIAS = 100.0  # a constant feature so large that the penalty hardly touches what it carries
EPSILON = 1e-5  # added to the standard deviation


def run_shots(
    protocol: Protocol,
    X: np.ndarray,
    y: np.ndarray,
    X_test: np.ndarray,
    y_test: np.ndarray,
    *,
    groups: Sequence[object] | np.ndarray | None = None,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Follow a few-shot protocol: classifiers of few labels per class, over its draws.

    The test rows are predicted, and decide nothing. Shots that a class has too few images for are left out.

    Parameters
    ----------
    protocol : Protocol
        One with shots.
    X, X_test : ndarray of float, shape (n, width)
        Raw embeddings.
    y, y_test : ndarray, shape (n,)
        At least two classes, and none in y_test only.
    groups : sequence, shape (n,), optional
        Rows of the same class and group are copies of an image, of which a draw holds at most one.
    seed : int
        Draw r is that of seed + r.

    Returns
    -------
    list of dict
        Per number of shots: ``shots, repeats, metric, mean, std, interval, values`` (a figure per draw). The interval
        is that of the mean over draws, 95 %, by Student's t; it and the standard deviation are None of a single draw.

    Raises
    ------
    ProbeError
        A protocol without shots, a single class, a class in y_test only, or values that are not finite.

    Examples
    --------
    >>> from featurepipe.protocols import PROTOCOLS
    >>> rng = np.random.default_rng(0)
    >>> y = np.arange(40) % 2
    >>> X = rng.normal(size=(40, 4)) + y[:, None]
    >>> [one["shots"] for one in run_shots(PROTOCOLS["bigvision-fewshot"], X[:30], y[:30], X[30:], y[30:])]
    [1, 5, 10]
    """
    if not protocol.shots:
        raise ProbeError(f"protocol {protocol.name} has no shots; use run")
    X, y, X_test, y_test = check(X, y, X_test, y_test)
    X, X_test = X.astype(np.float64), X_test.astype(np.float64)
    scarcest = np.unique(y[distinct(y, groups).firsts], return_counts=True)[1].min()
    found = []
    for shots in (shots for shots in protocol.shots if shots <= scarcest):
        values = [
            _value(protocol, X[rows], y[rows], X_test, y_test, shots, seed)
            for rows in draws(y, shots, protocol.repeats, seed, groups)
        ]
        found.append(
            {
                "shots": shots,
                "repeats": protocol.repeats,
                "metric": protocol.metric,
                "mean": float(np.mean(values)),
                "std": float(np.std(values, ddof=1)) if len(values) > 1 else None,
                "interval": mean_interval(values),
                "values": values,
            }
        )
    return found


def draws(
    y: np.ndarray, shots: int, repeats: int, seed: int, groups: Sequence[object] | np.ndarray | None = None
) -> Iterator[np.ndarray]:
    """Rows of N images per class, for each draw; as big_vision draws them, more shots contain fewer."""
    firsts = distinct(y, groups).firsts
    members = [firsts[y[firsts] == label] for label in np.unique(y)]
    for repeat in range(repeats):
        generator = np.random.default_rng(seed + repeat)
        yield np.concatenate([generator.permutation(rows)[:shots] for rows in members])


def _value(
    protocol: Protocol,
    X: np.ndarray,
    y: np.ndarray,
    X_test: np.ndarray,
    y_test: np.ndarray,
    shots: int,
    seed: int,
) -> float:
    """The protocol's metric of one draw."""
    if protocol.method == "ridge":
        return float(np.mean(fit_ridge(X, y, protocol.grid[0]).predict(X_test) == y_test))
    costs = protocol.grid if shots > 1 else (margins.ONE_SHOT_COST,)
    estimator, _ = margins.fit(X, y, costs, folds=min(margins.FOLDS, shots), seed=seed)
    return average_precisions(estimator.decision_function(X_test), y_test, estimator.classes_)["map"]


def fit_ridge(X: np.ndarray, y: np.ndarray, alpha: float) -> Any:
    """big_vision's least squares on targets −1 and 1, with a large constant feature that is penalised too.

    Parameters
    ----------
    X : ndarray of float64, shape (n, D)
    y : ndarray, shape (n,)
    alpha : float

    Returns
    -------
    RidgeClassifier
        For raw embeddings.
    """
    from scipy.linalg import solve

    classes, codes = np.unique(y, return_inverse=True)
    mean, spread = X.mean(axis=0), X.std(axis=0) + EPSILON
    Z = np.column_stack([(X - mean) / spread, np.full(len(X), BIAS)])  # (n, D + 1)
    Y = 2.0 * np.eye(len(classes))[codes] - 1  # (n, K)
    n, width = Z.shape
    if n >= width:
        W = solve(Z.T @ Z + alpha * np.eye(width), Z.T @ Y, assume_a="pos")  # (D + 1, K)
    else:
        W = Z.T @ solve(Z @ Z.T + alpha * np.eye(n), Y, assume_a="pos")
    coef = W[:-1].T / spread  # (K, D)
    intercept = BIAS * W[-1] - coef @ mean
    kept = slice(1, None) if len(classes) == 2 else slice(None)  # of two, the first one's are the same with other signs
    return ridge_classifier(classes, coef[kept], intercept[kept], alpha)
