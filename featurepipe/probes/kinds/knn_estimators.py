"""scikit-learn's classifier of the nearest neighbours, with a search whose memory no number of rows makes grow."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from sklearn.neighbors import KNeighborsClassifier
from sklearn.utils.validation import validate_data

from featurepipe.statistics import ApproximateIndex, Index

REMEMBERED = 2**30  # bytes of neighbours that are kept in case they are asked for again


class Searcher:
    """Finds the neighbours of blocks of rows, and knows those of the first blocks that were asked for.

    Classifiers of several numbers of neighbours share one, so that what the greatest needs is found once for all.

    Parameters
    ----------
    index : Index or ApproximateIndex
        What compares queries with the rows.
    most : int
        The greatest number of neighbours that will be asked for again; 0 if none will.
    """

    def __init__(self, index: Index | ApproximateIndex, most: int = 0) -> None:
        self.index, self._most = index, most
        self._known: dict[bytes, tuple[np.ndarray, np.ndarray]] = {}
        self._bytes = 0

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """See `featurepipe.statistics.Index.search`."""
        if k > self._most:
            return self.index.search(queries, k)
        key = hashlib.blake2b(np.ascontiguousarray(queries).data, digest_size=16).digest()
        if (found := self._known.get(key)) is None:
            found = self.index.search(queries, self._most)
            if self._bytes + found[0].nbytes + found[1].nbytes <= REMEMBERED:
                self._known[key] = found
                self._bytes += found[0].nbytes + found[1].nbytes
        return found[0][:, :k], found[1][:, :k]


class CosineNeighbors(KNeighborsClassifier):
    """KNeighborsClassifier by cosine, with the answers of scikit-learn's own search; equally near rows in their order.

    Attributes
    ----------
    searcher_ : Searcher or None
        Given to classifiers that share one; else each makes its own.
    """

    searcher_: Searcher | None = None

    def fit(self, X: Any, y: Any) -> CosineNeighbors:
        """As scikit-learn's."""
        self.searcher_ = None
        super().fit(X, y)
        return self

    def kneighbors(
        self, X: Any = None, n_neighbors: int | None = None, return_distance: bool = True
    ) -> tuple[np.ndarray, np.ndarray] | np.ndarray:
        """As scikit-learn's."""
        k = self.n_neighbors if n_neighbors is None else n_neighbors
        if X is None or self.metric != "cosine" or not 1 <= k <= len(self._fit_X):
            return super().kneighbors(X, n_neighbors, return_distance)  # which has the words for what is wrong
        if self.searcher_ is None:
            self.searcher_ = Searcher(Index(self._fit_X))
        X = validate_data(self, X, reset=False)
        distances, rows = self.searcher_.search(X, k)
        return (distances, rows) if return_distance else rows

    def __getstate__(self) -> dict[str, Any]:
        """Without its searcher: a pickle holds the rows, no queries that were asked, and compares all rows."""
        return {name: value for name, value in super().__getstate__().items() if name != "searcher_"}
