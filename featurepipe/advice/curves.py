"""The label-efficiency curve: how fast the probe's error falls with more labels, and what would be left of it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from featurepipe.probes import ALPHA_GRID, KINDS, predict

SHARES = (0.25, 0.5, 1.0)  # of the training labels
Round = tuple[np.ndarray, np.ndarray]  # the rows to train on and those to measure on


def label_curve(X: np.ndarray, y: np.ndarray, rounds: Sequence[Round], *, labels: int, seed: int = 0) -> dict[str, Any]:
    """Errors of a ridge probe with a quarter, half and all of the training labels, and the law that they follow.

    The error of a classifier with n labels goes as a + b/√n: Hoiem et al. 2021, "Learning Curves for Analysis of Deep
    Networks", who find this exponent to fit as well as a free one. Here a is the error that the features impose, and
    b/√n what more labels remove. Draws are stratified, a quarter is part of its half, and alpha is the one of fewest
    mistakes at each number of labels.

    Parameters
    ----------
    X : ndarray, shape (n, D)
    y : ndarray, shape (n,)
    rounds : sequence of (ndarray, ndarray)
        Row numbers to train and to measure on, with a draw for each.
    labels : int
        How many the probe has that is advised on; the gain is that of as many again.
    seed : int
        Round r draws under ``[seed, r]``.

    Returns
    -------
    dict
        ``curve`` (for each share ``images, error``), ``floor`` (a, at least 0), ``per_doubling`` (by how much twice the
        labels reduce the error, in fractions), ``standard_error`` (of the latter, over draws and measured images).

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> y = np.arange(300) % 3
    >>> X = rng.normal(size=(300, 20)) + 2 * np.eye(20)[y]
    >>> rows = np.arange(300)
    >>> found = label_curve(X, y, [(rows[:200], rows[200:])] * 3, labels=200)
    >>> [point["images"] for point in found["curve"]]
    [51, 101, 200]
    >>> found["per_doubling"] > 0
    True
    """
    wrong = np.zeros((len(SHARES), len(ALPHA_GRID), len(y)))  # times that a row was mistaken
    errors = np.zeros((len(SHARES), len(rounds), len(ALPHA_GRID)))
    sizes = np.zeros((len(SHARES), len(rounds)))
    measured = np.zeros(len(y))  # times
    whole: dict[bytes, np.ndarray] = {}  # all labels of the same rows are no new draw
    for r, (train, held) in enumerate(rounds):
        measured[held] += 1
        for s, rows in enumerate(_draws(train, y, [seed, r])):
            key = train.tobytes()
            if SHARES[s] == 1 and key in whole:
                found = whole[key]
            else:
                fitted = KINDS["ridge"].fit_path(X[rows], y[rows], ALPHA_GRID)
                found = np.stack([predict(estimator, X[held]) != y[held] for estimator, _ in fitted])  # (A, m)
            if SHARES[s] == 1:
                whole[key] = found
            wrong[s][:, held] += found
            errors[s, r], sizes[s, r] = found.mean(axis=1), len(rows)
    seen = measured > 0
    wrong = wrong[:, :, seen] / measured[seen]  # (S, A, m)
    best = wrong.mean(axis=2).argmin(axis=1)  # (S,): alpha
    every = np.arange(len(SHARES))
    mistakes, errors, sizes = wrong[every, best], errors[every, :, best], sizes.mean(axis=1)  # (S, m), (S, R), (S,)
    design = np.stack([np.ones(len(SHARES)), sizes**-0.5], axis=1)
    a, b = np.linalg.pinv(design)  # (S,) each: linear in the errors
    slope = b * (1 - math.sqrt(0.5)) / math.sqrt(labels)  # (S,)
    per_image, per_round = slope @ mistakes, slope @ errors  # (m,), (R,)
    variance = _squared_error(per_image) + _squared_error(per_round)
    return {
        "curve": [
            {"images": round(float(n)), "error": float(one.mean())} for n, one in zip(sizes, mistakes, strict=True)
        ],
        "floor": max(0.0, float(a @ mistakes.mean(axis=1))),
        "per_doubling": float(per_image.mean()),
        "standard_error": math.sqrt(variance),
    }


def _squared_error(values: np.ndarray) -> float:
    """The square of the mean's standard error; 0 of a single value."""
    return float(np.var(values, ddof=1)) / len(values) if len(values) > 1 else 0.0


def _draws(train: np.ndarray, y: np.ndarray, seed: Sequence[int]) -> Iterator[np.ndarray]:
    """Of each class a quarter, half and all of its rows, at least one; each part of the next."""
    generator = np.random.default_rng(seed)
    members = [generator.permutation(train[y[train] == label]) for label in np.unique(y[train])]
    for share in SHARES:
        yield np.concatenate([rows[: math.ceil(share * len(rows))] for rows in members])
