"""What checks know: contents, neighbours, labels and answers, and what they say where that is missing."""

import numpy as np
import pytest

from featurepipe.audits import CHECKS, Checked, Evidence, Unknown, check
from featurepipe.matrices import FeatureMatrix
from featurepipe.statistics.neighbours import BLOCK, nearest


def matrix(X, y=None, split=None, digests=None, groups=None):
    """A feature matrix of rows, each a content of its own unless digests say otherwise."""
    X = np.asarray(X, np.float32)

    def column(values, default):
        array = np.empty(len(X), object)
        array[:] = list(default) if values is None else list(values)
        return array

    names = [f"{n:04}" for n in range(len(X))]
    ids = column([f"a/{name}.png" for name in names], names)
    none = [None] * len(X)
    return FeatureMatrix(
        ids=ids,
        X=X,
        y=column(y, none),
        split=column(split, none),
        digests=column(digests, names),
        groups=None if groups is None else column(groups, none),
    )


def blobs(per_class=30, classes=3, width=8, seed=0):
    """Rows around a centre for each class, and their labels."""
    y = np.repeat(np.arange(classes), per_class)
    return 6 * np.eye(width)[y] + np.random.default_rng(seed).normal(size=(len(y), width)), [f"c{n}" for n in y]


def test_contents_and_their_copies_are_in_the_order_of_the_samples():
    evidence = Evidence(matrix(np.eye(5), digests=["b", "a", "b", "c", "a"]))
    assert evidence.contents.tolist() == [0, 1, 3]
    assert [rows.tolist() for rows in evidence.copies] == [[0, 2], [1, 4], [3]]
    assert evidence.rows_of(np.array([0, 1])).tolist() == [0, 1, 2, 4]


def test_neighbours_are_those_of_all_pairs():
    X = np.random.default_rng(0).normal(size=(300, 6))
    found = nearest(X, 5)
    Z = X / np.linalg.norm(X, axis=1, keepdims=True)
    far = 1 - Z @ Z.T
    np.fill_diagonal(far, np.inf)
    assert (found.rows == np.argsort(far, axis=1)[:, :5]).all()
    np.testing.assert_allclose(found.distances, np.sort(far, axis=1)[:, :5], atol=1e-6)


def test_neighbours_are_the_same_however_large_a_block_is(monkeypatch):
    X = np.random.default_rng(1).normal(size=(50, 4))
    whole = nearest(X, 3)
    assert len(X) < BLOCK
    monkeypatch.setattr("featurepipe.statistics.neighbours.BLOCK", 7)
    parts = nearest(X, 3)
    assert (parts.rows == whole.rows).all()
    np.testing.assert_allclose(parts.distances, whole.distances, atol=1e-6)


@pytest.mark.parametrize(
    ("y", "why"),
    [
        (["a;b", "a", ";", "b"], "labels are sets, such as 'a;b'"),
        ([None] * 4, "there are fewer than two classes"),
        (["a", "a", None, "a"], "there are fewer than two classes"),
    ],
)
def test_a_check_that_cannot_tell_says_why(y, why):
    with pytest.raises(Unknown, match=why):
        _ = Evidence(matrix(np.eye(4), y)).labelled


def test_answers_are_of_probes_that_know_neither_the_row_nor_its_group():
    """Every second row is a copy of the one before, under another label; alone, each would be recognised."""
    X = np.repeat(np.random.default_rng(0).normal(size=(40, 200)), 2, axis=0)
    y = ["a", "b"] * 40
    apart = Evidence(matrix(X, y, groups=np.repeat([f"g{n}" for n in range(40)], 2)))
    assert abs(apart.answers.right.mean() - 0.5) < 0.25
    assert len(apart.answers.rows) == 80


def test_all_checks_are_done_and_those_that_cannot_tell_are_skipped():
    X, y = blobs()
    found = check(Evidence(matrix(X, y), unseen="nobody looked"))
    assert list(found) == list(CHECKS)
    assert {name for name, one in found.items() if one.skipped} == {"odd-images", "shortcuts"}
    assert found["odd-images"] == Checked([], "nobody looked")
    assert not any(one.findings for one in found.values())


def test_a_new_check_is_a_function():
    def empty_names(evidence):
        raise Unknown("names are not known")

    assert check(Evidence(matrix(np.eye(3))), {"names": empty_names}) == {"names": Checked([], "names are not known")}
