"""A descent by gradients ends near the optimum, whatever the axes' scales and the rows' weights are."""

import numpy as np
import pytest

from featurepipe.solvers import LogisticPath, paths
from featurepipe.solvers.descents import descend

CLASSES = paths.MANY + 5


def data(seed=0, rows=420, width=12):
    rng = np.random.default_rng(seed)
    y = np.arange(rows) % CLASSES
    X = rng.normal(size=(CLASSES, width))[y] + rng.normal(size=(rows, width))
    return (X * np.logspace(-2, 2, width)).astype(np.float32), y


def objective(Z, Y, w, C, W):
    S = Z @ W[:, :-1].T + W[:, -1]
    top = S.max(axis=1, keepdims=True)
    losses = np.log(np.exp(S - top).sum(axis=1)) + top[:, 0] - (S * Y).sum(axis=1)
    return float((w * losses).sum() + (W[:, :-1] ** 2).sum() / (2 * C))


@pytest.mark.parametrize("C", [1e-3, 1.0])
def test_it_ends_within_the_tolerance_of_the_optimum(C):
    X, y = data()
    Z, Y, w = X - X.mean(axis=0), np.eye(CLASSES)[y], np.random.default_rng(1).integers(1, 4, len(y)) * 1.0
    spread = np.full(CLASSES, 1 / CLASSES * (1 - 1 / CLASSES))
    curvatures = np.outer(spread, np.append((w[:, None] * Z.astype(float) ** 2).sum(axis=0), w.sum()))
    curvatures[:, :-1] += 1 / C
    start = np.zeros((CLASSES, X.shape[1] + 1))
    found, count = descend(Z.__getitem__, Y.argmax(axis=1), w, C, start, curvatures, 1e-4)
    assert count > 1
    best = next(LogisticPath(Z, y, sample_weight=w, tolerance=1e-9).fit([C])).certificate.objective
    reached = objective(Z.astype(float), Y, w, C, found)
    assert best * (1 - 1e-9) <= reached <= best * (1 + 2e-4) < objective(Z, Y, w, C, start)


def test_a_path_that_starts_by_it_ends_where_one_by_newtons_method_alone_does():
    X, y = data()
    strengths = [0.01, 0.1, 1.0]
    quick, exact = (
        [fit.certificate for fit in LogisticPath(X, y, scale=True, **how).fit(strengths)]
        for how in ({}, {"keep": False, "tolerance": 1e-9})  # features that are not kept leave it out
    )
    for one, other in zip(quick, exact, strict=True):
        assert one.converged
        assert -1e-9 <= one.objective / other.objective - 1 <= one.gap <= paths.LOOSE
    assert sum(one.products for one in quick) < sum(one.products for one in exact)
