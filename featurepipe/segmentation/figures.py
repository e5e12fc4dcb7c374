"""How good a segmentation is: intersection over union, and its interval over images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

DRAWS = 2000


def confusion(truth: np.ndarray, said: np.ndarray, classes: int) -> np.ndarray:
    """Pixels by class and answer, int64 (K, K); class -1 does not count.

    Examples
    --------
    >>> confusion(np.array([0, 0, 1, -1]), np.array([0, 1, 1, 1]), 2).tolist()
    [[1, 1], [0, 1]]
    """
    counted = truth >= 0
    flat = truth[counted] * classes + said[counted]
    return np.bincount(flat, minlength=classes * classes).reshape(classes, classes)


def ious(matrix: np.ndarray) -> np.ndarray:
    """Intersection over union of each class, (…, K), of confusions (…, K, K); NaN of a class that is nowhere."""
    hit = np.diagonal(matrix, axis1=-2, axis2=-1)
    union = matrix.sum(-1) + matrix.sum(-2) - hit
    with np.errstate(invalid="ignore"):
        return hit / np.where(union > 0, union, np.nan)


def mean_iou(matrix: np.ndarray) -> float:
    """The mean over the classes that are anywhere in truth or answer."""
    return float(np.nanmean(ious(matrix)))


def figures(matrices: np.ndarray, names: Sequence[str], groups: np.ndarray, seed: int = 0) -> dict[str, Any]:
    """mIoU, pixel accuracy and IoU of each class, with 95 % intervals over images, or over groups of them.

    Pixels of all images are counted together, as Pascal VOC and ADE20K do. For the intervals, images (groups) are drawn
    with replacement, 2,000 times.

    Parameters
    ----------
    matrices : ndarray of int, shape (n, K, K)
        A confusion for each image.
    names : sequence of str
    groups : ndarray, shape (n,)
        What stays together in a draw.
    seed : int
    """
    total = matrices.sum(0)
    _, codes = np.unique(groups, return_inverse=True)
    of_group = np.zeros((codes.max() + 1, *total.shape))
    np.add.at(of_group, codes, matrices)
    rng = np.random.default_rng(seed)
    draws = [of_group[rng.integers(len(of_group), size=len(of_group))].sum(0) for _ in range(DRAWS)]
    sampled = np.stack(draws) if len(of_group) > 1 else np.zeros((0, *total.shape))
    each = ious(sampled)
    return {
        "n": len(matrices),
        "miou": mean_iou(total),
        "miou_interval": _interval(np.nanmean(each, axis=1)) if len(each) else None,
        "pixel_accuracy": float(np.trace(total) / total.sum()),
        "pixel_accuracy_interval": _interval(np.trace(sampled, axis1=1, axis2=2) / sampled.sum((1, 2)))
        if len(each)
        else None,
        "per_class": {
            name: {"iou": None if np.isnan(iou) else float(iou), "pixels": int(count)}
            for name, iou, count in zip(names, ious(total), total.sum(1), strict=True)
        },
    }


def _interval(values: np.ndarray) -> list[float]:
    low, high = np.quantile(values, (0.025, 0.975))
    return [float(low), float(high)]
