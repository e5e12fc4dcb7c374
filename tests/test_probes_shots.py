"""Probes of few labels: which images are drawn, what is said of the draws, and what may decide anything."""

import numpy as np
import pytest
from scipy import stats

from featurepipe import probes
from featurepipe.errors import ProbeError
from featurepipe.probes import shots


def clusters(n=60, width=8, classes=3, *, seed=0, spread=1.5):
    rng = np.random.default_rng(seed)
    y = np.arange(n) % classes
    return np.random.default_rng(99).normal(size=(classes, width))[y] + spread * rng.normal(size=(n, width)), y


def lines_of(one):
    """The figures of the probe, of self-training and of label spreading."""
    return one, *one["semi"].values()


# -- draws --------------------------------------------------------------------------------------------------------


def test_draws_are_seeded_distinct_complete_and_nested():
    y = np.array(list("abc") * 20)
    drawn = [shots.draw(y, 4, seed=[seed, repeat]) for seed, repeat in ((5, 0), (5, 0), (5, 1), (6, 0))]
    assert drawn[0].tolist() == drawn[1].tolist()
    assert drawn[0].tolist() != drawn[2].tolist()
    assert drawn[0].tolist() != drawn[3].tolist()
    for rows in drawn:
        assert len(set(rows.tolist())) == 12
        assert y[rows].tolist() == ["a"] * 4 + ["b"] * 4 + ["c"] * 4
    sizes = (1, 2, 5, 20)
    for repeat in range(5):
        nested = [set(shots.draw(y, size, seed=[0, repeat]).tolist()) for size in sizes]
        assert nested[0] < nested[1] < nested[2] < nested[3] == set(range(60))


def test_every_image_is_drawn_equally_often():
    y = np.repeat([0, 1], 5)
    counts = np.bincount(np.concatenate([shots.draw(y, 2, seed=seed) for seed in range(1000)]), minlength=10)
    assert stats.chisquare(counts).pvalue > 1e-4


def test_copies_are_drawn_together_only_where_nothing_else_is_left():
    y = np.repeat([0, 1], 8)
    groups = np.array([*"aaaabbcd", *"aaaaaaaa"], object)
    for seed in range(50):
        for size in range(1, 9):
            drawn = shots.draw(y, size, groups, seed=seed)
            assert len(set(drawn.tolist())) == 2 * size
            assert len(set(groups[drawn[:size]])) == min(size, 4)
            assert set(shots.draw(y, 1, groups, seed=seed)) <= set(drawn)


