"""Logistic regression."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from featurepipe.probes.kinds.kind import Fitted
from featurepipe.probes.kinds.linear import Linear, along_path, linear_estimator
from featurepipe.solvers import LogisticPath, Matrix

# Of standardised features: from "nearly the class means" to "nearly separable" in whole decades.
C_GRID = tuple(10.0**e for e in range(-5, 4))


@dataclass(frozen=True, kw_only=True)
class Logistic(Linear):
    """scikit-learn's LogisticRegression with an L2 penalty, at each C."""

    name: str = "logistic"
    parameter: str | None = "C"
    grid: tuple[float | None, ...] = C_GRID
    is_cross_entropy: bool = True
    on_devices: bool = True
    is_dear: bool = True

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
        from sklearn.linear_model import LogisticRegression

        return along_path(LogisticPath, LogisticRegression, X, y, candidates, weights, keep=keep, device=device)

    def make(self, classes: np.ndarray, coef: np.ndarray, intercept: np.ndarray, strength: float) -> Any:
        """See `Linear.make`."""
        from sklearn.linear_model import LogisticRegression

        return linear_estimator(LogisticRegression(C=strength), classes, coef, intercept)

    def untested(self, X: np.ndarray, strength: float | None, is_given: bool) -> tuple[float, list[str]]:
        """See `Kind.untested`."""
        if not is_given:
            return 1.0, []
        return 1.0, ["the strength was given and no val split measures it, so probabilities are not calibrated"]
