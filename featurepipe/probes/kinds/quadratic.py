"""What kinds share for which sums over the features and their products suffice."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from featurepipe import statistics
from featurepipe.probes.kinds.kind import FOLDS, Fitted, Kind, threads
from featurepipe.solvers import Matrix, blocks_of, chunks
from featurepipe.statistics import Chunk, Statistics


class Quadratic(Kind):
    """A kind that is fitted to `featurepipe.statistics.Statistics`."""

    @abstractmethod
    def fit_statistics(self, found: Statistics, candidates: Sequence[float | None]) -> list[Any]:
        """An estimator for each candidate."""

    def fit(
        self,
        X: Matrix,
        y: np.ndarray,
        candidates: Sequence[float | None],
        weights: np.ndarray | None,
        *,
        seed: int,
        keep: bool,
        device: str,
    ) -> Iterable[Fitted]:
        """See `Kind.fit`."""
        return [(estimator, None) for estimator in self.fit_statistics(describe(X, y, weights), candidates)]

    def fit_folds(
        self, X: Matrix, y: np.ndarray, candidates: Sequence[float | None], folds: np.ndarray, **how: Any
    ) -> Iterator[tuple[np.ndarray, list[Fitted]]]:
        """See `Kind.fit_folds`.

        One pass serves all folds, except with weights, which balance each training part by itself; and the folds' X'X
        must not take more memory than twice the features.
        """
        weighted = how.get("class_weight") is not None or how.get("sample_weight") is not None
        if weighted or len(X) < (FOLDS + 1) * X.shape[1]:
            yield from super().fit_folds(X, y, candidates, folds, **how)
            return
        with threads(X):
            for fold, found in _describe_folds(X, y, folds):
                yield folds == fold, [(estimator, None) for estimator in self.fit_statistics(found, candidates)]


def describe(X: Matrix, y: np.ndarray, weights: np.ndarray | None) -> Statistics:
    """Statistics of rows X (n, D) with labels y (n,): X'X, or of no more rows than features the rows themselves.

    Parameters
    ----------
    X, y
    weights : ndarray, shape (n,), optional
        Weights of rows, above 0.
    """
    classes, firsts, codes = np.unique(y, return_index=True, return_inverse=True)
    take = statistics.gather if X.shape[0] > X.shape[1] else statistics.gather_rows
    if weights is None or np.array_equal(weights, weights[firsts][codes]):  # equal within a class
        found = take(_chunks(X, y), classes, class_weight=None if weights is None else weights[firsts])
    else:
        rows = ((np.column_stack([chunk, weights[at]]), y[at]) for at, chunk in chunks(X))
        found = take(rows, classes, weighted=True)
    return replace(found, blocks=blocks_of(X))


def _describe_folds(X: Matrix, y: np.ndarray, folds: np.ndarray) -> Iterator[tuple[int, Statistics]]:
    """The fold and the statistics of all rows but its own, for each fold that has rows; of one pass."""
    found = replace(statistics.gather(_chunks(X, y, folds), np.unique(y), folds=FOLDS), blocks=blocks_of(X))
    return ((fold, found.without(fold)) for fold in range(FOLDS) if found.counts[fold].any())


def _chunks(X: Matrix, *others: np.ndarray) -> Iterator[Chunk]:
    return ((chunk, *(other[at] for other in others)) for at, chunk in chunks(X))
