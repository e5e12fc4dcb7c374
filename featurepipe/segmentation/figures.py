"""How good a segmentation is: intersection over union, and its interval over images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from featurepipe.errors import SegmentationError

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


def confused(matrix: np.ndarray, names: Sequence[str], most: int = 10) -> list[dict[str, Any]]:
    """The classes most often taken for another: ``true, predicted, pixels``, and ``share`` of the true class's pixels.

    Examples
    --------
    >>> confused(np.array([[6, 2], [0, 4]]), ["sky", "sea"])
    [{'true': 'sky', 'predicted': 'sea', 'pixels': 2, 'share': 0.25}]
    """
    wrong = matrix - np.diag(np.diag(matrix))
    found = []
    for place in np.argsort(-wrong, axis=None, kind="stable")[:most].tolist():
        truth, said = divmod(place, len(names))
        if count := int(wrong[truth, said]):
            share = count / int(matrix[truth].sum())
            found.append({"true": names[truth], "predicted": names[said], "pixels": count, "share": share})
    return found


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

    Raises
    ------
    SegmentationError
        No pixel counts.
    """
    total = matrices.sum(0)
    if not total.sum():
        raise SegmentationError("no pixel of the reported images counts; give other masks, or leave out --ignore")
    hits = np.diagonal(matrices, axis1=1, axis2=2)  # (n, K)
    unions = matrices.sum(2) + matrices.sum(1) - hits
    told = np.concatenate([hits, unions], axis=1).astype(float)
    _, codes = np.unique(groups, return_inverse=True)
    of_group = np.zeros((codes.max() + 1, told.shape[1]))
    np.add.at(of_group, codes, told)
    mious, shares = _drawn(of_group, np.bincount(codes, matrices.sum((1, 2))), seed)
    return {
        "n": len(matrices),
        "miou": mean_iou(total),
        "miou_interval": _interval(mious),
        "pixel_accuracy": float(np.trace(total) / total.sum()),
        "pixel_accuracy_interval": _interval(shares),
        "per_class": {
            name: {"iou": None if np.isnan(iou) else float(iou), "pixels": int(count)}
            for name, iou, count in zip(names, ious(total), total.sum(1), strict=True)
        },
    }


def _drawn(told: np.ndarray, sizes: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """MIoU and accuracy of draws of groups, of their hits and unions (G, 2·K) and pixels (G,); none of one group."""
    rng, count, classes = np.random.default_rng(seed), len(told), told.shape[1] // 2
    mious, shares = [], []
    for _ in range(DRAWS if count > 1 else 0):
        times = np.bincount(rng.integers(count, size=count), minlength=count)
        sums, whole = times @ told, times @ sizes
        if whole:
            hit, union = sums[:classes], sums[classes:]
            mious.append(np.mean(hit[union > 0] / union[union > 0]))
            shares.append(hit.sum() / whole)
    return np.array(mious), np.array(shares)


def _interval(values: np.ndarray) -> list[float] | None:
    if not len(values):
        return None
    low, high = np.quantile(values, (0.025, 0.975))
    return [float(low), float(high)]
