"""Exact nearest neighbours among many rows, in memory that no number of rows or queries makes grow."""

from __future__ import annotations

import numpy as np

QUERIES, ROWS = 2**10, 2**15  # whose similarities are in memory at once: 128 MiB
NUMBERS = 2**22  # in float64, of pairs of queries and rows whose similarities are taken again at once: 32 MiB each


class Index:
    """Rows to find neighbours among, by cosine.

    All pairs are compared in float32, blocks of queries with blocks of rows. What its rounding leaves in doubt, and
    what is found, is compared again in float64: the answer is that of float64, and of equally near rows the first one.

    Parameters
    ----------
    rows : ndarray of float32, shape (n, D)
        Not copied.

    Examples
    --------
    >>> index = Index(np.array([[1, 0], [0, 2], [3, 4]], np.float32))
    >>> distances, rows = index.search(np.array([[0.0, 1.0]]), 2)
    >>> distances.round(3).tolist(), rows.tolist()
    ([[0.0, 0.2]], [[1, 2]])
    """

    def __init__(self, rows: np.ndarray) -> None:
        self.rows = rows
        self._lengths = np.empty(len(rows))  # (n,)
        for start in range(0, len(rows), ROWS):
            self._lengths[start : start + ROWS] = np.linalg.norm(rows[start : start + ROWS].astype(np.float64), axis=1)
        self._lengths[self._lengths == 0] = 1.0  # rows of zeros are at distance 1 from all

    def directions(self, rows: slice | np.ndarray) -> np.ndarray:
        """Some of the rows at length 1, in float32; those of zeros stay so."""
        return self.rows[rows] / self._lengths[rows, None].astype(np.float32)

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The k nearest rows of each query, the nearest first.

        Parameters
        ----------
        queries : ndarray, shape (q, D)
        k : int
            From 1 to the number of rows.

        Returns
        -------
        distances : ndarray of float64, shape (q, k)
            1 − cosine, from 0 to 2.
        rows : ndarray of int64, shape (q, k)
        """
        distances, rows = np.empty((len(queries), k)), np.empty((len(queries), k), np.int64)
        for start in range(0, len(queries), QUERIES):
            at = slice(start, start + QUERIES)
            distances[at], rows[at] = self._search(_unit(queries[at]), k)
        return distances, rows

    def nearest_of(self, queries: np.ndarray, candidates: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The k nearest of each query's own candidates, the nearest first.

        Parameters
        ----------
        queries : ndarray, shape (q, D)
        candidates : ndarray of int, shape (q, m)
            Row numbers, k or more; -1 is none.
        k : int

        Returns
        -------
        distances : ndarray of float64, shape (q, k)
            As `search` has them; infinite where there are fewer candidates.
        rows : ndarray of int64, shape (q, k)
        """
        distances = np.full(candidates.shape, np.inf)
        query, place = np.nonzero(candidates >= 0)
        distances[query, place] = self._distances(_unit(queries), query, candidates[query, place])
        nearest = np.lexsort((candidates, distances), axis=1)[:, :k]  # (q, k)
        return np.take_along_axis(distances, nearest, axis=1), np.take_along_axis(candidates, nearest, axis=1)

    def _search(self, Q: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """As `search`, of queries (b, D) of length 1 in float64."""
        few, doubt = Q.astype(np.float32), (Q.shape[1] + 2) * float(np.finfo(np.float32).eps)
        held, which = np.full((len(Q), k), np.inf), np.full((len(Q), k), len(self.rows))
        for start in range(0, len(self.rows), ROWS):
            at = slice(start, start + ROWS)
            near = few @ self.directions(at).T  # (b, m)
            least = 1 - held[:, -1]  # similarity of the k-th so far, -inf where there are fewer
            if start == 0 and near.shape[1] > k:
                least = np.partition(near, -k, axis=1)[:, -k] - doubt
            query, row = np.nonzero(near >= (least - doubt).astype(np.float32)[:, None])
            found = self._distances(Q, query, row + start)
            held, which = _merge(held, which, query, found, row + start)
        return held, which

    def _distances(self, Q: np.ndarray, query: np.ndarray, row: np.ndarray) -> np.ndarray:
        """1 − cosine of pairs of queries and rows, (pairs,), in float64."""
        found = np.empty(len(row))
        step = max(1, NUMBERS // Q.shape[1])
        for start in range(0, len(row), step):
            at = slice(start, start + step)
            near = np.einsum("ij,ij->i", Q[query[at]], self.rows[row[at]].astype(np.float64))
            found[at] = 1 - near / self._lengths[row[at]]
        return np.clip(found, 0.0, 2.0)


def _unit(queries: np.ndarray) -> np.ndarray:
    """Queries at length 1, in float64; one of zeros stays so."""
    queries = queries.astype(np.float64)
    lengths = np.linalg.norm(queries, axis=1, keepdims=True)
    return queries / np.where(lengths > 0, lengths, 1.0)


def _merge(
    held: np.ndarray, which: np.ndarray, query: np.ndarray, distances: np.ndarray, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest of those that are held (b, k) and of pairs of queries and rows, in their order."""
    k = held.shape[1]
    owner = np.concatenate([np.repeat(np.arange(len(held)), k), query])
    far, row = np.concatenate([held.ravel(), distances]), np.concatenate([which.ravel(), rows])
    order = np.lexsort((row, far, owner))
    first = np.searchsorted(owner[order], np.arange(len(held)))  # where each query's begin
    kept = order[first[:, None] + np.arange(k)]  # (b, k)
    return far[kept], row[kept]
