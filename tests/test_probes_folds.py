"""k-fold accuracy: folds that hold groups together, strengths that know nothing of their fold, and the interval."""

import numpy as np
import pytest

from featurepipe import probes
from featurepipe.errors import ProbeError
from featurepipe.probes.selection import assign_folds
from featurepipe.statistics import bootstrap, wilson


def rows(n=90, width=6, classes=3, spread=1.0, seed=0):
    rng = np.random.default_rng(seed)
    y = np.arange(n) % classes
    return rng.normal(size=(n, width)) + spread * np.eye(classes, width)[y] * 2, y


@pytest.mark.parametrize("kind", ["ridge", "logistic", "knn"])
@pytest.mark.parametrize("folds", [2, 4])
def test_each_fold_is_answered_by_a_probe_of_the_others_alone(kind, folds):
    X, y = rows()
    found = probes.cross_validate(kind, X, y, folds=folds, seed=3)
    place, right = assign_folds(y, 3, None, folds), np.zeros(len(y), bool)
    for fold, one in enumerate(found.figures["per_fold"]):
        out = place == fold
        alone = probes.fit(kind, X[~out], y[~out], seed=3)
        right[out] = probes.predict(alone.estimator, X[out]) == y[out]
        assert one == {"n": out.sum(), "top1": right[out].mean(), "chosen": alone.chosen}
    assert found.figures["top1"] == right.mean()
    assert found.figures["mean"] == pytest.approx(np.mean([right[place == fold].mean() for fold in range(folds)]))
    assert found.figures["interval"] == list(wilson(right.mean(), len(y)))
    assert (found.figures["n"], found.never, found.figures["method"][:6]) == (90, 0, "Wilson")
    assert np.sum(found.figures["confusion"]) == 90


def test_groups_are_never_divided_and_the_interval_is_drawn_over_them():
    X, y = rows(120)
    groups = np.arange(120) // 10
    noise = np.random.default_rng(1).normal(size=(12, 6))[groups] * 4  # what images of a group share
    found = probes.cross_validate("ridge", X + noise, y, folds=4, groups=groups)
    place = assign_folds(y, 0, groups, 4)
    assert all(len(set(place[groups == group])) == 1 for group in range(12))
    assert found.figures["groups"] == 12
    assert found.figures["method"] == "bootstrap over 12 groups"
    low, high = found.figures["interval"]
    assert low < found.figures["top1"] < high
    single, whole = wilson(found.figures["top1"], 120), bootstrap(np.ones(4, bool), np.arange(4))
    assert whole == (1.0, 1.0)
    assert single != (low, high)


def test_copies_stay_together_though_the_interval_is_of_single_samples():
    X, y = rows(60)
    units = np.repeat(np.arange(30), 2)
    X, y = X[::2].repeat(2, axis=0), y[::2].repeat(2)
    found = probes.cross_validate("knn", X, y, folds=3, units=units, value=1)
    loose = probes.cross_validate("knn", X, y, folds=3, value=1)
    assert "groups" not in found.figures
    assert loose.figures["top1"] > found.figures["top1"]  # which met its copies


def test_without_signal_it_promises_nothing():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(200, 50)), np.arange(200) % 2
    found = probes.cross_validate("logistic", X, y, folds=5)
    low, high = found.figures["interval"]
    assert low < 0.5 < high
    assert found.majority <= 0.5


def test_a_class_of_one_sample_is_never_held_out():
    X, y = rows(30)
    y = y.copy()
    y[0] = 7
    found = probes.cross_validate("ridge", X, y, folds=3, value=1.0)
    assert (found.never, found.figures["n"]) == (1, 29)
    assert found.figures["per_class"]["7"]["support"] == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"folds": 1}, "2 or more, or nothing is held out; got 1"),
        ({"folds": "x"}, "folds is a whole number"),
        ({"groups": np.zeros(3)}, "3 groups for 30 rows"),
        ({"units": np.zeros(30)}, "no fold can hold any out"),
    ],
)
def test_folds_that_cannot_be(options, message):
    X, y = rows(30)
    with pytest.raises(ProbeError, match=message):
        probes.cross_validate("ridge", X, y, **options)
