"""Convex losses of linear scores, as Newton's method needs them: value, slope, curvature.

S are scores (n, K), Y targets of 0 and 1 (n, K), w weights (n, 1) or (n, K). The estimates P (n, K) are such that
P - Y is the loss's derivative by S, without weights: of the logistic losses the probabilities.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np

Product = Callable[[np.ndarray], np.ndarray]


class Loss(Protocol):
    """What a path asks of a loss.

    Attributes
    ----------
    penalises_intercept : bool
        Whether the intercept is a coefficient like the others.
    separate : bool
        Whether the second derivative is diagonal: no column of S touches another.
    smooth : bool
        Whether there is a third derivative.
    """

    penalises_intercept: bool
    separate: bool
    smooth: bool

    def value(self, S: np.ndarray, Y: np.ndarray, w: np.ndarray | float) -> float:
        """Weighted sum over the rows."""
        ...

    def estimates(self, S: np.ndarray, Y: np.ndarray) -> np.ndarray:
        """P (n, K)."""
        ...

    def curvature(self, P: np.ndarray, Y: np.ndarray, w: np.ndarray | float) -> Product:
        """The product of every row's weighted second derivative (K, K) with T (n, K), in float32."""
        ...

    def covariance(self, P: np.ndarray, Y: np.ndarray, w: np.ndarray | float) -> np.ndarray:
        """Weighted sum of the rows' second derivatives, (K, K)."""
        ...


class Softmax:
    """One class of several; the estimates of a row sum to 1."""

    penalises_intercept = False
    separate = False
    smooth = True

    @staticmethod
    def value(S: np.ndarray, Y: np.ndarray, w: np.ndarray | float) -> float:  # noqa: D102
        top = S.max(axis=1, keepdims=True)  # (n, 1)
        log_sum = np.log(np.exp(S - top).sum(axis=1, keepdims=True)) + top
        return float((w * (log_sum - (S * Y).sum(axis=1, keepdims=True))).sum())

    @staticmethod
    def estimates(S: np.ndarray, Y: np.ndarray) -> np.ndarray:  # noqa: D102
        P = np.exp(S - S.max(axis=1, keepdims=True))
        P /= P.sum(axis=1, keepdims=True)
        return P

    @staticmethod
    def curvature(P: np.ndarray, Y: np.ndarray, w: np.ndarray | float) -> Product:
        """The product w (diag(p) - p pᵀ) t of every row, in float32.

        Adding the same number to all of t changes nothing, so the entry of the likeliest class is made 0: 1 - p of a
        class that is all but certain has no correct digit in float32, and is not needed then.
        """
        top = P.argmax(axis=1)[:, None]  # (n, 1)
        single = P.astype(np.float32)
        weighted = (w * P).astype(np.float32)

        def product(T: np.ndarray) -> np.ndarray:
            T = T - np.take_along_axis(T, top, axis=1)
            T -= np.einsum("ij,ij->i", single, T)[:, None]
            T *= weighted
            return T

        return product

    @staticmethod
    def covariance(P: np.ndarray, Y: np.ndarray, w: np.ndarray | float) -> np.ndarray:
        """Along (1, …, 1), where the loss does not change, it is filled up with the mean, so that it has an inverse."""
        weighted = w * P
        A = np.diag(weighted.sum(axis=0)) - weighted.T @ P  # (K, K)
        return A + np.trace(A) / len(A) ** 2


class Sigmoid:
    """Any number of labels, each with a probability of its own; two classes are one label."""

    penalises_intercept = False
    separate = True
    smooth = True

    @staticmethod
    def value(S: np.ndarray, Y: np.ndarray, w: np.ndarray | float) -> float:  # noqa: D102
        return float((w * (np.logaddexp(0, S) - S * Y)).sum())

    @staticmethod
    def estimates(S: np.ndarray, Y: np.ndarray) -> np.ndarray:  # noqa: D102
        from scipy.special import expit

        return expit(S)

    @staticmethod
    def curvature(P: np.ndarray, Y: np.ndarray, w: np.ndarray | float) -> Product:  # noqa: D102
        slope = (w * P * (1 - P)).astype(np.float32)
        return lambda T: slope * T

    @staticmethod
    def covariance(P: np.ndarray, Y: np.ndarray, w: np.ndarray | float) -> np.ndarray:  # noqa: D102
        return np.diag((w * P * (1 - P)).sum(axis=0))  # (K, K)


class SquaredHinge:
    """max(0, 1 - t s)² with t = -1 or 1: scikit-learn's LinearSVC, one class against the rest in each column.

    As there the intercept is penalised, and the second derivative is that of the rows within the margin (Keerthi and
    DeCoste 2005, "A Modified Finite Newton Method for Fast Solution of Large Scale Linear SVMs").
    """

    penalises_intercept = True
    separate = True
    smooth = False

    @staticmethod
    def value(S: np.ndarray, Y: np.ndarray, w: np.ndarray | float) -> float:  # noqa: D102
        return float((w * np.maximum(0, 1 - (2 * Y - 1) * S) ** 2).sum())

    @staticmethod
    def estimates(S: np.ndarray, Y: np.ndarray) -> np.ndarray:  # noqa: D102
        T = 2 * Y - 1
        return Y - 2 * T * np.maximum(0, 1 - T * S)

    @staticmethod
    def curvature(P: np.ndarray, Y: np.ndarray, w: np.ndarray | float) -> Product:  # noqa: D102
        bend = (2 * w * (P != Y)).astype(np.float32)
        return lambda T: bend * T

    @staticmethod
    def covariance(P: np.ndarray, Y: np.ndarray, w: np.ndarray | float) -> np.ndarray:  # noqa: D102
        return np.diag((2 * w * (P != Y)).sum(axis=0))  # (K, K)
