"""Exact neighbours by cosine: of rows among each other, and of queries among pieces."""

import numpy as np
from sklearn.neighbors import NearestNeighbors

from featurepipe.statistics import directions, search


def test_search_is_scikit_learns_whatever_the_pieces():
    rng = np.random.default_rng(0)
    X, Q = rng.normal(size=(50, 6)), rng.normal(size=(4, 6))
    far, rows = NearestNeighbors(n_neighbors=7, metric="cosine").fit(X).kneighbors(Q)
    for size in (1, 13, 50):
        found = search(Q, (X[start : start + size] for start in range(0, 50, size)), 7)
        assert found.rows.tolist() == rows.tolist()
        np.testing.assert_allclose(found.distances, far, atol=1e-6)


def test_search_gives_all_there_are_and_equal_ones_in_their_order():
    X = np.tile([[1.0, 2.0]], (5, 1))
    assert search(X[:1], [X[:3], X[3:]], 9).rows.tolist() == [[0, 1, 2, 3, 4]]


def test_a_row_of_zeros_has_no_direction():
    assert directions(np.array([[0.0, 0], [3, 4]])).tolist() == [[0, 0], [np.float32(0.6), np.float32(0.8)]]
