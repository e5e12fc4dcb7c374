"""Accuracy against coverage: how often answers are right where only those of enough confidence are given."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

POINTS = 100  # of a curve, at most
STEPS = 10**6  # confidences are rounded down to these, as tables of predictions show them


class Kept(NamedTuple):
    """One point of a curve of coverage.

    Parameters
    ----------
    confidence : float
        The least confidence of an answer that is given.
    kept, right : int
        How many answers are given then, and how many of these are right.
    """

    confidence: float
    kept: int
    right: int

    @property
    def accuracy(self) -> float:
        """The share of the given answers that is right."""
        return self.right / self.kept


def coverage(confidence: np.ndarray, right: np.ndarray) -> list[Kept]:
    """How many answers are given, and how many of them are right, for falling thresholds of confidence.

    Parameters
    ----------
    confidence : ndarray of float, shape (n,)
        From 0 to 1.
    right : ndarray of bool, shape (n,)
        Whether each answer is right.

    Returns
    -------
    list of Kept
        At most a hundred, at even distances in the number of answers; the last one keeps all. Answers of one
        confidence are kept together.

    References
    ----------
    El-Yaniv and Wiener 2010, "On the Foundations of Noise-free Selective Classification": the risk-coverage curve.

    Examples
    --------
    >>> for point in coverage(np.array([0.9, 0.5, 0.9, 0.7]), np.array([True, False, True, True])):
    ...     print(*point)
    0.9 2 2
    0.7 3 3
    0.5 4 3
    """
    if not len(confidence):
        return []
    steps = np.floor(np.asarray(confidence, float) * STEPS + 1e-3).astype(np.int64)  # the product may be a bit less
    order = np.argsort(-steps, kind="stable")
    steps, hits = steps[order], np.cumsum(np.asarray(right)[order])
    ends = np.flatnonzero(np.append(steps[1:] != steps[:-1], True))  # the last answer of each confidence
    wanted = np.ceil(np.linspace(1 / POINTS, 1, POINTS) * len(steps)).astype(int) - 1
    chosen = ends[np.unique(np.searchsorted(ends, wanted))]
    return [Kept(float(steps[end] / STEPS), int(end) + 1, int(hits[end])) for end in chosen]


def threshold(points: Iterable[Kept], accuracy: float) -> Kept | None:
    """The point of lowest confidence whose answers have at least that accuracy; None where none has.

    Examples
    --------
    >>> points = [Kept(0.9, 2, 2), Kept(0.7, 3, 2), Kept(0.5, 4, 3)]
    >>> threshold(points, 0.7).confidence, threshold(points, 0.9).confidence
    (0.5, 0.9)
    """
    enough = [point for point in points if point.accuracy >= accuracy]
    return min(enough, key=lambda point: point.confidence, default=None)
