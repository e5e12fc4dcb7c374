"""Ridge regression to the classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from featurepipe import statistics
from featurepipe.probes.kinds.kind import numbers
from featurepipe.probes.kinds.linear import Linear
from featurepipe.probes.kinds.quadratic import Quadratic
from featurepipe.statistics import Statistics

ALPHA_GRID = tuple(10.0**e for e in range(-2, 6))


@dataclass(frozen=True, kw_only=True)
class Ridge(Linear, Quadratic):
    """scikit-learn's RidgeClassifier at each alpha."""

    name: str = "ridge"
    parameter: str | None = "alpha"
    grid: tuple[float | None, ...] = ALPHA_GRID

    def fit_statistics(self, found: Statistics, candidates: Sequence[float | None]) -> list[Any]:
        """See `Quadratic.fit_statistics`."""
        return statistics.ridge_path(found, list(numbers(candidates)), scale=True)

    def make(self, classes: np.ndarray, coef: np.ndarray, intercept: np.ndarray, strength: float) -> Any:
        """See `Linear.make`."""
        return statistics.ridge_classifier(classes, coef, intercept, strength)
