"""The one pass: whatever the chunks, the same counts, sums and X'X as from the whole matrix, and in bounded memory."""

import tracemalloc

import numpy as np
import pytest

from featurepipe import matrices
from featurepipe.backbones import Pixels
from featurepipe.errors import ProbeError
from featurepipe.manifests import Sample
from featurepipe.sources import Files
from featurepipe.statistics import gather, ridge_path
from featurepipe.stores import Row, Store, Writer

CLASSES = np.array(["ant", "bee", "cow"])


def sample(n=200, width=6, mean=3.0, seed=0, dtype=np.float32):
    """X, y and folds of −1 to 2."""
    rng = np.random.default_rng(seed)
    X = rng.normal(mean, rng.uniform(0.1, 5, width), (n, width)).astype(dtype)
    return X, CLASSES[rng.integers(0, 3, n)], rng.integers(-1, 3, n)


def cut(X, y, folds, *sizes):
    bounds = np.cumsum(sizes)
    return list(zip(np.split(X, bounds), np.split(y, bounds), np.split(folds, bounds), strict=True))


def assert_same(one, other, rtol=1e-12):
    """Equal but for rounding, about whatever shift."""
    np.testing.assert_array_equal(one.counts, other.counts)
    np.testing.assert_allclose(one.mean, other.mean, rtol)
    np.testing.assert_allclose(one.class_means, other.class_means, rtol)
    for of in ("scatter", "within_scatter"):
        a, b = getattr(one, of)(), getattr(other, of)()
        np.testing.assert_allclose(a, b, rtol, rtol * np.abs(a).max())


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_every_part_is_what_the_whole_matrix_gives(dtype):
    X, y, folds = sample(dtype=dtype)
    found = gather(cut(X, y, folds, 50, 51), CLASSES[::-1], folds=3)
    assert (found.folds, found.rows, found.width) == (3, 200, 6)
    assert found.classes.tolist() == CLASSES.tolist()
    Z = X.astype(np.float64) - found.shift
    for part, fold in enumerate([0, 1, 2, -1]):
        np.testing.assert_allclose(found.grams[part], Z[folds == fold].T @ Z[folds == fold], 1e-12, 1e-9)
        for code, label in enumerate(CLASSES):
            mine = (folds == fold) & (y == label)
            assert found.counts[part, code] == mine.sum()
            np.testing.assert_allclose(found.sums[part, code], Z[mine].sum(axis=0), 1e-12, 1e-11)


def test_what_follows_from_them():
    X, y, folds = sample(dtype=np.float64)
    found = gather([(X, y, folds)], CLASSES, folds=3)
    np.testing.assert_allclose(found.mean, X.mean(axis=0), 1e-13)
    np.testing.assert_allclose(found.class_means, [X[y == c].mean(axis=0) for c in CLASSES], 1e-13)
    np.testing.assert_allclose(found.scatter() / 200, np.cov(X.T, bias=True), 1e-12, 1e-12)
    within = sum(np.cov(X[y == c].T, bias=True) * (y == c).sum() for c in CLASSES)
    np.testing.assert_allclose(found.within_scatter(), within, 1e-12, 1e-10)
    np.testing.assert_allclose(found.variances(), X.var(axis=0), 1e-12)


def test_chunks_make_no_difference():
    X, y, folds = sample()
    how = {"folds": 3, "block_bytes": 8 * 6 * 32}  # blocks of 32 rows
    whole = gather([(X, y, folds)], CLASSES, **how)
    for sizes in [(1,), (32, 32), (31, 1, 0, 100), (7,) * 28]:
        other = gather(cut(X, y, folds, *sizes), CLASSES, **how)
        for of in ("shift", "counts", "sums", "grams"):
            assert getattr(other, of).tobytes() == getattr(whole, of).tobytes()


def test_neither_the_order_nor_the_size_of_blocks_matters():
    X, y, folds = sample(mean=100)
    one = gather([(X, y, folds)], CLASSES, folds=3)
    order = np.argsort(X[:, 0])  # the first rows are then nothing like the others
    other = gather([(X[order], y[order], folds[order])], CLASSES, folds=3, block_bytes=8 * 6 * 8)
    assert np.abs(one.shift - other.shift).max() > 1
    assert_same(one, other)
    for fold in range(3):
        assert_same(one.without(fold), other.without(fold))


def test_a_large_mean_costs_no_digits():
    X, y, _ = sample(2000, mean=1e6)
    found = gather([(X[i : i + 100], y[i : i + 100]) for i in range(0, 2000, 100)], CLASSES)
    Z = X.astype(np.float64) - X.astype(np.float64).mean(axis=0)
    truth = Z.T @ Z
    assert np.abs(found.scatter() - truth).max() < 1e-12 * truth.max()
    W = X.astype(np.float64)
    about_zero = W.T @ W - np.outer(W.sum(axis=0), W.sum(axis=0)) / 2000
    assert np.abs(about_zero - truth).max() > 1e-6 * truth.max()  # what the shift is for


def test_folds_are_those_rows_alone():
    X, y, folds = sample()
    found = gather([(X, y, folds)], CLASSES, folds=3)
    assert_same(found.total(), gather([(X, y)], CLASSES))
    for fold in range(3):
        assert_same(found.without(fold), gather([(X[folds != fold], y[folds != fold])], CLASSES))
        assert_same(found.only(fold), gather([(X[folds == fold], y[folds == fold])], CLASSES))
        assert found.only(fold).folds == 0
    for fold in (-1, 3):
        with pytest.raises(ProbeError, match=f"no fold {fold}; these statistics have 3"):
            found.without(fold)


