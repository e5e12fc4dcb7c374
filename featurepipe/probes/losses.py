"""Convex losses of linear scores, as Newton's method needs them: value, slope, curvature.

S are scores (n, K), Y targets of 0 and 1 (n, K), w weights (n, 1) or (n, K). The estimates P (n, K) are such that
P - Y is the loss's derivative by S, without weights: of the logistic losses the probabilities. All of them are NumPy's,
or torch's on one device; see `featurepipe.probes.arrays`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np

from featurepipe.probes.arrays import Array, along_rows, double, expit, host, namespace, single

Product = Callable[[Array], Array]


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

    def value(self, S: Array, Y: Array, w: Array | float) -> float:
        """Weighted sum over the rows."""
        ...

    def estimates(self, S: Array, Y: Array) -> Array:
        """P (n, K)."""
        ...

    def curvature(self, P: Array, Y: Array, w: Array | float) -> Product:
        """The product of every row's weighted second derivative (K, K) with T (n, K), in float32."""
        ...

    def covariance(self, P: Array, Y: Array, w: Array | float) -> np.ndarray:
        """Weighted sum of the rows' second derivatives, (K, K), in NumPy."""
        ...


class Softmax:
    """One class of several; the estimates of a row sum to 1."""

    penalises_intercept = False
    separate = False
    smooth = True

    @staticmethod
    def value(S: Array, Y: Array, w: Array | float) -> float:  # noqa: D102
        xp = namespace(S)
        top = xp.amax(S, axis=1, keepdims=True)  # (n, 1)
        log_sum = xp.log(xp.exp(S - top).sum(axis=1, keepdims=True)) + top
        return float((w * (log_sum - (S * Y).sum(axis=1, keepdims=True))).sum())

    @staticmethod
    def estimates(S: Array, Y: Array) -> Array:  # noqa: D102
        xp = namespace(S)
        P = xp.exp(S - xp.amax(S, axis=1, keepdims=True))
        P /= P.sum(axis=1, keepdims=True)
        return P

    @staticmethod
    def curvature(P: Array, Y: Array, w: Array | float) -> Product:
        """The product w (diag(p) - p pᵀ) t of every row, in float32.

        Adding the same number to all of t changes nothing, so the entry of the likeliest class is made 0: 1 - p of a
        class that is all but certain has no correct digit in float32, and is not needed then.
        """
        top = P.argmax(axis=1)[:, None]  # (n, 1)
        P32, weighted = single(P), single(w * P)
        einsum = namespace(P).einsum

        def product(T: Array) -> Array:
            T = T - along_rows(T, top)
            T -= einsum("ij,ij->i", P32, T)[:, None]
            T *= weighted
            return T

        return product

    @staticmethod
    def covariance(P: Array, Y: Array, w: Array | float) -> np.ndarray:
        """Along (1, …, 1), where the loss does not change, it is filled up with the mean, so that it has an inverse."""
        weighted = w * P
        A = np.diag(host(weighted.sum(axis=0))) - host(weighted.T @ P)  # (K, K)
        return A + np.trace(A) / len(A) ** 2


class Sigmoid:
    """Any number of labels, each with a probability of its own; two classes are one label."""

    penalises_intercept = False
    separate = True
    smooth = True

    @staticmethod
    def value(S: Array, Y: Array, w: Array | float) -> float:  # noqa: D102
        xp = namespace(S)
        return float((w * (xp.logaddexp(xp.zeros_like(S), S) - S * Y)).sum())

    @staticmethod
    def estimates(S: Array, Y: Array) -> Array:  # noqa: D102
        return expit(S)

    @staticmethod
    def curvature(P: Array, Y: Array, w: Array | float) -> Product:  # noqa: D102
        slope = single(w * P * (1 - P))
        return lambda T: slope * T

    @staticmethod
    def covariance(P: Array, Y: Array, w: Array | float) -> np.ndarray:  # noqa: D102
        return np.diag(host((w * P * (1 - P)).sum(axis=0)))  # (K, K)


class SquaredHinge:
    """max(0, 1 - t s)² with t = -1 or 1: scikit-learn's LinearSVC, one class against the rest in each column.

    As there the intercept is penalised, and the second derivative is that of the rows within the margin (Keerthi and
    DeCoste 2005, "A Modified Finite Newton Method for Fast Solution of Large Scale Linear SVMs").
    """

    penalises_intercept = True
    separate = True
    smooth = False

    @staticmethod
    def value(S: Array, Y: Array, w: Array | float) -> float:  # noqa: D102
        return float((w * namespace(S).clip(1 - (2 * Y - 1) * S, 0, None) ** 2).sum())

    @staticmethod
    def estimates(S: Array, Y: Array) -> Array:  # noqa: D102
        T = 2 * Y - 1
        return Y - 2 * T * namespace(S).clip(1 - T * S, 0, None)

    @staticmethod
    def curvature(P: Array, Y: Array, w: Array | float) -> Product:  # noqa: D102
        bend = single(2 * w * double(P != Y))
        return lambda T: bend * T

    @staticmethod
    def covariance(P: Array, Y: Array, w: Array | float) -> np.ndarray:  # noqa: D102
        return np.diag(host((2 * w * double(P != Y)).sum(axis=0)))  # (K, K)
