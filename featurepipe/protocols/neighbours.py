"""The protocol dinov2-knn: nearest neighbours by cosine, which vote by their similarity."""

from __future__ import annotations

from typing import Any

import numpy as np

from featurepipe.errors import ProbeError
from featurepipe.probes.metrics import figures
from featurepipe.probes.neighbours import vote
from featurepipe.protocols.definitions import Protocol
from featurepipe.protocols.outcomes import Outcome


def run(
    protocol: Protocol,
    X: np.ndarray,
    y: np.ndarray,
    X_val: np.ndarray | None,
    y_val: np.ndarray | None,
    *,
    metric: str,
    seed: int,
) -> Outcome:
    """Mark the best k on validation data, or by leaving out each training row; `seed` has nothing to decide."""
    from sklearn.neighbors import NearestNeighbors

    del seed
    usable = [int(k) for k in protocol.grid if k <= len(X) - (X_val is None)]
    if not usable:
        raise ProbeError(f"{len(X)} training images are too few for {int(protocol.grid[0])} neighbours; add images")
    classes, codes = np.unique(y, return_inverse=True)
    search = NearestNeighbors(n_neighbors=usable[-1], metric="cosine", algorithm="brute").fit(X)
    distances, rows = search.kneighbors(X_val)  # (m, k); without X_val of the training rows, each without itself
    truth = y if X_val is None else y_val
    votes = [_votes(distances[:, :k], codes[rows[:, :k]], len(classes)) for k in usable]  # (m, K), sum 1
    found = [figures(np.log(np.maximum(one, np.finfo(float).tiny)), truth, classes) for one in votes]
    values = [one[metric] for one in found]
    chosen = values.index(max(values))
    return Outcome(
        protocol=protocol,
        metric=metric,
        estimator=classifier(usable[chosen], X, y),
        chosen=usable[chosen],
        selected_on="val" if X_val is not None else "leave-one-out on train",
        path=[
            {
                "k": k,
                "top1": one["top1"],
                "balanced_accuracy": one["balanced_accuracy"],
            }
            for k, one in zip(usable, found, strict=True)
        ],
        scores=found[chosen],
    )


def classifier(k: int, X: np.ndarray, y: np.ndarray) -> Any:
    """The scikit-learn classifier of k neighbours."""
    from sklearn.neighbors import KNeighborsClassifier

    return KNeighborsClassifier(k, weights=vote, metric="cosine", algorithm="brute").fit(X, y)


def _votes(distances: np.ndarray, labels: np.ndarray, count: int) -> np.ndarray:
    """Shares of the votes, (m, count), of neighbours at `distances` with class numbers `labels`, both (m, k)."""
    shares = np.zeros((len(labels), count))
    np.add.at(shares, (np.arange(len(labels))[:, None], labels), vote(distances))
    return shares / shares.sum(axis=1, keepdims=True)
