"""Check: images that are like no others.

The distance to the tenth neighbour is compared with those of all images and with those of the class, on the logarithmic
scale. Where both modified z-scores are above 3.5, the image is an outlier. Neighbours may be of any class, so that a
wrong label alone makes no outlier. Of a class of fewer than twenty images only the first score counts.

Iglewicz and Hoaglin 1993, "How to Detect and Handle Outliers"; Ramaswamy, Rastogi and Shim 2000, "Efficient Algorithms
for Mining Outliers from Large Data Sets" (the distance to the k-th neighbour as a score).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from featurepipe.audits.evidence import Evidence
from featurepipe.audits.findings import Finding, Unknown

FAR = 3.5  # modified z-score
ENOUGH = 20  # images of a class that say what is usual there
TO_SIGMA = 0.6745  # a normal distribution's median absolute deviation
LEAST = 1e-6


def outliers(evidence: Evidence) -> Iterator[Finding]:
    """Images that are far from all others, such as photos of something else."""
    if len(evidence.contents) < ENOUGH:
        raise Unknown(f"{len(evidence.contents)} images are too few to say what is usual")
    distances = evidence.nearest.distances[:, -1]
    labels = evidence.samples.y[evidence.contents].astype(str)
    scores = np.fmin(deviations(distances), _by_class(distances, labels))
    for place in np.flatnonzero(scores > FAR):
        yield Finding(
            "outliers",
            float(scores[place] / (scores[place] + FAR)),
            tuple(evidence.rows_of(np.array([place])).tolist()),
            f"far from all other images (its neighbours are at {distances[place]:.2f}, usual is "
            f"{np.median(distances):.2f})",
        )


def _by_class(distances: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Deviations within each class, (n,); nan in small ones."""
    scores = np.full(len(distances), np.nan)
    for label in np.unique(labels):
        mine = labels == label
        if mine.sum() >= ENOUGH:
            scores[mine] = deviations(distances[mine])
    return scores


def deviations(distances: np.ndarray) -> np.ndarray:
    """Modified z-scores of distances on the logarithmic scale, (n,).

    Examples
    --------
    >>> deviations(np.exp([1.0, 2, 3, 4, 11])).round(2).tolist()
    [-1.35, -0.67, 0.0, 0.67, 5.4]
    """
    logs = np.log(np.maximum(distances, LEAST))
    beyond = logs - np.median(logs)
    spread = np.median(np.abs(beyond))
    return np.divide(TO_SIGMA * beyond, spread, out=np.zeros(len(logs)), where=spread > 0)
