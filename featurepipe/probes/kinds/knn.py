"""Votes of the nearest neighbours."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from featurepipe.errors import ProbeError
from featurepipe.probes.kinds.kind import Fitted, Kind, check_shapes, numbers
from featurepipe.solvers import Matrix, chunks

K_GRID = (1, 5, 10, 20, 50, 100, 200)
# "Emerging Properties in Self-Supervised Vision Transformers" (Caron et al. 2021) and DINOv2's eval/knn.py, after
# Wu et al. 2018, "Unsupervised Feature Learning via Non-Parametric Instance Discrimination", section 3.4.
TEMPERATURE = 0.07


@dataclass(frozen=True, kw_only=True)
class Knn(Kind):
    """scikit-learn's KNeighborsClassifier, cosine, on raw features, whose votes weigh as `vote` says."""

    name: str = "knn"
    tensors: tuple[str, ...] = ("head.rows", "head.codes")
    parameter: str | None = "n_neighbors"
    grid: tuple[float | None, ...] = K_GRID
    weighs_rows: bool = False
    is_weighted: bool = False
    is_standardised: bool = False
    is_copied: bool = True

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
        return self._fitted(X, y, candidates, seed)

    def index(self, rows: np.ndarray, seed: int) -> Any:
        """What finds neighbours among rows (n, D) of length 1; see `featurepipe.statistics.Index`."""
        from featurepipe.statistics import Index

        return Index(rows)

    def _fitted(self, X: Matrix, y: np.ndarray, candidates: Iterable[float | None], seed: int) -> Iterator[Fitted]:
        """KNeighborsClassifier at each number of neighbours (or all rows, where there are fewer)."""
        from featurepipe.probes.kinds.knn_estimators import Searcher

        unit = np.empty(X.shape, np.float32)  # (n, D)
        for at, chunk in chunks(X):
            norms = np.linalg.norm(chunk, axis=1, keepdims=True)
            unit[at] = chunk / np.where(norms > 0, norms, 1.0)
        classes, codes = np.unique(y, return_inverse=True)
        asked = [min(int(k), len(unit)) for k in numbers(candidates)]
        # One number of neighbours alone: hardly any row is asked about twice.
        shared = Searcher(self.index(unit, seed), max(asked) if len(asked) > 1 else 0)
        for k in asked:
            estimator = knn_classifier(classes, unit, codes, k)
            estimator.searcher_ = shared
            yield estimator, None

    def candidates(self, value: float | None, rows: int) -> tuple[float | None, ...]:
        """See `Kind.candidates`."""
        if value is None:
            return tuple(k for k in numbers(self.grid) if k <= rows) or self.grid[:1]
        return super().candidates(value, rows)

    def check_value(self, value: float, rows: int) -> None:
        """See `Kind.check_value`."""
        if value not in range(1, rows + 1):
            raise ProbeError(
                f"{self.parameter} must be a whole number from 1 to the {rows} training samples; got {value}"
            )

    def is_at_edge(self, chosen: float | None) -> bool:
        """See `Kind.is_at_edge`; fewer neighbours than one cannot be had."""
        return super().is_at_edge(chosen) and chosen != 1

    def dump(self, estimator: Any) -> tuple[np.ndarray, ...]:
        """Rows of unit length (n, D), float32, and the class number of each (n,), int64."""
        return estimator._fit_X, estimator._y.astype(np.int64)

    def restore(self, classes: np.ndarray, arrays: Sequence[np.ndarray], chosen: Any, seed: int) -> Any:
        """See `Head.restore`."""
        rows, codes = arrays
        fits = rows.ndim == 2 and codes.shape == rows.shape[:1] and codes.dtype.kind == "i"
        check_shapes(len(classes), arrays, fits and np.array_equal(np.unique(codes), np.arange(len(classes))))
        if (np.abs(rows) > 1.001).any():
            raise ValueError("the rows of its neighbours are not of unit length")
        k = int(chosen)
        if not 1 <= k <= len(rows):
            raise ValueError(f"{k} neighbours are more than its {len(rows)} rows")
        return knn_classifier(classes, rows, codes, k)


def knn_classifier(classes: np.ndarray, rows: np.ndarray, codes: np.ndarray, k: int) -> Any:
    """A KNeighborsClassifier by cosine whose votes weigh as `vote` says.

    Parameters
    ----------
    classes : ndarray, shape (K,)
        Sorted.
    rows : ndarray of float32, shape (n, D)
    codes : ndarray of int, shape (n,)
        Each row's class number.
    k : int

    Returns
    -------
    KNeighborsClassifier
    """
    from featurepipe.probes.kinds.knn_estimators import CosineNeighbors

    estimator = CosineNeighbors(n_neighbors=k, weights=vote, metric="cosine", algorithm="brute")
    with warnings.catch_warnings():  # scikit-learn takes class numbers of few shots for targets of a regression
        warnings.filterwarnings("ignore", "The number of unique classes", UserWarning)
        estimator.fit(rows, codes)
    estimator.classes_ = classes
    return estimator


def vote(distances: np.ndarray) -> np.ndarray:
    """Weights of neighbours: exp(similarity / 0.07), up to a factor that is the same for all.

    Parameters
    ----------
    distances : ndarray, shape (n, k)
        1 - cosine.
    """
    return np.exp(-distances / TEMPERATURE)
