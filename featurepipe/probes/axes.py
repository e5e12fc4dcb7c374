"""Features on their principal axes, as the C path multiplies with them: in float64, and in float32 where that does."""

from __future__ import annotations

import numpy as np

from featurepipe.probes.stacks import Rows, chunks, weighted_moments
from featurepipe.statistics import ROUNDING, feature_scales, is_constant, row_eigenpairs


class Rotated:
    """The features, centred and on their principal axes, as products with them.

    Attributes
    ----------
    rank : int
        Axes, r.
    squares : ndarray, shape (r,)
        Weighted sum of squares along each axis.
    weight : float
        Sum of the weights.
    """

    def __init__(self, X: Rows, w: np.ndarray, *, scale: bool, keep: bool) -> None:
        self._X, self.weight = X, float(w.sum())
        self._mean, deviations = weighted_moments(X, w)  # (D,), (D,)
        constant = is_constant(deviations, self._mean)
        self._spread = feature_scales(deviations, constant, len(X)) if scale else np.ones(X.shape[1])  # (D,)
        self._axes, self.squares = self._principal(w)  # (D, r), (r,)
        self.rank = len(self.squares)
        self._offset = self._mean @ self._axes  # (r,)
        self._kept = None
        if keep:
            self._kept = np.empty((len(X), self.rank), np.float32)
            for at, chunk in chunks(self._X):
                self._kept[at] = chunk @ self._axes - self._offset

    def forward(self, V: np.ndarray) -> np.ndarray:
        """Scores (n, K) of coefficients V (K, r + 1), in float64."""
        full = self._axes @ V[:, :-1].T  # (D, K)
        shift = V[:, -1] - self._offset @ V[:, :-1].T  # (K,)
        S = np.empty((len(self._X), len(V)))
        for at, chunk in chunks(self._X):
            S[at] = chunk @ full + shift
        return S

    def backward(self, R: np.ndarray) -> tuple[np.ndarray, float]:
        """Rᵀ times the features and a column of ones, (K, r + 1), of R (n, K), in float64.

        And the sum of squares of Rᵀ times what the features have beside their axes.
        """
        total = R.sum(axis=0)  # (K,)
        full = sum(R[at].T @ chunk for at, chunk in chunks(self._X)) - np.outer(total, self._mean)  # (K, D)
        along = full @ self._axes  # (K, r)
        beside = float(((full / self._spread) ** 2).sum() - (along**2).sum())  # Pythagoras
        return np.concatenate([along, total[:, None]], axis=1), max(beside, 0.0)

    def forward32(self, V: np.ndarray) -> np.ndarray:
        """As `forward`, in float32 from the kept features."""
        if self._kept is None:
            return self.forward(V.astype(np.float64)).astype(np.float32)
        with np.errstate(invalid="ignore"):  # some processors' BLAS flags numbers beside a vector's end
            return self._kept @ V[:, :-1].T + V[:, -1]

    def backward32(self, R: np.ndarray) -> np.ndarray:
        """As `backward`, in float32 from the kept features."""
        if self._kept is None:
            return self.backward(R.astype(np.float64))[0].astype(np.float32)
        with np.errstate(invalid="ignore"):  # as above
            return np.concatenate([R.T @ self._kept, R.sum(axis=0)[:, None]], axis=1)

    def unrotated(self, W: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Coefficients (K, D) and intercept (K,) for the features as they were given, of W (K, r + 1)."""
        coef = W[:, :-1] @ self._axes.T
        return coef, W[:, -1] - coef @ self._mean

    def _principal(self, w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The axes (D, r), which also standardise the features; their sums of squares (r,)."""
        n, width = self._X.shape
        standardised = (
            (chunk - self._mean) / self._spread * np.sqrt(w[at])[:, None] for at, chunk in chunks(self._X)
        )  # (m, D)
        if n <= width:  # the representer theorem: coefficients lie in the rows' span
            squares, vectors = row_eigenpairs(np.concatenate(list(standardised)))
        else:
            gram = np.zeros((width, width))
            for Z in standardised:
                gram += Z.T @ Z
            squares, vectors = np.linalg.eigh(gram)
            kept = squares > max(squares[-1], 0) * ROUNDING**2
            squares, vectors = squares[kept], vectors[:, kept]
        return vectors / self._spread[:, None], squares
