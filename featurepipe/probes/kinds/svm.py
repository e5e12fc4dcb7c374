"""Linear support vector machines."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from featurepipe.probes.kinds.kind import Fitted
from featurepipe.probes.kinds.linear import Linear, along_path, linear_estimator
from featurepipe.solvers import Matrix, SvmPath

SVM_GRID = tuple(10.0**e for e in range(-6, 3))  # the squared hinge bends twice, the logistic loss a quarter


@dataclass(frozen=True, kw_only=True)
class Svm(Linear):
    """scikit-learn's LinearSVC (squared hinge) at each C; its intercept is penalised, for features about their mean."""

    name: str = "svm"
    holds_scores: bool = True
    parameter: str | None = "C"
    grid: tuple[float | None, ...] = SVM_GRID
    on_devices: bool = True

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
        from sklearn.svm import LinearSVC

        return along_path(SvmPath, LinearSVC, X, y, candidates, weights, keep=keep, device=device)

    def make(self, classes: np.ndarray, coef: np.ndarray, intercept: np.ndarray, strength: float) -> Any:
        """See `Linear.make`."""
        from sklearn.svm import LinearSVC

        return linear_estimator(LinearSVC(C=strength), classes, coef, intercept)
