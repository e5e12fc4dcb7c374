"""The nearest class mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from featurepipe import statistics
from featurepipe.probes.kinds.kind import check_shapes
from featurepipe.probes.kinds.quadratic import Quadratic
from featurepipe.statistics import Statistics


@dataclass(frozen=True, kw_only=True)
class Centroid(Quadratic):
    """scikit-learn's NearestCentroid, Euclidean, on raw features; there is nothing to choose."""

    name: str = "centroid"
    tensors: tuple[str, ...] = ("head.weight", "head.deviation")
    may_be_nan: tuple[str, ...] = ("head.deviation",)  # where there are no more rows than classes
    parameter: str | None = None
    grid: tuple[float | None, ...] = (None,)
    weighs_rows: bool = False
    is_weighted: bool = False
    is_standardised: bool = False

    def fit_statistics(self, found: Statistics, candidates: Sequence[float | None]) -> list[Any]:
        """See `Quadratic.fit_statistics`."""
        return [statistics.to_centroids(found)] * len(candidates)

    def dump(self, estimator: Any) -> tuple[np.ndarray, ...]:
        """Class means (K, D), and scikit-learn's ``within_class_std_dev_`` (D,)."""
        return estimator.centroids_, estimator.within_class_std_dev_

    def restore(self, classes: np.ndarray, arrays: Sequence[np.ndarray], chosen: Any, seed: int) -> Any:
        """See `Head.restore`."""
        means, deviation = arrays
        fits = means.shape[:1] == (len(classes),) and means.shape[1:] == deviation.shape and deviation.ndim == 1
        check_shapes(len(classes), arrays, fits)
        return statistics.centroid_classifier(classes, means, deviation)
