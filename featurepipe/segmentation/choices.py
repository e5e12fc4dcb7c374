"""Choosing among the closed forms by cross-validation, in two readings of the tokens, however many there are to try."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from featurepipe.segmentation.closed import CLOSED, Patches, fit_all
from featurepipe.segmentation.descent import Tokens
from featurepipe.segmentation.figures import mean_iou
from featurepipe.segmentation.frames import middles, spread
from featurepipe.segmentation.moments import Moments, widen


@dataclass(frozen=True)
class Choice:
    """A fitted classifier of patches, and how it was chosen.

    Attributes
    ----------
    kind : str
    strength : float or None
    patches : Patches
    path : list of dict
        ``kind, strength, miou`` of every candidate, on held-out images; without `folds`, ``miou`` is None.
    folds : int
        How many there were; 0 where nothing could be held out, and the middle strength of the first kind was taken.
    """

    kind: str
    strength: float | None
    patches: Patches
    path: list[dict[str, Any]]
    folds: int = 0


def choose(
    read: Tokens,
    held: Sequence[np.ndarray],
    folds: np.ndarray,
    kinds: Sequence[str] = tuple(CLOSED),
    progress: Callable[[int], object] = lambda pictures: None,
) -> Choice:
    """Fit every kind at every strength without each fold, measure it there, and fit the best one to all.

    Tokens are read twice: for the sums, and to measure. Held-out images are measured in cells a quarter of a token
    wide, by the shares of classes in them.

    Parameters
    ----------
    read : callable
        Numbers of pictures (b,) → tokens (b, h, w, D).
    held : sequence of ndarray, each of shape (r·h, r·w, K)
        Shares of classes in finer cells.
    folds : ndarray of int, shape (n,)
    kinds : sequence of str
        Names in `CLOSED`.
    progress : callable
        Called with the number of pictures just read; twice for each.
    """
    classes = held[0].shape[-1]
    parts = {fold: Moments.empty(read(np.arange(1)).shape[-1], classes) for fold in np.unique(folds).tolist()}
    for number, shares in enumerate(held):
        parts[int(folds[number])].add(read(np.array([number]))[0], shares)
        progress(1)
    total = Moments(*(sum(values) for values in zip(*(vars(one).values() for one in parts.values()), strict=True)))
    candidates = [(kind, strength) for kind in kinds for strength in CLOSED[kind][1]]
    found = np.zeros((len(candidates), classes, classes))
    if len(parts) > 1:
        fitted = {fold: _stacked(fit_all(total.without(part), candidates)) for fold, part in parts.items()}
        for number, shares in enumerate(held):
            found += _measured(read(np.array([number]))[0], shares, fitted[int(folds[number])])
            progress(1)
    mious = [mean_iou(one) if len(parts) > 1 else None for one in found]
    known = [miou for miou in mious if miou is not None]
    best = int(np.argmax(known)) if known else len(CLOSED[kinds[0]][1]) // 2
    kind, strength = candidates[best]
    path = [{"kind": k, "strength": s, "miou": m} for (k, s), m in zip(candidates, mious, strict=True)]
    return Choice(kind, strength, fit_all(total, [candidates[best]])[0], path, len(parts) if known else 0)


def _stacked(several: Sequence[Patches]) -> Patches:
    """Candidates one below the other: coef (S·K, D)."""
    return Patches(np.concatenate([one.coef for one in several]), np.concatenate([one.intercept for one in several]))


def _measured(tokens: np.ndarray, shares: np.ndarray, several: Patches) -> np.ndarray:
    """The confusion (S, K, K) of every candidate on a picture, in cells."""
    rows, columns, classes = shares.shape
    down, across = spread(tokens.shape[0], middles(rows)), spread(tokens.shape[1], middles(columns))
    scores = widen(several.scores(tokens), down, across)  # (R, C, S·K)
    said = scores.reshape(rows * columns, -1, classes).argmax(-1)  # (cells, S)
    flat = shares.reshape(rows * columns, classes)
    found = np.zeros((said.shape[1], classes, classes))
    for answer in range(classes):
        found[:, :, answer] = ((said == answer).T.astype(float)) @ flat
    return found
