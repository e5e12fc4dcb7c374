"""Approximate neighbours: their distances are exact, and few are missed; faiss is needed, and said to be."""

import pickle
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from featurepipe.errors import DependencyMissing
from featurepipe.statistics import ApproximateIndex, Index, approximations


def rows(count, seed=0, width=24):
    """Features as of a network: none negative, a few of them large, so that all directions are much alike."""
    rng = np.random.default_rng(seed)
    return np.abs(rng.normal(size=(count, width)) * np.linspace(1, 0.1, width) + 1).astype(np.float32)


def test_without_faiss_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(DependencyMissing, match=r"pip install 'featurepipe\[faiss\]'"):
        ApproximateIndex(rows(10))


@pytest.fixture(scope="module")
def index():
    pytest.importorskip("faiss")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(approximations, "FEWEST", 4000)
        return ApproximateIndex(rows(6000))


@pytest.mark.parametrize("k", [1, 20])
def test_it_finds_what_it_says_it_finds(index, k):
    queries = rows(400, 1).astype(float)
    distances, found = index.search(queries, k)
    true, nearest = Index(index.exact.rows).search(queries, k)
    recall, shares = index.recall(k), [np.isin(*pair).mean() for pair in zip(nearest, found, strict=True)]
    assert recall.share >= 0.98
    assert np.mean(shares) == pytest.approx(recall.share, abs=0.02)
    assert recall.probed <= recall.lists == 77
    same = nearest == found
    np.testing.assert_array_equal(distances[same], true[same])  # to the last bit, as the rows themselves are compared


def test_equal_seeds_find_equal_neighbours(index, monkeypatch):
    monkeypatch.setattr(approximations, "FEWEST", 4000)
    queries = rows(50, 1).astype(float)
    again = ApproximateIndex(rows(6000)).search(queries, 5)
    copied = pickle.loads(pickle.dumps(index)).search(queries, 5)
    for one, other, third in zip(index.search(queries, 5), again, copied, strict=True):
        np.testing.assert_array_equal(one, other)
        np.testing.assert_array_equal(one, third)


def test_numbers_of_numpy_and_several_threads_ask_alike(index, monkeypatch):
    monkeypatch.setattr(approximations, "FEWEST", 4000)
    queries, other = rows(200, 1).astype(float), ApproximateIndex(rows(6000), np.int64(0))
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda k: other.search(queries, np.int64(k)), [5, 40, 5, 40, 5, 40]))
    for k, (_, found) in zip([5, 40] * 3, answers, strict=True):
        np.testing.assert_array_equal(found, index.search(queries, k)[1])


def test_few_rows_and_many_neighbours_are_compared_in_full(index):
    queries = rows(20, 1).astype(float)
    small = ApproximateIndex(rows(50))
    assert small.recall(3) is None
    np.testing.assert_array_equal(small.search(queries, 3)[1], Index(rows(50)).search(queries, 3)[1])
    assert index.recall(3000) is None
    np.testing.assert_array_equal(index.search(queries, 3000)[1], index.exact.search(queries, 3000)[1])


def test_a_goal_that_is_missed_means_an_exact_search(monkeypatch):
    pytest.importorskip("faiss")
    monkeypatch.setattr(approximations, "FEWEST", 400)
    monkeypatch.setattr(approximations, "GOAL", 1.1)
    index, queries = ApproximateIndex(rows(2000)), rows(20, 1).astype(float)
    assert index.recall(3) is None
    np.testing.assert_array_equal(index.search(queries, 3)[1], index.exact.search(queries, 3)[1])


def test_where_the_lists_hold_too_few_all_rows_are_compared(index):
    queries = rows(20, 1).astype(float)
    distances, found = index._search(queries, 500, 1, 1000)  # a list has 78 rows
    np.testing.assert_array_equal(found, index.exact.search(queries, 500)[1])
    assert np.isfinite(distances).all()
