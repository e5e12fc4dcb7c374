"""Labels that a method gives to unlabelled training images: self-training, and label spreading, both scikit-learn's.

Both learn from labelled and unlabelled training images, and then predict images that they have not seen (inductive,
not transductive). Nothing in them is chosen but the probe's strength, inside the labelled images; the constants below
are fixed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import sparse
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import normalize
from sklearn.semi_supervised import LabelSpreading, SelfTrainingClassifier

from featurepipe.probes.kinds import KINDS
from featurepipe.probes.metrics import probabilities
from featurepipe.probes.selection import Probe, strength_of

CONFIDENT = 0.9  # probability from which an image's own prediction becomes its label
NEIGHBOURS = 10
ALPHA = 0.9  # share of its neighbours in an image's label
STEPS = 1000  # each brings the sums nearer by the factor ALPHA


def fit_self_training(probe: Probe, X: np.ndarray, known: np.ndarray, seed: int = 0) -> Any:
    """Fit a probe again and again, each time also on the images that it is confident of.

    Yarowsky 1995, "Unsupervised Word Sense Disambiguation Rivaling Supervised Methods". An image whose most probable
    class has more than 0.9 keeps that label; after ten rounds, or as soon as one adds none, it ends. That is up to
    eleven fits, to all images. From one label per class probabilities cannot be calibrated, so what is confident there
    may be wrong, and the probe may get worse.

    Parameters
    ----------
    probe : Probe
        Probe of the labelled images alone; its kind, strength and temperature are kept.
    X : ndarray of float64, shape (n, width)
        Raw embeddings, of labelled and unlabelled images.
    known : ndarray of int, shape (n,)
        Class numbers, -1 where unlabelled.
    seed : int
        Seed for an mlp's initialisation and batches.

    Returns
    -------
    scikit-learn classifier
        It predicts class numbers.

    Examples
    --------
    >>> from featurepipe.probes import fit
    >>> X = np.array([[0.0], [1], [2], [3], [10], [11], [12], [13]])
    >>> known = np.array([0, 0, -1, -1, -1, -1, 1, 1])
    >>> probe = fit("lda", X[known >= 0], known[known >= 0], value=0.1)
    >>> fit_self_training(probe, X, known).labeled_iter_.tolist()
    [0, 0, 1, 1, 1, 1, 0, 0]
    """
    again = _Again(probe.kind, strength_of(probe), probe.temperature, seed)
    if (known >= 0).all():  # nothing to add, which scikit-learn warns of
        return again.fit(X, known)
    return SelfTrainingClassifier(again, threshold=CONFIDENT).fit(X, known)


class _Again(ClassifierMixin, BaseEstimator):
    """A kind of probe at one strength and temperature, as scikit-learn's meta-estimators want it."""

    def __init__(self, kind: str, value: float | None, temperature: float, seed: int) -> None:
        self.kind, self.value, self.temperature, self.seed = kind, value, temperature, seed

    def fit(self, X: np.ndarray, y: np.ndarray) -> _Again:
        ((self.estimator_, _),) = KINDS[self.kind].fit_path(X, y, [self.value], seed=self.seed)
        self.classes_ = self.estimator_.classes_
        return self

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        return probabilities(self.estimator_, X, self.temperature)

    def predict(self, X: np.ndarray) -> np.ndarray:
        return self.estimator_.predict(X)


class LabelSpreader:
    """Labels that spread from image to image, along the graph of nearest neighbours by cosine.

    Zhou et al. 2004, "Learning with Local and Global Consistency", by scikit-learn's LabelSpreading, on a graph that is
    made once for any number of draws of labels. Two training images are neighbours if either is among the 10 nearest of
    the other; scikit-learn's own graph knows one direction only, so the label of an image that is nobody's neighbour
    goes nowhere. An unseen image gets the mean label of its 10 nearest training images (Delalleau et al. 2005,
    "Efficient Non-Parametric Function Induction in Semi-Supervised Learning"), and where no label has come to any of
    these, that of the nearest labelled one.

    Parameters
    ----------
    X : ndarray of float, shape (n, width)
        Raw embeddings of the training images, labelled and unlabelled.
    X_test : ndarray of float, shape (m, width)
        Features of the images to predict, which are not part of the graph.

    Examples
    --------
    >>> X = np.array([[1.0, 0], [1, 0.1], [1, 0.2], [0, 1], [0.1, 1], [0.2, 1]])
    >>> LabelSpreader(X, np.array([[1, 0.3], [0.3, 1]])).predict(np.array([1, -1, -1, -1, 0, -1])).tolist()
    [1, 0]
    """

    def __init__(self, X: np.ndarray, X_test: np.ndarray) -> None:
        self._X, self._X_test = normalize(X), normalize(X_test)
        near = NearestNeighbors(n_neighbors=min(NEIGHBOURS, len(X) - 1), algorithm="brute").fit(self._X)
        mine = near.kneighbors_graph()  # (n, n), without oneself
        links = near.kneighbors_graph(self._X_test)  # (m, n)
        self._weights = sparse.hstack([mine.maximum(mine.T), links.T], format="csr")  # (n, n + m)

    def predict(self, known: np.ndarray) -> np.ndarray:
        """Class numbers (m,) of the unseen images, from those of the training images (n,), -1 where unlabelled."""
        n, m = len(self._X), len(self._X_test)
        # The "features" are places in the weights: scikit-learn takes no precomputed graph, but any kernel.
        spreading = LabelSpreading(kernel=self._kernel, alpha=ALPHA, max_iter=STEPS)
        spreading.fit(np.arange(n)[:, None], known)
        with np.errstate(invalid="ignore"):  # 0 / 0 where no label has come
            shares = spreading.predict_proba(n + np.arange(m)[:, None])  # (m, K)
        guesses = spreading.classes_[shares.argmax(axis=1)]
        alone, labelled = np.isnan(shares[:, 0]), np.flatnonzero(known >= 0)
        nearest = (self._X_test[alone] @ self._X[labelled].T).argmax(axis=1)
        guesses[alone] = known[labelled[nearest]]
        return guesses

    def _kernel(self, rows: np.ndarray, columns: np.ndarray) -> sparse.csr_matrix:
        return self._weights[rows.ravel()][:, columns.ravel()]
