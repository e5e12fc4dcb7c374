"""Features on their principal axes, as the C path multiplies with them: in float64, and in float32 where that does."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np

from featurepipe.solvers.arrays import CPU, Array, blocks, double, host, namespace, put, single, zeros
from featurepipe.solvers.losses import Product
from featurepipe.solvers.stacks import Matrix, blocks_of, chunks, hold, weighted_moments
from featurepipe.statistics import ROUNDING, feature_scales, is_constant, row_eigenpairs


class Rotated:
    """The features, centred and on their principal axes, as products with them.

    On another device than ``cpu`` both the features and what they are there, rotated, are copied to it, and products
    are made there; the axes themselves are found in NumPy.

    Attributes
    ----------
    rank : int
        Axes, r.
    squares : Array of float64, shape (r,)
        Weighted sum of squares along each axis.
    weight : float
        Sum of the weights.
    kept : Array of float32, shape (n, r), or None
        The features on these axes, where they are kept.
    """

    def __init__(self, X: Matrix, w: Array, *, scale: bool, keep: bool, device: str = CPU) -> None:
        self._X, self.weight = hold(X, device), float(w.sum())
        mean, deviations = weighted_moments(self._X, w)  # (D,), (D,)
        constant = is_constant(deviations, mean)
        spread = np.ones(X.shape[1])  # (D,)
        if scale:
            spread = feature_scales(deviations, constant, self.weight, blocks_of(X))
        self._mean, self._spread = put(mean, device), put(spread, device)
        axes, squares = self._principal(w)  # (D, r), (r,)
        self._axes, self.squares = put(axes / spread[:, None], device), put(squares, device)
        self.rank = len(squares)
        self._offset = self._mean @ self._axes  # (r,)
        self.kept: Array | None = None
        if keep or device != CPU:
            self.kept = zeros((len(X), self.rank), single(self.squares))
            for at, chunk in chunks(self._X):
                self.kept[at] = chunk @ self._axes - self._offset

    def forward(self, V: Array) -> Array:
        """Scores (n, K) of coefficients V (K, r + 1), in float64."""
        full = self._axes @ V[:, :-1].T  # (D, K)
        shift = V[:, -1] - self._offset @ V[:, :-1].T  # (K,)
        S = zeros((len(self._X), len(V)), V)
        for at, chunk in chunks(self._X):
            S[at] = chunk @ full + shift
        return S

    def backward(self, R: Array) -> tuple[Array, float]:
        """Rᵀ times the features and a column of ones, (K, r + 1), of R (n, K), in float64.

        And the sum of squares of Rᵀ times what the features have outside their axes.
        """
        xp = namespace(R)
        total = R.sum(axis=0)  # (K,)
        full = sum(R[at].T @ chunk for at, chunk in chunks(self._X)) - xp.outer(total, self._mean)  # (K, D)
        return self._along(full, total)

    def backward_of(self, pieces: Iterable[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, float]:
        """As `backward`, of an R that comes in pieces: rows as `scores` gives them (m, D), and their R (m, K)."""
        full = total = np.zeros(1)
        for chunk, R in pieces:
            full, total = full + R.T @ chunk, total + R.sum(axis=0)
        return self._along(full - np.outer(total, self._mean), total)

    def _along(self, full: Array, total: Array) -> tuple[Array, float]:
        """What `backward` returns, of Rᵀ times the features about their mean (K, D), and R's sums (K,)."""
        along = full @ self._axes  # (K, r)
        beside = float(((full / self._spread) ** 2).sum() - (along**2).sum())  # Pythagoras
        return namespace(full).concatenate([along, total[:, None]], axis=1), max(beside, 0.0)

    def scores(
        self, V: np.ndarray, cut: Callable[[int], Iterable[slice]]
    ) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
        """Where rows are, the rows (m, D), and their scores (m, K) of coefficients V (K, r + 1), in float64.

        Parameters
        ----------
        V : ndarray
        cut : callable
            Cuts a number of rows into slices.
        """
        full = self._axes @ V[:, :-1].T  # (D, K)
        shift = V[:, -1] - self._offset @ V[:, :-1].T  # (K,)
        for at, chunk in chunks(self._X):
            for part in cut(len(chunk)):
                yield slice(at.start + part.start, at.start + part.stop), chunk[part], chunk[part] @ full + shift

    def single(self, at: slice) -> np.ndarray:
        """Some rows on the axes, (m, r), in float32."""
        if self.kept is not None:
            return self.kept[at]
        return (double(self._X[at]) @ self._axes - self._offset).astype(np.float32)

    def bent32(self, V: Array, bend: Product, like: Array) -> Array:
        """`backward` of `bend` of `forward` of V (K, r + 1), in float32 from the kept features.

        In blocks of rows, so that scores are made, bent and used while they are in a core's cache.

        Parameters
        ----------
        V : Array of float32
        bend : callable
            Takes scores (m, K) and the slice of rows they are of.
        like : Array, shape (n, K)
            Says how many rows are a block; see `featurepipe.solvers.arrays.blocks`.
        """
        if self.kept is None:
            return single(self.backward(double(bend(single(self.forward(double(V))), slice(None))))[0])
        xp = namespace(V)
        coef, intercept = V[:, :-1], V[:, -1]
        out = zeros(V.shape, V)
        with np.errstate(invalid="ignore"):  # some processors' BLAS flags numbers beside a vector's end
            for at in blocks(like):
                T = bend(self.kept[at] @ coef.T + intercept, at)
                out += xp.concatenate([T.T @ self.kept[at], T.sum(axis=0)[:, None]], axis=1)
        return out

    def unrotated(self, W: Array) -> tuple[np.ndarray, np.ndarray]:
        """Coefficients (K, D) and intercept (K,) for the features as they were given, of W (K, r + 1); in NumPy."""
        coef = W[:, :-1] @ self._axes.T
        return host(coef), host(W[:, -1] - coef @ self._mean)

    def _principal(self, w: Array) -> tuple[np.ndarray, np.ndarray]:
        """The axes (D, r) of the standardised features, and their sums of squares (r,); in NumPy."""
        n, width = self._X.shape
        root = namespace(w).sqrt
        standardised = (
            (chunk - self._mean) / self._spread * root(w[at])[:, None] for at, chunk in chunks(self._X)
        )  # (m, D)
        if n <= width:  # the representer theorem: coefficients lie in the rows' span
            squares, vectors = row_eigenpairs(np.concatenate([host(Z) for Z in standardised]))
        else:
            gram = zeros((width, width), w)
            for Z in standardised:
                gram += Z.T @ Z
            squares, vectors = np.linalg.eigh(host(gram))
            kept = squares > max(squares[-1], 0) * ROUNDING**2
            squares, vectors = squares[kept], vectors[:, kept]
        return vectors, squares
