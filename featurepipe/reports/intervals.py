"""Confidence intervals."""

from __future__ import annotations

import math


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
