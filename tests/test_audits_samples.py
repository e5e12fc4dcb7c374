"""Checks of single samples and classes: labels, outliers, odd images, small classes."""

from types import SimpleNamespace

import numpy as np
import pytest
from test_audits_evidence import blobs, matrix

from featurepipe.audits import Evidence, Pictures, Unknown
from featurepipe.audits.balance import small_classes
from featurepipe.audits.labels import confident_classes, suspicious_labels
from featurepipe.audits.oddities import odd_images
from featurepipe.audits.outliers import outliers


def test_flipped_labels_are_found_with_what_they_were():
    X, y = blobs(per_class=40)
    true = list(y)
    for n in (3, 45, 90):
        y[n] = "c0" if y[n] != "c0" else "c2"
    found = list(suspicious_labels(Evidence(matrix(X, y))))
    assert {one.rows: one.label for one in found} == {(n,): true[n] for n in (3, 45, 90)}
    assert all(0.5 < one.score <= 1 for one in found)
    assert "looks like c" in found[0].reason


def test_no_label_is_suspicious_where_none_is_wrong():
    assert not list(suspicious_labels(Evidence(matrix(*blobs()))))


def test_confident_learning_counts_as_the_article_does():
    """Example 1 has 0.4 for its own class, and the threshold of the other is 0.7 (Northcutt et al., section 3)."""
    probabilities = np.array([[0.9, 0.1], [0.25, 0.75], [0.4, 0.6], [0.2, 0.8]])
    codes = np.array([0, 0, 1, 1])  # thresholds: 0.575 and 0.7
    assert confident_classes(probabilities, codes).tolist() == [0, 1, -1, 1]


def test_confident_learning_agrees_with_cleanlab():
    count = pytest.importorskip("cleanlab.count")
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.ones(4) / 2, 500)
    codes = np.array([rng.choice(4, p=0.7 * row + 0.075) for row in probabilities])
    _, wanted = count.compute_confident_joint(codes, probabilities, return_indices_of_off_diagonals=True)
    found = confident_classes(probabilities, codes)
    assert np.flatnonzero((found >= 0) & (found != codes)).tolist() == sorted(wanted)


def test_what_is_far_from_everything_is_an_outlier_and_a_wrong_label_is_none():
    rng = np.random.default_rng(0)
    X = np.eye(64)[np.repeat([0, 1], 40)] + 0.05 * rng.normal(size=(80, 64))
    X[5] = rng.normal(size=64)
    y = ["a"] * 40 + ["b"] * 40
    y[50] = "a"
    (found,) = outliers(Evidence(matrix(X, y)))
    assert found.rows == (5,)
    assert 0.5 < found.score < 1


def test_few_images_have_no_outliers():
    with pytest.raises(Unknown, match="19 images are too few"):
        list(outliers(Evidence(matrix(np.random.default_rng(0).normal(size=(19, 3))))))


def pictures(small, sizes):
    count = len(small)
    return Pictures(
        np.array(sizes), np.full(count, 1000), np.asarray(small, np.uint8), np.zeros((count, 4, 8), np.uint8)
    )


def test_odd_images_are_told_from_others():
    small = np.random.default_rng(0).integers(40, 220, (12, 32, 32, 3))
    small[0] = (200, 30, 90)  # one colour
    small[1] //= 40  # nearly black
    small[2] = 250 + small[2] // 44
    sizes = [(100, 80)] * 12
    sizes[3], sizes[4] = (20, 16), (1200, 100)
    found = [(one.kind, one.rows) for one in odd_images(Evidence(matrix(np.eye(12)), pictures(small, sizes)))]
    assert ("blank images", (0,)) in found
    assert ("dark images", (1,)) in found
    assert ("overexposed images", (2,)) in found
    assert ("tiny images", (3,)) in found
    assert ("oddly shaped images", (4,)) in found
    assert {row for _, rows in found for row in rows} == {0, 1, 2, 3, 4}


def test_small_classes_are_those_below_a_tenth_of_the_largest():
    y = ["a"] * 41 + ["b"] * 4 + ["c"] * 5
    (found,) = small_classes(SimpleNamespace(samples=matrix(np.zeros((50, 1)), y), labelled=np.arange(50)))
    assert found.rows == (41, 42, 43, 44)
    assert found.reason == "b has 4 images, a has 41"
