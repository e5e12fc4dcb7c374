"""What frozen embeddings are worth while a network is pretrained: a kNN and a linear probe on labels held back."""

from __future__ import annotations

from typing import Any

import numpy as np

NEIGHBOURS = 20  # as many for small sets as a majority takes
KNN, LINEAR = "knn", "linear"


def probe_figures(embeddings: np.ndarray, targets: np.ndarray) -> dict[str, Any]:
    """Top-1 of two probes.

    Parameters
    ----------
    embeddings : ndarray of float64, shape (n, width)
    targets : ndarray of int64, shape (n,)
        Class numbers of the rows that probes are fitted on; -1 minus these of the rows that they are measured on.

    Returns
    -------
    dict
        ``knn`` (20 neighbours by cosine, weighted by it), ``linear`` (the ridge classifier of `featurepipe.probes`, its
        strength chosen by cross-validation among the rows that it is fitted on) and ``n``, how many were measured.

    Examples
    --------
    >>> X = np.repeat(np.eye(2), 12, axis=0) + np.linspace(0, 0.01, 24)[:, None]
    >>> probe_figures(X, np.r_[[0] * 6, [-1] * 6, [1] * 6, [-2] * 6])
    {'knn': 1.0, 'linear': 1.0, 'n': 12}
    """
    from sklearn.neighbors import KNeighborsClassifier

    from featurepipe import probes

    fitted = targets >= 0
    X, y, left, truth = embeddings[fitted], targets[fitted], embeddings[~fitted], -1 - targets[~fitted]
    if not np.isfinite(embeddings).all():
        return {KNN: float("nan"), LINEAR: float("nan"), "n": len(truth)}
    near = KNeighborsClassifier(min(NEIGHBOURS, len(y)), weights="distance", metric="cosine").fit(X, y)
    linear = probes.fit("ridge", X, y)
    right = {KNN: near.predict(left) == truth, LINEAR: probes.predict(linear.estimator, left) == truth}
    return {**{name: float(one.mean()) for name, one in right.items()}, "n": len(truth)}
