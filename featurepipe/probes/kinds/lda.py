"""Linear discriminant analysis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from featurepipe import statistics
from featurepipe.errors import ProbeError
from featurepipe.probes.kinds.kind import numbers
from featurepipe.probes.kinds.linear import Linear, linear_estimator
from featurepipe.probes.kinds.quadratic import Quadratic
from featurepipe.statistics import Statistics

SHRINKAGE_GRID = (0.0, 0.001, 0.01, 0.03, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0)


@dataclass(frozen=True, kw_only=True)
class Lda(Linear, Quadratic):
    """scikit-learn's LinearDiscriminantAnalysis, solver lsqr, at each shrinkage."""

    name: str = "lda"
    parameter: str | None = "shrinkage"
    grid: tuple[float | None, ...] = SHRINKAGE_GRID

    def fit_statistics(self, found: Statistics, candidates: Sequence[float | None]) -> list[Any]:
        """See `Quadratic.fit_statistics`."""
        return statistics.lda_path(found, list(numbers(candidates)), scale=True)

    def make(self, classes: np.ndarray, coef: np.ndarray, intercept: np.ndarray, strength: float) -> Any:
        """See `Linear.make`."""
        from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

        return linear_estimator(LinearDiscriminantAnalysis(solver="lsqr", shrinkage=strength), classes, coef, intercept)

    def check_value(self, value: float, rows: int) -> None:
        """See `Kind.check_value`."""
        if not 0 <= value <= 1:
            raise ProbeError(f"{self.parameter} must be from 0 to 1; got {value}")

    def is_at_edge(self, chosen: float | None) -> bool:
        """Both ends of the grid are bounds of their own."""
        return False

    def untested(self, X: np.ndarray, strength: float | None, is_given: bool) -> tuple[float, list[str]]:
        """See `Kind.untested`.

        Single rows say nothing about how much a class varies, and discriminant analysis is the nearest class mean,
        its scores sums over all features: divided by their number they are a mean, which is sure of nothing.
        """
        if strength == 0:
            raise ProbeError(
                "shrinkage 0 needs samples that differ within a class, and every class has only one; give a shrinkage "
                "above 0, or use logistic"
            )
        return float(X.shape[1]), [
            "one sample per class does not show how samples vary within a class: this LDA is the nearest class mean, "
            "and its probabilities are rough; use logistic, or add samples"
        ]
