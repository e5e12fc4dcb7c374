"""A small multilayer perceptron as a head: one hidden layer, trained for a fixed number of epochs."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from featurepipe.errors import ProbeError
from featurepipe.probes.linear import Fitted
from featurepipe.solvers import Rows, chunks, weighted_moments
from featurepipe.statistics import feature_scales, is_constant

HIDDEN, EPOCHS = 128, 50  # twice as many take twice the time, for no difference beyond chance


def fit_mlp(
    X: Rows, y: np.ndarray, candidates: Iterable[float], weights: np.ndarray | None, *, seed: int = 0
) -> Fitted:
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
    scale = feature_scales(deviations, is_constant(deviations, mean), len(X))
    Z = np.empty(X.shape, np.float32)  # half the time of float64
    for at, chunk in chunks(X):
        Z[at] = (chunk - mean) / scale
    classes, codes = np.unique(y, return_inverse=True)
    for alpha in candidates:
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
