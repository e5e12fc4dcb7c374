"""Exact neighbours among many rows: what scikit-learn finds, whatever the blocks."""

import tracemalloc

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from featurepipe.statistics import Index, indexes


@pytest.mark.parametrize(("queries", "rows"), [(1, 1), (3, 7), (64, 1000)])
@pytest.mark.parametrize("k", [1, 6, 40])
def test_the_blocks_do_not_matter(monkeypatch, queries, rows, k):
    monkeypatch.setattr(indexes, "QUERIES", queries)
    monkeypatch.setattr(indexes, "ROWS", rows)
    rng = np.random.default_rng(0)
    X, Q = rng.normal(size=(40, 5)).astype(np.float32), rng.normal(size=(9, 5))
    far, near = NearestNeighbors(n_neighbors=k, metric="cosine", algorithm="brute").fit(X).kneighbors(Q)
    distances, found = Index(X).search(Q, k)
    assert found.tolist() == near.tolist()
    np.testing.assert_allclose(distances, far, atol=1e-15)


def test_what_float32_cannot_tell_apart_is_told_apart():
    rng = np.random.default_rng(0)
    X = (np.array([1.0, 0, 0]) + 1e-7 * rng.normal(size=(500, 3))).astype(np.float32)
    Q = X[:20].astype(np.float64)
    exact = (
        1
        - (Q / np.linalg.norm(Q, axis=1)[:, None])
        @ (X.astype(float) / np.linalg.norm(X.astype(float), axis=1)[:, None]).T
    )
    distances, _ = Index(X).search(Q, 5)
    np.testing.assert_allclose(distances, np.sort(np.maximum(exact, 0), axis=1)[:, :5], atol=1e-15)


def test_of_equally_near_rows_the_first_come_first(monkeypatch):
    monkeypatch.setattr(indexes, "ROWS", 3)
    X = np.tile(np.array([[1, 2]], np.float32), (8, 1))
    distances, rows = Index(X).search(np.array([[1.0, 2]]), 4)
    assert rows.tolist() == [[0, 1, 2, 3]]
    assert distances == pytest.approx(0, abs=1e-15)


def test_rows_and_queries_of_zeros_are_at_distance_one():
    X = np.array([[0, 0], [1, 0]], np.float32)
    distances, rows = Index(X).search(np.array([[1.0, 0], [0, 0]]), 2)
    assert (distances.tolist(), rows.tolist()) == ([[0, 1], [1, 1]], [[1, 0], [0, 1]])


def test_memory_is_that_of_a_block(monkeypatch):
    monkeypatch.setattr(indexes, "QUERIES", 64)
    monkeypatch.setattr(indexes, "ROWS", 256)
    monkeypatch.setattr(indexes, "NUMBERS", 1024)
    peaks = []
    for rows in (2000, 16000):
        X = np.random.default_rng(0).normal(size=(rows, 8)).astype(np.float32)
        index = Index(X)
        tracemalloc.start()
        index.search(X[:256], 5)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0] < 2e6  # 256 × 16,000 similarities would be 16 MB
