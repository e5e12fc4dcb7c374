"""Classifiers by distance: the nearest class mean, and votes of the nearest neighbours."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

import numpy as np

from featurepipe.probes.linear import Fitted, class_means

# "Emerging Properties in Self-Supervised Vision Transformers" (Caron et al. 2021) and DINOv2's eval/knn.py, after
# Wu et al. 2018, "Unsupervised Feature Learning via Non-Parametric Instance Discrimination", section 3.4.
TEMPERATURE = 0.07


def fit_knn(X: np.ndarray, y: np.ndarray, candidates: Iterable[float], weights: np.ndarray | None = None) -> Fitted:
    """KNeighborsClassifier at each number of neighbours (or all rows, where there are fewer)."""
    norms = np.linalg.norm(X, axis=1, keepdims=True)
    unit = (X / np.where(norms > 0, norms, 1.0)).astype(np.float32)  # (n, D)
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


def fit_centroid(
    X: np.ndarray, y: np.ndarray, candidates: Iterable[float | None], weights: np.ndarray | None = None
) -> Fitted:
    """NearestCentroid (Euclidean); there is no strength."""
    classes, codes = np.unique(y, return_inverse=True)
    centroids = class_means(X, codes, np.ones(len(X)))  # (K, D)
    freedom = max(len(X) - len(classes), 1)
    deviations = np.sqrt(((X - centroids[codes]) ** 2).sum(axis=0) / freedom)  # (D,)
    for _ in candidates:
        yield centroid_classifier(classes, centroids, deviations), None


def centroid_classifier(classes: np.ndarray, centroids: np.ndarray, deviations: np.ndarray) -> Any:
    """A NearestCentroid with these class means.

    Parameters
    ----------
    classes : ndarray, shape (K,)
        Sorted.
    centroids : ndarray, shape (K, D)
    deviations : ndarray, shape (D,)
        Within the classes; scikit-learn's own `decision_function` divides by them, `predict` does not.

    Returns
    -------
    NearestCentroid
    """
    from sklearn.neighbors import NearestCentroid

    estimator = NearestCentroid()
    estimator.classes_, estimator.centroids_, estimator.within_class_std_dev_ = classes, centroids, deviations
    estimator.class_prior_ = np.full(len(classes), 1 / len(classes))
    estimator.n_features_in_ = centroids.shape[1]
    return estimator
