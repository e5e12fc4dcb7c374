"""What linear kinds share: one weight for each class and feature, one intercept for each class."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from featurepipe.probes.kinds.kind import Fitted, Kind, check_shapes, numbers, outputs
from featurepipe.solvers import Fit, LogisticPath, Matrix

TENSORS = ("head.weight", "head.bias")


@dataclass(frozen=True, kw_only=True)
class Linear(Kind):
    """A kind whose estimators have scikit-learn's ``coef_`` and ``intercept_``."""

    tensors: tuple[str, ...] = TENSORS
    is_linear: bool = True

    def dump(self, estimator: Any) -> tuple[np.ndarray, ...]:
        """(K, D) and (K,); (1, D) and (1,) for two classes."""
        return np.atleast_2d(estimator.coef_), np.atleast_1d(estimator.intercept_)  # a binary ridge's may be flat

    def restore(self, classes: np.ndarray, arrays: Sequence[np.ndarray], chosen: Any, seed: int) -> Any:
        """See `Head.restore`."""
        weight, bias = arrays
        expected = outputs(len(classes))
        check_shapes(len(classes), arrays, weight.ndim == 2 and len(weight) == expected and bias.shape == (expected,))
        return self.make(classes, weight, bias, chosen)

    @abstractmethod
    def make(self, classes: np.ndarray, coef: np.ndarray, intercept: np.ndarray, strength: float) -> Any:
        """An estimator with these coefficients, as if it had been fitted."""


def along_path(
    path: type[LogisticPath],
    make: Any,
    X: Matrix,
    y: np.ndarray,
    candidates: Iterable[float | None],
    weights: np.ndarray | None,
    *,
    keep: bool,
    device: str,
) -> Iterator[Fitted]:
    """Estimators of class `make`, LogisticRegression or LinearSVC, at each C of a path on standardised features."""
    classes, codes = np.unique(y, return_inverse=True)
    for fit in path(X, codes, sample_weight=weights, scale=True, keep=keep, device=device).fit(numbers(candidates)):
        yield path_estimator(make, classes, fit), fit.certificate


def path_estimator(make: Any, classes: np.ndarray, fit: Fit) -> Any:
    """A point of a path as an estimator of class `make`, LogisticRegression or LinearSVC."""
    estimator = linear_estimator(make(C=fit.certificate.C), classes, fit.coef, fit.intercept)
    estimator.n_iter_ = np.array([fit.certificate.steps], np.int32)
    return estimator


def linear_estimator(estimator: Any, classes: np.ndarray, coef: np.ndarray, intercept: np.ndarray) -> Any:
    """A scikit-learn estimator with these coefficients, as if it had been fitted."""
    estimator.classes_, estimator.coef_, estimator.intercept_ = classes, coef, intercept
    estimator.n_features_in_ = coef.shape[1]
    return estimator