def test_a_feature_that_varies_in_the_fold_held_out_only_is_constant_in_the_others():
    rng = np.random.default_rng(0)
    X, y, folds = rng.normal(size=(1203, 24)), np.arange(1203) % 3, np.arange(1203) % 5
    X[:, 4:] = 0
    X[5 * np.arange(20), 4 + np.arange(20)] = rng.random(20)  # each fires in one row of fold 0
    found = gather([(X, y, folds)], range(3), folds=5)
    assert found.without(0).constant().tolist() == [False] * 4 + [True] * 20
    assert not found.without(1).constant().any()
    one, other = (
        ridge_path(of, [1.0], scale=True)[0]
        for of in (found.without(0), gather([(X[folds > 0], y[folds > 0])], range(3)))
    )
    np.testing.assert_allclose(one.decision_function(X), other.decision_function(X), atol=1e-9)


def test_a_feature_that_is_constant_is_told_from_one_that_hardly_varies():
    rng = np.random.default_rng(0)
    X = np.stack([np.full(500, 0.1), np.full(500, 1e8 / 3), 0.1 + 1e-6 * rng.normal(size=500), np.zeros(500)], axis=1)
    found = gather([(X, np.zeros(500, int))], [0])
    assert found.constant().tolist() == [True, True, False, True]
    np.testing.assert_allclose(found.deviations(), [1, 1, X[:, 2].std(), 1], 1e-6)
    np.testing.assert_allclose(found.scales(), [np.inf, np.inf, X[:, 2].std(), np.inf], 1e-6)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_rows():
    def chunks():
        for seed in range(150):
            yield sample(1000, 32, seed=seed)[:2]  # 19 MB in all

    tracemalloc.start()
    try:
        assert gather(chunks(), CLASSES, block_bytes=2**18).rows == 150_000
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2e6


@pytest.mark.slow
def test_a_store_streamed_is_the_store_loaded(tmp_path):
    pixels, rng = Pixels(), np.random.default_rng(0)
    store = Store.create(tmp_path / "a.store")
    writer = Writer(store.entry(pixels), {"name": "pixels", "source": pixels.source}, 5)
    for n in range(23):
        writer.append([f"{n:064x}"], rng.normal(size=(1, pixels.width)).astype(np.float32), {})
    writer.commit()
    order = [*rng.permutation(23), 4, 4, 9]  # some pictures stand in the data set several times
    rows = [Row(Sample(f"{i:02}", f"{i:02}", CLASSES[n % 3], None), f"{n:064x}") for i, n in enumerate(order)]
    store.write_rows(Files(str(store.path)), rows)
    entry = store.entry(pixels)
    matrix = matrices.load(store, entry)
    loaded = gather([(matrix.X, matrix.y)], CLASSES)
    streamed = gather(((piece.X, piece.y) for piece in matrices.stream(store, entry)), CLASSES)
    assert loaded.rows == 26
    assert_same(loaded, streamed, 1e-11)


def with_value(value):
    X, y, folds = sample()
    X[130, 4] = value
    return cut(X, y, folds, 100)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_name_their_row(value):
    with pytest.raises(ProbeError, match=rf"row 130 has {value} in feature 4; .*featurepipe verify"):
        gather(with_value(value), CLASSES, folds=3, block_bytes=8 * 6 * 64)


X, Y, FOLDS = sample(4)


@pytest.mark.parametrize(
    ("chunks", "message"),
    [
        ([], "there are no rows"),
        ([(X[:0], Y[:0])], "there are no rows"),
        ([(X, Y), (X[:, :3], Y)], "row 4 has 3 features, those before have 6"),
        ([(X, Y[:3])], r"rows from 0 on: features float32 \(4, 6\) and labels \(3,\)"),
        ([(X, Y), (X[0], Y)], r"rows from 4 on: features float32 \(6,\)"),
        ([(X[:, :0], Y)], r"features float32 \(4, 0\)"),
        ([(X.astype(str), Y)], "give numbers"),
        ([(X, Y), (X, ["ant", None, "bee", "cow"])], "row 5 has no label"),
        ([(X, ["ant", "bee", "dog", "cow"])], "row 2 has the label 'dog', which is not among the 3 classes"),
        ([(X, Y, [0, 1, 2, 0])], "row 2 is in fold 2; there are 2, from 0"),
        ([(X, Y, [0, 1, -2, 0])], "row 2 is in fold -2"),
        ([(X, Y, [0, 1])], r"folds int64 \(2,\); give whole numbers \(4,\)"),
        ([(X, Y, [0.0, 1, 1, 0])], "folds float64"),
    ],
)
def test_bad_input_is_one_line_that_says_which(chunks, message):
    with pytest.raises(ProbeError, match=message) as caught:
        gather(chunks, CLASSES, folds=2)
    assert "\n" not in str(caught.value)


def test_no_label_is_not_a_class():
    with pytest.raises(ProbeError, match="leave out rows that have no label"):
        gather([(X, Y)], np.array(["ant", None], object))


def test_a_classifier_needs_two_classes_with_rows():
    found = gather([(X, ["bee"] * 4)], CLASSES)
    with pytest.raises(ProbeError, match="only class 'bee' has rows"):
        found.for_classifier()
    assert np.isnan(found.class_means[[0, 2]]).all()
    two = gather([(X, ["bee", "cow", "cow", "bee"])], CLASSES).for_classifier()
    assert two.classes.tolist() == ["bee", "cow"]
    assert two.class_counts.tolist() == [2, 2]
