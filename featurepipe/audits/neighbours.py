"""Exact nearest neighbours, block by block."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

BLOCK = 2**12  # rows and columns of the similarities that are in memory at once: 64 MiB


@dataclass(frozen=True)
class Nearest:
    """The nearest other rows of each row, the nearest first.

    Attributes
    ----------
    distances : ndarray of float32, shape (n, k)
        1 − cosine, from 0 to 2.
    rows : ndarray of int64, shape (n, k)
    """

    distances: np.ndarray
    rows: np.ndarray


def nearest(X: np.ndarray, k: int) -> Nearest:
    """Find the k nearest other rows of every row by cosine; all pairs are compared.

    Parameters
    ----------
    X : ndarray, shape (n, D)
        Read only; a normalised copy is made.
    k : int
        Cut to n - 1.

    Examples
    --------
    >>> found = nearest(np.array([[1.0, 0], [2, 1], [0, 3], [-4, 3]]), 1)
    >>> found.rows.ravel().tolist()
    [1, 0, 3, 2]
    """
    k = min(k, len(X) - 1)
    Z = _directions(X)
    distances, rows = np.empty((len(Z), k), np.float32), np.empty((len(Z), k), np.int64)
    for start in range(0, len(Z), BLOCK):
        stop = min(start + BLOCK, len(Z))
        distances[start:stop], rows[start:stop] = _search(Z, start, stop, k)
    return Nearest(distances, rows)


def _directions(X: np.ndarray) -> np.ndarray:
    """Rows of length 1; one of zeros stays so."""
    Z = X.astype(np.float32)
    lengths = np.linalg.norm(Z, axis=1, keepdims=True)
    return np.divide(Z, lengths, out=Z, where=lengths > 0)


def _search(Z: np.ndarray, start: int, stop: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Distances and rows of the nearest k of a block of rows, (B, k) each."""
    held = np.full((stop - start, 0), np.inf, np.float32)
    which = np.zeros((stop - start, 0), np.int64)
    for first in range(0, len(Z), BLOCK):
        far = np.maximum(1 - Z[start:stop] @ Z[first : first + BLOCK].T, 0)  # (B, columns)
        if first == start:
            np.fill_diagonal(far, np.inf)  # a row is no neighbour of itself
        columns = np.broadcast_to(np.arange(first, first + far.shape[1]), far.shape)
        held, which = np.hstack([held, far]), np.hstack([which, columns])
        if held.shape[1] > k:
            best = np.argpartition(held, k - 1, axis=1)[:, :k]
            held, which = np.take_along_axis(held, best, axis=1), np.take_along_axis(which, best, axis=1)
    order = np.argsort(held, axis=1, kind="stable")
    return np.take_along_axis(held, order, axis=1), np.take_along_axis(which, order, axis=1)
