"""Ridge, discriminant analysis and the nearest class mean: what statistics of the features suffice for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from featurepipe import statistics
from featurepipe.solvers import Rows, chunks
from featurepipe.statistics import Chunk, Statistics

QUADRATIC = ("ridge", "lda", "centroid")


def fit_quadratic(kind: str, found: Statistics, candidates: Sequence[float | None]) -> list[Any]:
    """RidgeClassifier at each alpha, or LinearDiscriminantAnalysis at each shrinkage, on standardised features.

    Or NearestCentroid on raw ones, for which there is nothing to choose.
    """
    if kind == "ridge":
        return statistics.ridge_path(found, candidates, scale=True)
    if kind == "lda":
        return statistics.lda_path(found, candidates, scale=True)
    return [statistics.to_centroids(found)] * len(candidates)


def describe(X: Rows, y: np.ndarray, weights: np.ndarray | None) -> Statistics:
    """Statistics of rows X (n, D) with labels y (n,): X'X, or of no more rows than features the rows themselves.

    Parameters
    ----------
    X, y
    weights : ndarray, shape (n,), optional
        Of rows; the same for all of a class.
    """
    classes, firsts = np.unique(y, return_index=True)
    take = statistics.gather if X.shape[0] > X.shape[1] else statistics.gather_rows
    return take(_chunks(X, y), classes, class_weight=None if weights is None else weights[firsts])


def describe_folds(X: Rows, y: np.ndarray, folds: np.ndarray, count: int) -> Iterator[tuple[int, Statistics]]:
    """The fold and the statistics of all rows but its own, for each of `count` folds that has rows; of one pass.

    Parameters
    ----------
    X, y
    folds : ndarray of int, shape (n,)
        -1 for a row that is never held out.
    """
    found = statistics.gather(_chunks(X, y, folds), np.unique(y), folds=count)
    return ((fold, found.without(fold)) for fold in range(count) if found.counts[fold].any())


def _chunks(X: Rows, *others: np.ndarray) -> Iterator[Chunk]:
    return ((chunk, *(other[at] for other in others)) for at, chunk in chunks(X))
