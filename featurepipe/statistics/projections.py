"""Projections: embeddings as points of a plane, so that people can look at them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

FITTED = 20_000  # rows that the axes of a PCA are found on, of more a draw
NEIGHBOURHOOD = 3000  # rows of a t-SNE, which takes a minute for these
PERPLEXITY = 30.0


@dataclass(frozen=True)
class Plane:
    """The two directions in which embeddings vary most (principal component analysis, Pearson 1901).

    Attributes
    ----------
    mean : ndarray, shape (D,)
    axes : ndarray, shape (2, D)
    explained : float
        Share of the variance that lies in the plane.
    """

    mean: np.ndarray
    axes: np.ndarray
    explained: float

    @classmethod
    def of(cls, X: np.ndarray) -> Plane:
        """The plane of embeddings X (n, D); of a single dimension, or a single row, the second axis is zero.

        Examples
        --------
        >>> plane = Plane.of(np.array([[0.0, 0, 0], [3, 0, 0], [0, 1, 0], [3, 1, 0]]))
        >>> np.round(plane.axes, 3).tolist(), plane.explained
        ([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], 1.0)
        """
        from scipy.linalg import eigh

        mean = X.mean(axis=0, dtype=np.float64)  # (D,)
        centred = X - mean
        is_wide = X.shape[1] > len(X)
        products = centred @ centred.T if is_wide else centred.T @ centred  # the smaller one has the same eigenvalues
        count = min(2, len(products))
        variances, found = eigh(products, subset_by_index=[len(products) - count, len(products) - 1])  # ascending
        rows = (centred.T @ found if is_wide else found).T[::-1]  # (count, D)
        rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.finfo(float).tiny)
        axes = np.zeros((2, X.shape[1]))
        axes[:count] = rows * np.sign(rows[np.arange(count), np.abs(rows).argmax(axis=1)])[:, None]
        total = max(float(np.trace(products)), np.finfo(float).tiny)
        return cls(mean, axes, round(float(variances.sum()) / total, 6))

    def place(self, X: np.ndarray) -> np.ndarray:
        """Embeddings (n, D) as points, (n, 2)."""
        return (X - self.mean) @ self.axes.T


def tsne(X: np.ndarray, seed: int = 0) -> np.ndarray:
    """Embeddings (n, D) as points (n, 2) that keep neighbours together: t-SNE, van der Maaten and Hinton 2008.

    It starts from the PCA, and gives the same points for the same seed.
    """
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    perplexity = min(PERPLEXITY, max(1.0, (len(X) - 1) / 3))
    with threadpool_limits(1):  # sums of several threads would depend on which comes first
        return TSNE(2, perplexity=perplexity, init="pca", random_state=seed).fit_transform(X)
