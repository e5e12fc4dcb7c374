"""The protocol dinov2-knn: nearest neighbours by cosine, which vote by their similarity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from featurepipe.errors import ProbeError
from featurepipe.probes.kinds.knn import vote
from featurepipe.probes.metrics import figures
from featurepipe.protocols.copies import distinct
from featurepipe.protocols.definitions import Protocol
from featurepipe.protocols.outcomes import Result
from featurepipe.statistics import Index


def run(
    protocol: Protocol,
    X: np.ndarray,
    y: np.ndarray,
    X_val: np.ndarray | None,
    y_val: np.ndarray | None,
    *,
    metric: str,
    groups: Sequence[object] | None,
    seed: int,
) -> Result:
    """Mark the best k on validation data, or by leaving out each training row; `seed` has nothing to decide."""
    del seed
    images = distinct(y, groups if X_val is None else None).units  # (n,)
    alike = np.bincount(images).max() if X_val is None else 0  # rows that are left out at once, at most
    usable = [int(k) for k in protocol.grid if k <= len(X) - alike]
    if not usable:
        which = f", of which {alike} are one," if alike > 1 else ""
        needed = int(protocol.grid[0])
        raise ProbeError(f"{len(X)} training samples{which} are too few for {needed} neighbours; add samples")
    classes, codes = np.unique(y, return_inverse=True)
    distances, rows = _nearest(X, X_val, usable[-1], images)  # (m, k)
    truth = y if y_val is None else y_val
    votes = [_votes(distances[:, :k], codes[rows[:, :k]], len(classes)) for k in usable]  # (m, K), sum 1
    found = [figures(np.log(np.maximum(one, np.finfo(float).tiny)), truth, classes) for one in votes]
    values = [one[metric] for one in found]
    chosen = values.index(max(values))
    return Result(
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


def _nearest(X: np.ndarray, X_val: np.ndarray | None, k: int, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distances and row numbers, (m, k) each, of the nearest rows; of each training row without its own image's."""
    if X_val is not None:
        return Index(X).search(X_val, k)
    distances, rows = Index(X).search(X, k + np.bincount(images).max())  # its own copies, itself included, at most
    last = np.argsort(images[rows] == images[:, None], axis=1, kind="stable")[:, :k]  # copies behind all others
    return np.take_along_axis(distances, last, axis=1), np.take_along_axis(rows, last, axis=1)


def classifier(k: int, X: np.ndarray, y: np.ndarray) -> Any:
    """The scikit-learn classifier of k neighbours."""
    from featurepipe.probes.kinds.knn_estimators import CosineNeighbors

    return CosineNeighbors(k, weights=vote, metric="cosine", algorithm="brute").fit(X, y)


def _votes(distances: np.ndarray, labels: np.ndarray, count: int) -> np.ndarray:
    """Shares of the votes, (m, count), of neighbours at `distances` with class numbers `labels`, both (m, k)."""
    shares = np.zeros((len(labels), count))
    np.add.at(shares, (np.arange(len(labels))[:, None], labels), vote(distances))
    return shares / shares.sum(axis=1, keepdims=True)
