"""Rows read where they lie: slices of stacks are slices of the matrices, and nothing is copied as a whole."""

import tracemalloc

import numpy as np
import pytest

from featurepipe import probes
from featurepipe.errors import ProbeError
from featurepipe.probes import kinds
from featurepipe.probes.inputs import finite
from featurepipe.solvers import Stack, chunks, stacks, weighted_moments

OF_VECTORS = [kind for kind in probes.names("is_copied", without=True) if probes.KINDS[kind].reads == "vectors"]


def matrices():
    rng = np.random.default_rng(0)
    return [rng.normal(size=(n, 3)).astype(np.float32) for n in (5, 1, 0, 7)]


def wide(rows, *, rows_at_once):
    """A matrix so wide that a chunk holds no more rows."""
    return np.random.default_rng(0).normal(size=(rows, stacks.CHUNK_BYTES // 8 // rows_at_once)).astype(np.float32)


def test_a_stack_is_its_parts_one_below_the_other():
    parts = matrices()
    stack, whole = Stack(*parts), np.concatenate(parts)
    assert (len(stack), stack.shape) == (13, (13, 3))
    for at in (slice(None), slice(4, 7), slice(0, 0), slice(12, 99)):
        np.testing.assert_array_equal(stack[at], whole[at])
    mask = np.arange(13) % 3 == 0
    order = np.array([12, 0, 5, 5])
    for taken, expected in ((stack.take(mask), whole[mask]), (stack.take(order), whole[order])):
        np.testing.assert_array_equal(taken[:], expected)
        np.testing.assert_array_equal(taken.take(np.array([1]))[:], expected[1:2])
    assert stack[:].dtype == np.float32
    assert Stack(parts[0], parts[1].astype(float))[:].dtype == np.float64


@pytest.mark.parametrize("make", [lambda X: X, Stack])
def test_chunks_are_all_rows_once_in_float64(make):
    X = wide(5, rows_at_once=2)
    pieces = list(chunks(make(X)))
    assert [at.stop - at.start for at, _ in pieces] == [2, 2, 1]
    np.testing.assert_array_equal(np.concatenate([chunk for _, chunk in pieces]), X.astype(float))
    assert {chunk.dtype for _, chunk in pieces} == {np.dtype(float)}


def test_weighted_moments():
    X, w = wide(7, rows_at_once=3), np.arange(7.0)
    mean, deviation = weighted_moments(X, w)
    np.testing.assert_allclose(mean, np.average(X.astype(float), axis=0, weights=w))
    np.testing.assert_allclose(deviation**2, np.average((X - mean) ** 2, axis=0, weights=w))


def test_what_is_finite_is_not_copied(tmp_path):
    X = matrices()[0]
    assert finite(X) is X
    np.save(tmp_path / "X.npy", X)
    assert isinstance(finite(np.load(tmp_path / "X.npy", mmap_mode="r")), np.memmap)
    assert finite([[1, 2], [3, 4]]).tolist() == [[1, 2], [3, 4]]
    for bad in (np.nan, np.inf, -np.inf):
        X[4, 2] = bad
        with pytest.raises(ProbeError, match="not finite"):
            finite(X)


@pytest.mark.slow
@pytest.mark.parametrize("kind", OF_VECTORS)
def test_no_probe_copies_the_features_in_float64(kind, monkeypatch):
    monkeypatch.setattr(stacks, "CHUNK_BYTES", 2**16)
    monkeypatch.setattr("featurepipe.statistics.sums.BLOCK_BYTES", 2**16)
    rng = np.random.default_rng(0)
    y = np.arange(30_000) % 2
    X = rng.normal(size=(30_000, 64)).astype(np.float32) + y[:, None]  # 7.7 MB
    probes.fit(kind, X[:100], y[:100], value=None if kind == "centroid" else 0.1)  # what is imported counts once
    peaks = {}
    for keep in (True, False):
        tracemalloc.start()
        try:
            probes.fit(kind, X, y, value=None if kind == "centroid" else 0.1, keep=keep)
            peaks[keep] = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    scores = 8 * 2 * len(y)  # of two classes: these are no features
    assert peaks[True] < 1.1 * X.nbytes + 12 * scores
    assert peaks[False] < 12 * scores


@pytest.mark.parametrize("kind", ["ridge", "lda", "centroid"])
def test_folds_added_up_are_folds_fitted_one_by_one(kind):
    rng = np.random.default_rng(0)
    y = rng.permutation(np.arange(91) % 3)
    X = rng.normal(size=(91, 6)) + np.eye(3, 6)[y] + 5  # more than six rows per feature: one pass for all folds
    y[0], folds = 3, np.arange(91) % kinds.FOLDS
    folds[0] = -1  # the only row of its class
    grid = probes.KINDS[kind].grid
    for fold, (out, fitted) in enumerate(probes.KINDS[kind].fit_folds(X, y, grid, folds)):
        assert out.tolist() == (folds == fold).tolist()
        for (one, _), (other, _) in zip(fitted, probes.KINDS[kind].fit_path(X[~out], y[~out], grid), strict=True):
            scores = probes.decision_scores(one, X[out]), probes.decision_scores(other, X[out])
            np.testing.assert_allclose(*scores, rtol=1e-7, atol=1e-8)
    assert fold == kinds.FOLDS - 1


@pytest.mark.slow
@pytest.mark.parametrize("kind", OF_VECTORS)
def test_a_memory_map_gives_what_memory_gives(kind, tmp_path):
    rng = np.random.default_rng(0)
    y = np.arange(120) % 3
    X = (rng.normal(size=(120, 9)) + np.eye(3, 9)[y]).astype(np.float32)
    np.save(tmp_path / "X.npy", X)
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    for train, select in ((slice(None), None), (slice(80), slice(80, None))):
        one, other = (
            probes.fit(kind, of[train], y[train], *(() if select is None else (of[select], y[select])), keep=of is X)
            for of in (X, mapped)
        )
        assert other.chosen == one.chosen
        assert other.temperature == pytest.approx(one.temperature, rel=1e-3)
        scores = probes.decision_scores(other.estimator, mapped), probes.decision_scores(one.estimator, X)
        np.testing.assert_allclose(*scores, atol=2e-3 * np.abs(scores[1]).max())
