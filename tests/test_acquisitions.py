"""What to label next: typical samples without labels, doubtful and different ones with some."""

import numpy as np
import pytest

from featurepipe.acquisitions import ORDERS, Pool, choose, order_for
from featurepipe.errors import ProbeError
from featurepipe.matrices import FeatureMatrix
from featurepipe.vocabulary import names


def blobs(sizes=(40, 30, 20), seed=0):
    """Samples in well separated bunches, and the bunch of each."""
    rng = np.random.default_rng(seed)
    bunch = np.repeat(np.arange(len(sizes)), sizes)
    X = (np.eye(len(sizes), 8)[bunch] * 10 + rng.normal(size=(len(bunch), 8))).astype(np.float32)
    ids = np.array([f"{i:03}" for i in range(len(bunch))], object)
    y = np.array([f"c{i}" for i in bunch], object)
    return FeatureMatrix(ids, X, y, np.full(len(ids), None), ids), bunch


def pool(samples, known=()):
    mask = np.zeros(len(samples), bool)
    mask[list(known)] = True
    return Pool(samples, mask, ~mask)


def test_the_command_line_knows_the_orders():
    assert tuple(ORDERS) == names.ORDERS


def test_without_labels_each_bunch_gives_one_and_the_largest_comes_first():
    samples, bunch = blobs()
    found = choose(pool(samples), 3)
    assert bunch[found.rows].tolist() == [0, 1, 2]
    assert found.labels == [None] * 3
    # typical: nearer to the middle of its bunch than most
    for row in found.rows:
        mine = samples.X[bunch == bunch[row]]
        far = np.linalg.norm(mine - mine.mean(axis=0), axis=1)
        assert np.linalg.norm(samples.X[row] - mine.mean(axis=0)) < np.median(far)


def test_a_bunch_with_a_label_waits():
    samples, bunch = blobs()
    assert set(bunch[choose(pool(samples, [0]), 2).rows].tolist()) == {1, 2}


def test_the_order_follows_from_the_known_classes():
    samples, _ = blobs()
    assert order_for(pool(samples)) == order_for(pool(samples, [0, 1])) == "typical"
    assert order_for(pool(samples, [0, 89])) == "unsure"


def test_doubtful_samples_come_first_and_are_unlike_each_other():
    samples, _ = blobs((30, 30))
    rng = np.random.default_rng(1)
    between = np.zeros((20, 8), np.float32)  # two bunches between the classes, each of near copies
    between[:10, :2], between[10:, :2] = (6, 5), (5, 6)
    between[:10, 3], between[10:, 3] = 4, -4
    between += rng.normal(scale=0.01, size=between.shape).astype(np.float32)
    X = np.concatenate([samples.X, between])
    ids = np.array([str(i) for i in range(len(X))], object)
    y = np.array([*samples.y, *["c0"] * 20], object)
    both = FeatureMatrix(ids, X, y, np.full(len(X), None), ids)
    found = choose(pool(both, [*range(5), *range(30, 35)]), 2)
    assert sorted(row // 10 for row in found.rows.tolist()) == [6, 7]
    assert found.confidences == sorted(found.confidences)
    assert set(found.labels) <= {"c0", "c1"}


@pytest.mark.parametrize("order", ORDERS)
def test_all_are_chosen_once_if_more_are_asked_for_than_there_are(order):
    samples, _ = blobs((8, 7))
    wanted = pool(samples, [0, 14])
    found = choose(wanted, 99, order=order, seed=3)
    assert sorted(found.rows.tolist()) == np.flatnonzero(wanted.free).tolist()


def test_rows_that_are_neither_known_nor_free_are_never_chosen():
    samples, bunch = blobs()
    mask = np.zeros(len(samples), bool)
    assert set(choose(Pool(samples, mask, bunch == 1), 5).rows.tolist()) <= set(np.flatnonzero(bunch == 1).tolist())


def test_the_same_seed_gives_the_same():
    samples, _ = blobs()
    assert (
        choose(pool(samples, [0, 50]), 9, seed=1).rows.tolist()
        == choose(pool(samples, [0, 50]), 9, seed=1).rows.tolist()
    )


def test_an_order_that_cannot_be_is_refused():
    samples, _ = blobs()
    with pytest.raises(ProbeError, match="needs labels of two classes"):
        choose(pool(samples, [0]), 1, order="unsure")
    with pytest.raises(ProbeError, match="'best' is not an order"):
        choose(pool(samples), 1, order="best")
