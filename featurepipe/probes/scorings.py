"""Scores that do not fit into memory: made again, a block of rows at a time, whenever they are asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from featurepipe.probes.metrics import BLOCK, Blocks, decision_scores
from featurepipe.solvers import Matrix, stacked

HELD = 2**27  # scores that are kept at a time, 1 GiB
Scoring = tuple[Any, Matrix, np.ndarray]  # an estimator, rows that it has not learned from, and their places (m,)


class Remade:
    """Scores of rows by one or several estimators.

    Parameters
    ----------
    parts : sequence of tuple
        Estimators of the same classes, the rows that each is asked about, and their places among all.
    """

    def __init__(self, parts: Sequence[Scoring]) -> None:
        self._parts = parts

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Places of rows (b,), and their scores (b, classes)."""
        for estimator, X, places in self._parts:
            step = max(1, BLOCK // len(estimator.classes_))
            for start in range(0, len(places), step):
                at = slice(start, start + step)
                yield places[at], decision_scores(estimator, X[at])

    def kept(self, rows: int, classes: int) -> np.ndarray:
        """All of them as an array (rows, classes)."""
        found = np.empty((rows, classes))
        for at, scores in self:
            found[at] = scores
        return found

    def thinned(self, count: int) -> tuple[Remade, np.ndarray]:
        """About that many rows, evenly spread over all, renumbered; and their places here, in that order."""
        places = np.concatenate([at for _, _, at in self._parts])
        rows = np.unique(np.linspace(0, len(places) - 1, count).astype(np.int64))
        parts: list[Scoring] = []
        for estimator, X, at in self._parts:
            mine = np.isin(at, rows)
            parts.append((estimator, stacked(X).take(mine), np.searchsorted(rows, at[mine])))
        return Remade(parts), rows


def scored(parts: Sequence[Scoring]) -> Blocks:
    """Scores that are kept, or, where there are many, made again each time."""
    ((estimator, X, places),) = parts
    if len(places) * len(estimator.classes_) > HELD:
        return Remade(parts)
    return [(slice(None), decision_scores(estimator, X))]
