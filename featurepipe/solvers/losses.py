"""Convex losses of linear scores, as Newton's method needs them: value, slope, curvature.

S are scores (n, K), Y targets of 0 and 1 (n, K), w weights (n, 1) or (n, K). The estimates P (n, K) are such that
P - Y is the loss's derivative by S, without weights: of the logistic losses the probabilities. All of them are NumPy's,
or torch's on one device; see `featurepipe.solvers.arrays`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np

from featurepipe.solvers.arrays import (
    Array,
    along_rows,
    blocks,
    device_of,
    double,
    expit,
    host,
    namespace,
    put,
    single,
    zeros,
)

Product = Callable[[Array, slice], Array]


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
        """The product of every row's weighted second derivative (K, K) with T (m, K), in float32.

        It takes T of some of the rows, and the slice that says which; T may be overwritten.
        """
        ...

    def curvatures(self, P: Array, Y: Array, w: Array | float) -> Array:
        """The diagonal of the weighted sum of the rows' second derivatives, (K,)."""
        ...


class Softmax:
    """One class of several; the estimates of a row sum to 1."""

    penalises_intercept = False
    separate = False
    smooth = True

    @staticmethod
    def value(S: Array, Y: Array, w: Array | float) -> float:  # noqa: D102
        xp = namespace(S)
        losses = zeros((len(S), 1), S)
        for at in blocks(S):
            top = xp.amax(S[at], axis=1, keepdims=True)  # (m, 1)
            log_sum = xp.log(xp.exp(S[at] - top).sum(axis=1, keepdims=True))
            losses[at] = log_sum + top - xp.einsum("ij,ij->i", S[at], Y[at])[:, None]
        return float((w * losses).sum())

    @staticmethod
    def estimates(S: Array, Y: Array) -> Array:  # noqa: D102
        xp = namespace(S)
        P = zeros(S.shape, S)
        for at in blocks(S):
            E = xp.exp(S[at] - xp.amax(S[at], axis=1, keepdims=True))
            P[at] = E / E.sum(axis=1, keepdims=True)
        return P

    @staticmethod
    def curvature(P: Array, Y: Array, w: Array | float) -> Product:
        """The product w (diag(p) - p pᵀ) t of every row, in float32.

        Adding the same number to all of t changes nothing, so the entry of the likeliest class is made 0: 1 - p of a
        class that is all but certain has no correct digit in float32, and is not needed then.
        """
        top = P.argmax(axis=1)[:, None]  # (n, 1)
        P32, weight = single(P), w if isinstance(w, float) else single(w)  # (n, K), (n, 1)
        einsum = namespace(P).einsum

        def product(T: Array, at: slice) -> Array:
            T -= along_rows(T, top[at])
            T -= einsum("ij,ij->i", P32[at], T)[:, None]
            T *= P32[at]
            if not isinstance(weight, float):
                T *= weight[at]
            return T

        return product

    @staticmethod
    def curvatures(P: Array, Y: Array, w: Array | float) -> Array:  # noqa: D102
        return sum((_of(w, at) * P[at] * (1 - P[at])).sum(axis=0) for at in blocks(P))

    @staticmethod
    def solve(P: Array, w: Array | float, g: np.ndarray, curvatures: np.ndarray) -> np.ndarray:
        """The weighted sum of the rows' second derivatives, inverted, times g (K,): by conjugate gradients.

        Parameters
        ----------
        P, w
        g : ndarray, shape (K,)
            Its sum is 0, as there is no curvature along (1, …, 1).
        curvatures : ndarray, shape (K,)
            As from `curvatures`.
        """
        from scipy.sparse.linalg import LinearOperator, cg

        sums = host((w * P).sum(axis=0))

        def product(v: np.ndarray) -> np.ndarray:
            along = P @ put(v.reshape(-1, 1), device_of(P))  # (n, 1)
            return sums * v.ravel() - host(P.T @ (w * along)).ravel()

        shape = (len(g), len(g))
        A = LinearOperator(shape, product, dtype=np.float64)
        return cg(A, g, rtol=0.01, maxiter=100, M=LinearOperator(shape, lambda v: v / curvatures, dtype=np.float64))[0]

    @staticmethod
    def covariance(P: Array, Y: Array, w: Array | float, *, rounded: bool = False) -> np.ndarray:
        """The weighted sum of the rows' second derivatives, (K, K), in NumPy; `rounded` to float32.

        Along (1, …, 1), where the loss does not change, it is filled up with the mean, so that it has an inverse. The
        diagonal is summed in float64 before it is rounded: of predictions that are all but certain, Σ p - Σ p² has no
        correct digit in float32.
        """
        Q = single(P) if rounded else P
        weighted = Q if isinstance(w, float) else Q * namespace(Q).asarray(w, dtype=Q.dtype)
        A = -host(weighted.T @ Q)  # (K, K)
        np.fill_diagonal(A, host(Softmax.curvatures(P, Y, w)))
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
        return lambda T, at: slope[at] * T

    @staticmethod
    def curvatures(P: Array, Y: Array, w: Array | float) -> Array:  # noqa: D102
        return (w * P * (1 - P)).sum(axis=0)


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
        return lambda T, at: bend[at] * T

    @staticmethod
    def curvatures(P: Array, Y: Array, w: Array | float) -> Array:  # noqa: D102
        return (2 * w * double(P != Y)).sum(axis=0)


def _of(w: Array | float, at: slice) -> Array | float:
    """The weights of some rows."""
    return w if isinstance(w, float) else w[at]
