"""What features are divided by, so that one penalty suits them all."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

ROUNDING = 1e-6  # of float32 features: what is smaller than this, relative to what it is part of, holds nothing else
FEW = 10  # rows, below which features share a scale
# No feature is divided by less than this share of the common deviation: the root mean square of all of them, where none
# counts for more than the 95 % quantile, as some vision transformers have a few features a hundred times larger.
FLOOR, CLIPPED = 0.2, 0.95


def is_constant(deviations: np.ndarray, means: np.ndarray) -> np.ndarray:
    """Which features are constant up to rounding: they deviate by less than 1e-6 of their mean.

    Float32, in which embeddings are kept, has seven digits, so that standardising such a feature would blow up rounding
    into a feature like the others. scikit-learn's rule has the sixteen digits of float64 in mind.

    Parameters
    ----------
    deviations, means : ndarray, shape (D,)

    Returns
    -------
    ndarray of bool, shape (D,)
    """
    return deviations <= ROUNDING * np.abs(means)


def feature_scales(deviations: np.ndarray, constant: np.ndarray, rows: float, blocks: Sequence[int] = ()) -> np.ndarray:
    """What standardised features are divided by: each by its own deviation, but by no less than a fifth of the common
    one; or, of fewer than ten rows, all by their root mean square.

    The deviation of a few rows says little of a feature. Of two rows it is half their difference: divided by it every
    feature becomes −1 and 1, whatever tells the rows apart, and the many that hold noise outvote those that do not. So
    few rows share one scale, the root mean square of the deviations. Either way the variances of the features add up to
    about their number, so that the same strengths suit both.

    The deviation of a feature that is active in a handful of rows says little, too: it is tiny, and the next row in
    which the feature is active would lie tens of deviations away. Hence the floor. A fifth was found on development
    data: `docs/probes.md` has the table.

    Features of several backbones are blocks, and each block has a common deviation of its own. Each block is then
    multiplied by one number, so that the variances of its features add up to what is proportional to the root of what
    they added up to: a block of 1,280 features weighs not 32 times as much as one of 40, but 5.7 times. The sum over
    all blocks stays what it was, for the sake of the strengths. The root was found on development data as well.

    Parameters
    ----------
    deviations : ndarray, shape (D,)
        Standard deviations (over n).
    constant : ndarray of bool, shape (D,)
        Marks the features that are constant, which take no part in the common scale.
    rows : float
        How many rows the deviations are of, or what these weigh together.
    blocks : sequence of int
        Widths of the blocks, which add up to D; nothing where the features are one block.

    Returns
    -------
    ndarray of float64, shape (D,)
        1 for a constant feature.

    Examples
    --------
    >>> deviations, constant = np.array([1.0, 7, 0]), np.array([False, False, True])
    >>> feature_scales(deviations, constant, 10).tolist(), feature_scales(deviations, constant, 9).tolist()
    ([1.0, 7.0, 1.0], [5.0, 5.0, 1.0])
    >>> feature_scales(np.array([0.01, 5, 5, 5]), np.zeros(4, bool), 10).round(3).tolist()
    [0.866, 5.0, 5.0, 5.0]
    >>> feature_scales(np.array([1.0, 10, 10, 10]), np.zeros(4, bool), 10, blocks=[1, 3]).round(3).tolist()
    [0.826, 10.877, 10.877, 10.877]
    """
    if len(blocks) < 2:
        return _scales(deviations, constant, rows)
    ends = np.cumsum(blocks)[:-1]
    parts = list(zip(np.split(deviations, ends), np.split(constant, ends), strict=True))
    scales = [_scales(mine, still, rows) for mine, still in parts]
    sums = [float(((mine / scale)[~still] ** 2).sum()) for (mine, still), scale in zip(parts, scales, strict=True)]
    roots = np.sqrt(sums)  # (blocks,)
    factors = np.where(roots > 0, roots * roots.sum() / (sum(sums) or 1.0), 1.0)  # of the variances; 1 where none vary
    return np.concatenate([scale * np.sqrt(one) for scale, one in zip(scales, factors, strict=True)])


def _scales(deviations: np.ndarray, constant: np.ndarray, rows: float) -> np.ndarray:
    """`feature_scales` of one block."""
    if constant.all():
        return np.ones_like(deviations, dtype=np.float64)
    varying = deviations[~constant]
    if round(rows) < FEW:  # weights may add up to a little less than the rows
        return np.where(constant, 1.0, np.sqrt(np.mean(varying**2)))
    common = np.sqrt(np.mean(np.minimum(varying, np.quantile(varying, CLIPPED, method="lower")) ** 2))
    return np.where(constant, 1.0, np.maximum(deviations, FLOOR * common))
