"""Evidence: what is measured of embeddings and labels, on what, and what is not seen."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from featurepipe import advice, probes, statistics
from featurepipe.advice import curves
from featurepipe.errors import ProbeError


def clusters(n=180, classes=3, width=12, apart=3.0, seed=0):
    rng = np.random.default_rng(seed)
    y = np.arange(n) % classes
    return rng.normal(size=(n, width)) + apart * np.eye(width)[y], np.array(["ant", "bee", "cat", "dog"])[y]


@pytest.mark.parametrize(
    ("names", "masked"),
    [
        (["vit_base_patch16_224.mae"], True),
        (["convnextv2_tiny.fcmae"], True),
        (["vit_huge_patch14_gap_224.in1k_ijepa"], True),
        (["eva02_base_patch14_224.mim_in22k"], True),
        (["my backbone", "vit_base_patch16_224.mae"], True),
        (["swin-SimMIM"], True),
        (["convnextv2_tiny.fcmae_ft_in1k"], False),
        (["beit_base_patch16_224.in22k_ft_in22k"], False),
        (["maesters", "vit_small_patch14_dinov2.lvd142m"], False),
        (["resnet50.a1_in1k", "mobilenetv2_100"], False),
        (["vit_base_patch16_224.mae tuned on birds"], False),
        (["resnet50.a1_in1k tuned on mae-beit"], False),
        (["vit_base_patch16_224.mae (tuned)", "vit_base_patch16_224.mae"], False),
    ],
)
def test_masking_is_read_from_whole_words_of_names_and_tags(names, masked):
    assert advice.is_masked(*names) is masked


@pytest.mark.slow
def test_figures_are_those_of_the_houses_probes():
    X, y = clusters(apart=1.5)
    found = advice.measure({"stage1": X[:, :2], "penultimate": X}, y)
    for row, values in zip(found["layers"], (X[:, :2], X), strict=True):
        fitted = probes.fit("ridge", values, y)
        assert (row["top1"], row["log_loss"]) == (fitted.scores["top1"], fitted.scores["log_loss"])
        assert row["logme"] == pytest.approx(statistics.logme(statistics.gather([(values, y)], y)))
    assert found["knn"] == probes.fit("knn", X, y, value=10).scores["top1"]
    assert (found["measured"], found["measured_on"]) == (180, "5-fold cross-validation on train")
    assert found["top1"] == found["layers"][-1]["top1"]
    assert found["baselines"]["chance"] == pytest.approx(1 / 3)
    assert found["baselines"]["stage1"] == probes.fit("knn", X[:, :2], y, value=10).scores["top1"]
    assert json.loads(json.dumps(found, allow_nan=False)) == found


@pytest.mark.slow
def test_selection_data_are_measured_on_and_not_learned_from():
    X, y = clusters(apart=1.5)
    val = np.arange(len(y)) >= 120
    found = advice.measure({"penultimate": X}, y, val=val)
    fitted = probes.fit("ridge", X[~val], y[~val], X[val], y[val])
    assert (found["measured"], found["measured_on"], found["top1"]) == (60, "val", fitted.scores["top1"])
    assert found["labels"]["curve"][-1]["images"] == 120
    other = y.copy()
    other[val] = np.roll(y[val], 1)  # nothing that holds in train holds here
    assert advice.measure({"penultimate": X}, other, val=val)["knn"] < 0.5 < found["knn"]


@pytest.mark.slow
def test_similarity_is_what_neighbours_know_beyond_what_comes_without_pretraining():
    X, y = clusters(apart=6.0)
    noise = np.random.default_rng(1).normal(size=X.shape)
    known, unknown = (advice.measure({"penultimate": values}, y)["similarity"] for values in (X, noise))
    assert known > 0.95
    assert unknown < 0.15
    easy = advice.measure({"penultimate": X}, y, baselines={"raw pixels": clusters(apart=2.0, seed=2)[0]})
    assert easy["baselines"]["raw pixels"] > 0.6
    best = max(easy["baselines"].values())
    assert easy["similarity"] == pytest.approx((easy["knn"] - best) / (1 - best))
    assert advice.measure({"penultimate": X}, y, baselines={"raw pixels": X})["similarity"] == 0


@pytest.mark.slow
def test_an_earlier_layer_counts_only_beyond_chance():
    X, y = clusters(apart=2.0)
    noisy = X + np.random.default_rng(1).normal(size=X.shape) * 3
    assert advice.measure({"stage1": X, "penultimate": noisy}, y)["best_layer"] == "stage1"
    assert advice.measure({"stage1": noisy, "penultimate": X}, y)["best_layer"] == "penultimate"
    assert advice.measure({"stage1": X, "penultimate": X}, y)["best_layer"] == "penultimate"
    slightly = X + np.random.default_rng(1).normal(size=X.shape) * 0.05
    found = advice.measure({"stage1": X, "penultimate": slightly}, y)
    first, last = found["layers"]
    assert last["top1"] <= first["top1"] <= last["top1"] + 2 / len(y)
    assert last["log_loss"] > first["log_loss"]
    assert found["best_layer"] == "penultimate"  # a lower log-loss is no reason
    layers = {"stage1": noisy, "stage2": X, "stage3": slightly, "penultimate": noisy}
    assert advice.measure(layers, y)["best_layer"] == "stage3"  # the latest of those that are as good as the best


@pytest.mark.slow
def test_copies_of_an_image_are_never_on_both_sides():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(60, 30)), np.arange(60) % 2
    twice, labels, groups = np.repeat(X, 3, axis=0), np.repeat(y, 3), np.repeat(np.arange(60), 3)
    apart = advice.measure({"penultimate": twice}, labels, groups=groups)
    leaking = advice.measure({"penultimate": twice}, labels)
    assert apart["knn"] < 0.75 < leaking["knn"]
    assert apart["labels"]["curve"][-1]["error"] > 0.25


@pytest.mark.parametrize(
    ("layers", "y", "message"),
    [
        ({}, ["a", "b"], "no layer"),
        ({"penultimate": np.ones((4, 2))}, ["a"] * 4, "at least two classes"),
        ({"penultimate": np.ones((2, 2))}, ["a", "b"], "one training image"),
        ({"penultimate": np.full((4, 2), np.nan)}, ["a", "a", "b", "b"], "not finite"),
    ],
)
def test_what_cannot_be_measured_is_refused(layers, y, message):
    with pytest.raises(ProbeError, match=message):
        advice.measure(layers, np.array(y))


def test_one_image_per_class_has_no_curve_but_an_advice():
    X, y = clusters(n=63, apart=4.0)
    found = advice.measure({"penultimate": X}, y, val=np.arange(63) >= 3)
    assert found["labels"] is None
    assert advice.decide({**advice.count(y[:3]), **found})["option"] == "linear"


# -- the curve ----------------------------------------------------------------------------------------------------


def test_the_curve_finds_the_law_that_errors_follow(monkeypatch):
    """Errors of exactly 0.1 + 2/√n, by a stand-in for the probe."""
    y, held = np.arange(6400) % 2, np.arange(1600, 6400)

    class Lawful:
        def __init__(self, n):
            self.n = n

        def predict(self, X):
            wrong = np.arange(len(X)) < round((0.1 + 2 / np.sqrt(self.n)) * len(X))
            return np.where(wrong, 1 - y[held], y[held])

    def fit_path(X, labels, alphas):
        return [(Lawful(len(labels)), None) for _ in alphas]

    monkeypatch.setitem(probes.KINDS, "ridge", SimpleNamespace(fit_path=fit_path))
    rounds = [(np.arange(1600), held)] * 3
    found = advice.label_curve(np.zeros((6400, 2)), y, rounds, labels=1600)
    assert [point["images"] for point in found["curve"]] == [400, 800, 1600]
    assert found["floor"] == pytest.approx(0.1, abs=1e-3)
    assert found["per_doubling"] == pytest.approx(2 / np.sqrt(1600) - 2 / np.sqrt(3200), abs=1e-3)
    later = advice.label_curve(np.zeros((6400, 2)), y, rounds, labels=6400)
    assert later["per_doubling"] == pytest.approx(found["per_doubling"] / 2, rel=1e-6)


def test_the_standard_error_shrinks_with_the_images_that_are_measured():
    X, y = clusters(n=2400, width=40, apart=1.2)
    rows = np.arange(200)
    few, many = (
        advice.label_curve(X, y, [(rows, np.arange(200, end))] * 5, labels=200)["standard_error"] for end in (300, 2400)
    )
    assert 0 < many < few / 2


def test_draws_are_stratified_nested_and_seeded():
    y = np.repeat([0, 1, 2], [40, 8, 1])
    train = np.arange(len(y))[::-1]
    quarter, half, whole = curves._draws(train, y, [0, 0])
    assert np.bincount(y[quarter]).tolist() == [10, 2, 1]
    assert np.bincount(y[half]).tolist() == [20, 4, 1]
    assert set(quarter) < set(half) < set(whole) == set(train)
    assert [rows.tolist() for rows in curves._draws(train, y, [0, 0])] == [r.tolist() for r in (quarter, half, whole)]
    assert next(curves._draws(train, y, [0, 1])).tolist() != quarter.tolist()
