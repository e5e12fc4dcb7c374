"""Confidence intervals of a share: for images, and for groups of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from featurepipe.matrices import FeatureMatrix

DRAWS = 2000  # of groups, with replacement


def interval(part: FeatureMatrix, right: np.ndarray) -> dict[str, Any]:
    """Where samples have groups, how many are reported and the interval over them; else nothing.

    Parameters
    ----------
    part : FeatureMatrix
    right : ndarray of bool, shape (n,)
        Whether the answer to each of its rows is right.
    """
    if not part.has_units:
        return {}
    units = part.units
    return {"groups": len(np.unique(units)), "interval": list(bootstrap(right, units))}


def wilson(share: float, n: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's score interval of a share seen in n independent trials, by default at 95 %.

    Examples
    --------
    >>> low, high = wilson(0.9, 10)
    >>> round(low, 3), round(high, 3)
    (0.596, 0.982)
    """
    centre = share + z * z / (2 * n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    # Exactly the share where that is 0 or 1: rounding would leave it outside of its own interval.
    low = 0.0 if share <= 0 else (centre - half) / scale
    return low, 1.0 if share >= 1 else (centre + half) / scale


def bootstrap(right: np.ndarray, groups: Sequence[object] | np.ndarray, *, seed: int = 0) -> tuple[float, float]:
    """95 % interval of an accuracy whose images come in groups, such as patients: the groups are drawn, not the images.

    Images of one group are right or wrong together more often than others, so that Wilson's interval is too narrow.

    Parameters
    ----------
    right : ndarray of bool, shape (n,)
        Whether the answer is right, image by image.
    groups : sequence, shape (n,)
    seed : int
        Seed of the draws.

    Returns
    -------
    low, high : float
        Percentiles of 2,000 draws; 0 and 1 of a single group, which says nothing of others.

    References
    ----------
    Efron and Tibshirani 1993, "An Introduction to the Bootstrap", chapter 13; Cameron, Gelbach and Miller 2008,
    "Bootstrap-Based Improvements for Inference with Clustered Errors".

    Examples
    --------
    >>> right = np.repeat([True, True, True, False], 10)
    >>> bootstrap(right, np.repeat([1, 2, 3, 4], 10))
    (0.25, 1.0)
    """
    _, codes = np.unique(np.asarray(groups), return_inverse=True)
    sizes, hits = np.bincount(codes), np.bincount(codes, right)
    if len(sizes) == 1:
        return 0.0, 1.0
    rng, shares = np.random.default_rng(seed), np.empty(DRAWS)
    for draw in range(DRAWS):
        drawn = rng.integers(len(sizes), size=len(sizes))
        shares[draw] = hits[drawn].sum() / sizes[drawn].sum()
    low, high = np.quantile(shares, (0.025, 0.975))
    return float(low), float(high)


def interval_of(figures: Mapping[str, Any]) -> tuple[float, float]:
    """The 95 % interval of figures' top-1: theirs, where they have groups, or else Wilson's."""
    low, high = figures.get("interval") or wilson(figures["top1"], figures["n"])
    return low, high
