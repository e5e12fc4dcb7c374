"""A small multilayer perceptron as a head: one hidden layer, trained for a fixed number of epochs."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from featurepipe.errors import ProbeError
from featurepipe.probes.kinds.kind import Fitted, Kind, check_shapes, numbers, outputs
from featurepipe.solvers import Matrix, blocks_of, chunks, weighted_moments
from featurepipe.statistics import feature_scales, is_constant

HIDDEN, EPOCHS = 128, 50  # twice as many take twice the time, for no difference beyond chance


DECAY_GRID = (0.01, 1.0, 10.0)


@dataclass(frozen=True, kw_only=True)
class Mlp(Kind):
    """scikit-learn's MLPClassifier, one hidden layer of `HIDDEN`, at each alpha."""

    name: str = "mlp"
    holds_scores: bool = True
    tensors: tuple[str, ...] = ("head.0.weight", "head.0.bias", "head.1.weight", "head.1.bias")
    parameter: str | None = "alpha"
    grid: tuple[float | None, ...] = DECAY_GRID
    weighs_rows: bool = False
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
        return _fit(X, y, candidates, weights, seed)

    def dump(self, estimator: Any) -> tuple[np.ndarray, ...]:
        """The weights and biases of each layer: (H, D), (H,), (K, H), (K,); one output for two classes."""
        (first, last), (bias, last_bias) = estimator.coefs_, estimator.intercepts_
        return first.T, bias, last.T, last_bias

    def restore(self, classes: np.ndarray, arrays: Sequence[np.ndarray], chosen: Any, seed: int) -> Any:
        """See `Head.restore`."""
        first, bias, last, last_bias = arrays
        wanted = [first.shape[:1], (outputs(len(classes)), len(bias)), (outputs(len(classes)),)]
        check_shapes(len(classes), arrays, first.ndim == 2 and [one.shape for one in arrays[1:]] == wanted)
        return mlp_classifier(classes, [first.T, last.T], [bias, last_bias], chosen, seed)


def _fit(
    X: Matrix, y: np.ndarray, candidates: Iterable[float | None], weights: np.ndarray | None, seed: int
) -> Iterator[Fitted]:
    """MLPClassifier (ReLU, Adam) at each alpha, on features standardised by `feature_scales`."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier
    from sklearn.utils.validation import has_fit_parameter

    given = {}
    if weights is not None:
        if not has_fit_parameter(MLPClassifier(), "sample_weight"):
            raise ProbeError("class weights of an mlp need scikit-learn 1.7 or later; upgrade it, or leave them out")
        given = {"sample_weight": weights}
    mean, deviations = weighted_moments(X, np.ones(len(X)) if weights is None else weights)
    scale = feature_scales(deviations, is_constant(deviations, mean), len(X), blocks_of(X))
    Z = np.empty(X.shape, np.float32)  # half the time of float64
    for at, chunk in chunks(X):
        Z[at] = (chunk - mean) / scale
    classes, codes = np.unique(y, return_inverse=True)
    for alpha in numbers(candidates):
        made = MLPClassifier((HIDDEN,), alpha=alpha, max_iter=EPOCHS, random_state=seed)
        with warnings.catch_warnings():  # the epochs are the recipe: not to be at the optimum is no fault
            warnings.simplefilter("ignore", ConvergenceWarning)
            made.fit(Z, codes, **given)
        first, *others = (coef.astype(np.float64) for coef in made.coefs_)
        bias, *biases = (intercept.astype(np.float64) for intercept in made.intercepts_)
        first = first / scale[:, None]  # (D, H)
        yield mlp_classifier(classes, [first, *others], [bias - mean @ first, *biases], alpha, seed), None


def mlp_classifier(
    classes: np.ndarray, coefs: Sequence[np.ndarray], intercepts: Sequence[np.ndarray], alpha: float, seed: int
) -> Any:
    """An MLPClassifier with these layers, as if it had been fitted.

    Parameters
    ----------
    classes : ndarray, shape (K,)
        Sorted.
    coefs : sequence of ndarray, shapes (D, H), (H, K), or (H, 1) for two classes
    intercepts : sequence of ndarray, shapes (H,), (K,) or (1,)
    alpha : float
    seed : int

    Returns
    -------
    MLPClassifier
    """
    from sklearn.neural_network import MLPClassifier
    from sklearn.preprocessing import LabelBinarizer

    hidden = tuple(len(intercept) for intercept in intercepts[:-1])
    estimator = MLPClassifier(hidden, alpha=alpha, max_iter=EPOCHS, random_state=seed)
    estimator._label_binarizer = LabelBinarizer().fit(classes)
    estimator.classes_ = classes
    estimator.coefs_ = [np.ascontiguousarray(coef) for coef in coefs]  # products depend on it, in their last digit
    estimator.intercepts_ = list(intercepts)
    estimator.n_layers_, estimator.n_outputs_ = len(coefs) + 1, len(intercepts[-1])
    estimator.out_activation_ = "logistic" if len(classes) == 2 else "softmax"
    estimator.n_features_in_ = len(coefs[0])
    return estimator