def test_the_probe_is_fitted_to_the_draw_and_knows_its_copies():
    X, y = clusters(60, spread=2)
    T, t = clusters(300, spread=2, seed=1)
    groups = np.array([str(number // 6) for number in range(60)], object)  # two of each class are one image

    def top1(rows, seed, groups):
        return float(np.mean(probes.fit("ridge", X[rows], y[rows], groups=groups, seed=seed).estimator.predict(T) == t))

    few = probes.fit_few_shot("ridge", X, y, T, t, shots=[8, 14], repeats=3, groups=groups, seed=7)
    drawn = [[shots.draw(y, size, groups, seed=[7, repeat]) for repeat in range(3)] for size in (8, 14)]
    found = [one["top1"] for one in few]
    assert found == [[top1(rows, 7, groups[rows]) for rows in some] for some in drawn]
    assert found != [[top1(rows, 7, None) for rows in some] for some in drawn]  # copies in several folds
    assert found != [[top1(rows, 8, groups[rows]) for rows in some] for some in drawn]


# -- figures ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("semi", [False, True])
def test_the_figures_are_those_of_the_draws(semi):
    X, y = clusters(90, spread=2)
    few = probes.fit_few_shot("ridge", X, y, X, y, shots=[10, 3], repeats=4, semi=semi)
    assert [(one["shots"], one["labels"], one["repeats"]) for one in few] == [(10, 30, 4), (3, 9, 4)]
    assert all(list(one["semi"]) == (["self_training", "label_spreading"] if semi else []) for one in few)
    for line in [line for one in few for line in lines_of(one)]:
        assert len(line["top1"]) == 4
        assert line["mean"] == pytest.approx(np.mean(line["top1"]))
        assert line["std"] == pytest.approx(np.std(line["top1"], ddof=1))
        assert line["interval"] == probes.mean_interval(line["top1"])
    alone = probes.fit_few_shot("ridge", X, y, X, y, shots=[3], repeats=4, semi=semi)
    assert alone == few[1:]  # whatever else is asked for
    drawn = shots.draw(y, 3, seed=[0, 2])
    by_hand = probes.fit("ridge", X[drawn], y[drawn]).estimator
    assert few[1]["top1"][2] == np.mean(by_hand.predict(X) == y)


@pytest.mark.parametrize("values", [[0.5, 0.6], [0.31, 0.35, 0.4, 0.52], list(np.linspace(0.4, 0.6, 30))])
def test_the_interval_is_scipys(values):
    sem = stats.sem(values)
    expected = stats.t.interval(0.95, len(values) - 1, loc=np.mean(values), scale=sem)
    clipped = np.clip(expected, 0, 1).tolist()
    assert probes.mean_interval(values) == pytest.approx(clipped)


def test_intervals_of_one_of_equal_and_of_extreme_figures():
    assert probes.mean_interval([0.5]) is None
    assert probes.mean_interval([0.5, 0.5, 0.5]) == [0.5, 0.5]
    assert probes.mean_interval([0.0, 1.0]) == [0.0, 1.0]
    X, y = clusters()
    (one,) = probes.fit_few_shot("ridge", X, y, X, y, shots=[1], repeats=1, semi=True)
    assert [line["std"] for line in lines_of(one)] == [None] * 3
    assert [line["interval"] for line in lines_of(one)] == [None] * 3


@pytest.mark.slow
def test_more_labels_help_and_unlabelled_images_help_where_classes_are_clusters():
    X, y = clusters(300, 8, spread=0.3)
    T, t = clusters(300, 8, spread=0.3, seed=1)
    one, ten = probes.fit_few_shot("ridge", X, y, T, t, shots=[1, 10], repeats=10, semi=True)
    assert one["mean"] < ten["mean"]
    assert one["semi"]["label_spreading"]["mean"] > one["mean"]


# -- what may decide ----------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ridge", "centroid"])
def test_no_reported_label_decides_anything(kind):
    X, y = clusters(60, spread=3)
    T, t = clusters(60, spread=3, seed=1)
    turned = [
        probes.fit_few_shot(kind, X, y, T, (t + turn) % 3, shots=[5], repeats=3, semi=True)[0] for turn in range(3)
    ]
    for line in ("self_training", "label_spreading"):
        total = np.sum([one["semi"][line]["top1"] for one in turned], axis=0)
        np.testing.assert_allclose(total, 1)  # the same predictions, whatever the labels say
    np.testing.assert_allclose(np.sum([one["top1"] for one in turned], axis=0), 1)


@pytest.mark.slow
def test_no_reported_image_decides_anothers_class():
    X, y = clusters(60, spread=2)
    T, t = clusters(60, spread=2, seed=1)
    whole = probes.fit_few_shot("ridge", X, y, T, t, shots=[2, 5], repeats=3, semi=True)
    parts = [
        probes.fit_few_shot("ridge", X, y, T[rows], t[rows], shots=[2, 5], repeats=3, semi=True)
        for rows in (slice(None, 20), slice(20, None))
    ]
    for one, first, second in zip(whole, *parts, strict=True):
        lines = (lines_of(one), lines_of(first), lines_of(second))
        for everything, some, others in zip(*lines, strict=True):
            mixed = (np.multiply(some["top1"], 20) + np.multiply(others["top1"], 40)) / 60
            np.testing.assert_allclose(everything["top1"], mixed)


def test_labels_that_were_not_drawn_decide_nothing(monkeypatch):
    X, y = clusters(60, spread=2)
    T, t = clusters(60, spread=2, seed=1)
    drawn = shots.draw(y, 3, seed=0)
    monkeypatch.setattr(shots, "draw", lambda *_, **__: drawn)  # the labels decide about that, at least
    wrong = np.roll(y, 1)
    wrong[drawn] = y[drawn]
    before, after = (
        probes.fit_few_shot("ridge", X, labels, T, t, shots=[3], repeats=1, semi=True) for labels in (y, wrong)
    )
    assert after == before


# -- what cannot be asked -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shots": [5, 21]}, "class 0 has 20 training samples, fewer than 21 shots; ask for at most 20"),
        ({"shots": 5}, r"shots is a list of numbers; give \[5\]"),
        ({"shots": [0]}, "at least 1"),
        ({"shots": [1], "repeats": 0}, "at least 1"),
        ({"shots": [], "semi": True}, "need a number of labels per class"),
    ],
)
def test_impossible_few_shot_requests(options, message):
    X, y = clusters(60)
    with pytest.raises(ProbeError, match=message):
        probes.fit_few_shot("ridge", X, y, X, y, **options)


def test_unknown_classes_and_values_that_are_not_finite():
    X, y = clusters(60)
    with pytest.raises(ProbeError, match="3"):
        probes.fit_few_shot("ridge", X, y, X, y + 1, shots=[1])
    bad = X.copy()
    bad[59, 0] = np.nan  # whether it is drawn or not
    for first, second in ((X, bad), (bad, X)):
        with pytest.raises(ProbeError, match="not finite"):
            probes.fit_few_shot("ridge", first, y, second, y, shots=[1], repeats=1)
    with pytest.raises(ProbeError, match="one class"):
        probes.fit_few_shot("ridge", X, np.zeros(60), X, np.zeros(60), shots=[1])
