"""Votes of the nearest neighbours."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

import numpy as np

from featurepipe.probes.linear import Fitted
from featurepipe.solvers import Rows, chunks

# "Emerging Properties in Self-Supervised Vision Transformers" (Caron et al. 2021) and DINOv2's eval/knn.py, after
# Wu et al. 2018, "Unsupervised Feature Learning via Non-Parametric Instance Discrimination", section 3.4.
TEMPERATURE = 0.07


def fit_knn(X: Rows, y: np.ndarray, candidates: Iterable[float]) -> Fitted:
    """KNeighborsClassifier at each number of neighbours (or all rows, where there are fewer)."""
    unit = np.empty(X.shape, np.float32)  # (n, D)
    for at, chunk in chunks(X):
        norms = np.linalg.norm(chunk, axis=1, keepdims=True)
        unit[at] = chunk / np.where(norms > 0, norms, 1.0)
    classes, codes = np.unique(y, return_inverse=True)
    for k in candidates:
        yield knn_classifier(classes, unit, codes, min(int(k), len(unit))), None


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
    from sklearn.neighbors import KNeighborsClassifier

    estimator = KNeighborsClassifier(n_neighbors=k, weights=vote, metric="cosine", algorithm="brute")
    with warnings.catch_warnings():  # scikit-learn takes class numbers of few shots for targets of a regression
        warnings.filterwarnings("ignore", "The number of unique classes", UserWarning)
        estimator.fit(rows, codes)
    estimator.classes_ = classes
    return estimator


def vote(distances: np.ndarray) -> np.ndarray:
    """Weights of neighbours: exp(similarity / 0.07), but for a factor that is the same for all.

    Parameters
    ----------
    distances : ndarray, shape (n, k)
        1 - cosine.
    """
    return np.exp(-distances / TEMPERATURE)
