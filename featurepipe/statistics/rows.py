"""Statistics of fewer rows than features, which are the rows themselves."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from featurepipe.errors import ProbeError
from featurepipe.statistics.sums import Chunk, Statistics, blocks, row_eigenpairs, sorted_classes, sum_cells, weigh


@dataclass(frozen=True)
class RowStatistics(Statistics):
    """Statistics that keep their rows X (n, D) instead of X'X (D, D); for few rows of many features.

    Eigenvectors come from XX' (n, n) then: coefficients of a quadratic method lie in the rows' span (the representer
    theorem), so nothing is lost, and of 100 rows of 1,280 features it is two thousand times less work. There are no
    folds to hold out.

    Attributes
    ----------
    classes, shift, counts, sums
        As of `Statistics`.
    grams : ndarray, shape (0, D, D)
    centred : ndarray of float64, shape (n, D)
        X − shift, times the root of the row's weight.
    codes : ndarray of int64, shape (n,)
        Each row's class number.
    roots : ndarray of float64, shape (n,)
        The root of each row's weight.
    """

    centred: np.ndarray
    codes: np.ndarray
    roots: np.ndarray

    def total(self) -> RowStatistics:  # noqa: D102
        return self

    def gram(self) -> np.ndarray:  # noqa: D102
        return self.centred.T @ self.centred

    def squares(self) -> np.ndarray:  # noqa: D102
        return np.einsum("nd,nd->d", self.centred, self.centred)

    def principal(self, scales: np.ndarray, *, within: bool = False) -> tuple[np.ndarray, np.ndarray]:  # noqa: D102
        means = self.class_means[self.codes] if within else self.mean  # (n, D) or (D,)
        rows = (self.centred - self.roots[:, None] * (means - self.shift)) / scales
        return row_eigenpairs(rows, self._floor(scales) if within else 0.0)


def gather_rows(
    chunks: Iterable[Chunk],
    classes: Sequence[Any] | np.ndarray,
    *,
    class_weight: np.ndarray | None = None,
    weighted: bool = False,
) -> RowStatistics:
    """Keep rows as their own statistics; memory is that of the rows in float64.

    Parameters
    ----------
    chunks, class_weight, weighted
        As of `gather`, without folds.
    classes : sequence
        Every label; each occurs.

    Returns
    -------
    RowStatistics

    Raises
    ------
    ProbeError
        As of `gather`, or a class without rows.

    Examples
    --------
    >>> from featurepipe.statistics import ridge_path
    >>> X, y = np.random.default_rng(0).normal(size=(6, 100)), [0, 1, 0, 1, 0, 1]
    >>> ridge_path(gather_rows([(X, y)], y), [1.0])[0].predict(X).tolist()
    [0, 1, 0, 1, 0, 1]
    """
    labels = sorted_classes(classes)
    pairs = list(blocks(chunks, labels, 0))
    if not pairs:
        raise ProbeError("there are no rows to take statistics of")
    X, codes = (np.concatenate(parts) for parts in zip(*pairs, strict=True))
    X, weights = weigh(X, codes, class_weight, weighted)
    counts: np.ndarray = np.bincount(codes, minlength=len(labels))
    if not counts.all():
        raise ProbeError(f"class {labels.tolist()[int(counts.argmin())]!r} has no rows; name only those that have")
    if weighted:
        counts = np.bincount(codes, weights, len(labels))
    elif class_weight is not None:
        counts = counts * class_weight
    weights = np.ones(len(X)) if weights is None else weights
    shift = X.mean(axis=0)
    X -= shift
    sums = sum_cells(X, codes, weights, len(labels))
    roots = np.sqrt(weights)  # (n,)
    X *= roots[:, None]
    return RowStatistics(labels, shift, counts[None], sums[None], np.empty((0, *2 * shift.shape)), X, codes, roots)
