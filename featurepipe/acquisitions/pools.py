"""What is chosen from, and what was chosen."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from featurepipe.matrices import FeatureMatrix
from featurepipe.statistics import directions

CLUSTERS = 100  # up to which k-means reads all rows in every step
BATCH = 4096


@dataclass(frozen=True)
class Pool:
    """Samples to choose from, and those whose labels are known.

    Attributes
    ----------
    samples : FeatureMatrix
        One row for each content.
    known : ndarray of bool, shape (n,)
        Rows whose label a probe may learn from.
    free : ndarray of bool, shape (n,)
        Rows to choose from: without a label.
    """

    samples: FeatureMatrix
    known: np.ndarray
    free: np.ndarray

    @cached_property
    def Z(self) -> np.ndarray:
        """Embeddings of length 1, float32 (n, D), so that Euclidean distances follow from the cosine."""
        return directions(self.samples.X)

    @property
    def classes(self) -> list[str]:
        """The classes of the known rows."""
        return sorted(set(self.samples.y[self.known]))


@dataclass(frozen=True)
class Next:
    """The samples to label next, the most useful first.

    Attributes
    ----------
    rows : ndarray of int, shape (c,)
        Rows of the pool's samples.
    labels : list of str or None
        What a probe takes each for; None where there is no probe yet.
    confidences : list of float or None
        How sure the probe is.
    """

    rows: np.ndarray
    labels: list[str | None]
    confidences: list[float | None]


Order = Callable[[Pool, int, int], Next]


def clusters(Z: np.ndarray, count: int, seed: int, weights: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """k-means of rows Z (n, D): the cluster of each (n,), and its squared distance from that cluster's centre (n,).

    Beyond a hundred clusters, scikit-learn's MiniBatchKMeans.
    """
    from sklearn.cluster import KMeans, MiniBatchKMeans
    from sklearn.exceptions import ConvergenceWarning

    made = (
        KMeans(count, n_init=1, random_state=seed)
        if count <= CLUSTERS
        else MiniBatchKMeans(count, n_init=1, random_state=seed, batch_size=BATCH)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # of equal rows: then some clusters are empty
        found = made.fit(Z, sample_weight=weights)
    return found.labels_, ((Z - found.cluster_centers_[found.labels_]) ** 2).sum(axis=1)
