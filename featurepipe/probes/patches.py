"""The head of a segmentation: scores of each class for every patch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from featurepipe import jsons
from featurepipe.probes.kinds import Head
from featurepipe.probes.kinds.kind import check_shapes
from featurepipe.probes.kinds.linear import TENSORS

SEGMENTATION = "segmentation"


@dataclass(frozen=True)
class PatchClassifier:
    """A linear classifier of patches.

    Attributes
    ----------
    classes_ : ndarray, shape (K,)
    coef_ : ndarray of float64, shape (K, D)
    intercept_ : ndarray of float64, shape (K,)
    """

    classes_: np.ndarray
    coef_: np.ndarray
    intercept_: np.ndarray

    @property
    def n_features_in_(self) -> int:
        """How many numbers a token has."""
        return self.coef_.shape[1]

    def decision_function(self, X: np.ndarray) -> np.ndarray:
        """Scores (…, K) of tokens (…, D)."""
        return X.astype(np.float64) @ self.coef_.T + self.intercept_


@dataclass(frozen=True, kw_only=True)
class PatchHead(Head):
    """A weight for each class and feature of a token, for two classes, too."""

    name: str = SEGMENTATION
    since: str = "1.3"
    tensors: tuple[str, ...] = TENSORS
    of_pixels: bool = True

    @property
    def chosen(self) -> Any:
        """The kind and its strength."""
        return jsons.ANYTHING

    def dump(self, estimator: Any) -> tuple[np.ndarray, ...]:
        """(K, D) and (K,)."""
        return estimator.coef_, estimator.intercept_

    def restore(self, classes: np.ndarray, arrays: Sequence[np.ndarray], chosen: Any, seed: int) -> Any:
        """See `Head.restore`."""
        weight, bias = arrays
        fits = weight.ndim == 2 and len(weight) == len(classes) and bias.shape == (len(classes),)
        check_shapes(len(classes), arrays, fits)
        return PatchClassifier(classes, weight, bias)
