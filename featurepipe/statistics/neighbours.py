"""Exact nearest neighbours, block by block."""

from __future__ import annotations

from collections.abc import Iterable
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
    Z = directions(X)
    distances, rows = np.empty((len(Z), k), np.float32), np.empty((len(Z), k), np.int64)
    for start in range(0, len(Z), BLOCK):
        stop = min(start + BLOCK, len(Z))
        distances[start:stop], rows[start:stop] = _others(Z, start, stop, k)
    return Nearest(distances, rows)


def search(queries: np.ndarray, pieces: Iterable[np.ndarray], k: int) -> Nearest:
    """Find the k rows nearest to each query by cosine, among rows that come piece by piece.

    Parameters
    ----------
    queries : ndarray, shape (q, D)
    pieces : iterable of ndarray, shape (m, D)
        All rows together are counted from 0; no more than one piece is in memory.
    k : int
        Cut to the number of rows.

    Examples
    --------
    >>> found = search(np.array([[1.0, 1.0]]), [np.array([[1.0, 0]]), np.array([[2, 1], [0, -3.0]])], 2)
    >>> found.rows.tolist(), found.distances.astype(float).round(3).tolist()
    ([[1, 0]], [[0.051, 0.293]])
    """
    Q, first = directions(queries), 0
    held, which = np.zeros((len(Q), 0), np.float32), np.zeros((len(Q), 0), np.int64)
    for piece in pieces:
        far = np.maximum(1 - Q @ directions(piece).T, 0)  # (q, m)
        columns = np.broadcast_to(np.arange(first, first + len(piece)), far.shape)
        held, which = _closest(np.hstack([held, far]), np.hstack([which, columns]), k)
        first += len(piece)
    return _sorted(held, which)


def _closest(held: np.ndarray, which: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k smallest of each row, in any order."""
    if held.shape[1] <= k:
        return held, which
    best = np.argpartition(held, k - 1, axis=1)[:, :k]
    return np.take_along_axis(held, best, axis=1), np.take_along_axis(which, best, axis=1)


def _sorted(held: np.ndarray, which: np.ndarray) -> Nearest:
    order = np.lexsort((which, held), axis=1)
    return Nearest(np.take_along_axis(held, order, axis=1), np.take_along_axis(which, order, axis=1))


def directions(X: np.ndarray) -> np.ndarray:
    """Rows of X (n, D) at length 1, float32; one of zeros stays so."""
    Z = X.astype(np.float32)
    lengths = np.linalg.norm(Z, axis=1, keepdims=True)
    return np.divide(Z, lengths, out=Z, where=lengths > 0)


def _others(Z: np.ndarray, start: int, stop: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Distances and rows of the nearest k of a block of rows, (B, k) each."""
    held = np.full((stop - start, 0), np.inf, np.float32)
    which = np.zeros((stop - start, 0), np.int64)
    for first in range(0, len(Z), BLOCK):
        far = np.maximum(1 - Z[start:stop] @ Z[first : first + BLOCK].T, 0)  # (B, columns)
        if first == start:
            np.fill_diagonal(far, np.inf)  # a row is no neighbour of itself
        columns = np.broadcast_to(np.arange(first, first + far.shape[1]), far.shape)
        held, which = _closest(np.hstack([held, far]), np.hstack([which, columns]), k)
    found = _sorted(held, which)
    return found.distances, found.rows
