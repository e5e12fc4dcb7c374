"""A probe as a linear layer, and back."""

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression

from featurepipe import probes
from featurepipe.errors import FinetuningError
from featurepipe.finetuning import LINEAR, gentle_strength, head_estimator, linear_head, random_head

LETTERS = np.array([f"c{number:02}" for number in range(12)])


def data(classes, rows=120, width=16, shift=30.0):
    """Embeddings far from zero, of features of unlike sizes, as networks give them."""
    rng, y = np.random.default_rng(classes), np.arange(rows) % classes
    X = rng.normal(0, 1, (rows, width)) + 2 * np.random.default_rng(7).normal(0, 1, (classes, width))[y]
    return (X * np.geomspace(0.1, 10, width) + shift).astype(np.float32), LETTERS[y].astype(object)


def logits(head, X):
    weight, bias = head
    assert (weight.dtype, bias.dtype) == (np.float32, np.float32)
    return X @ weight.T + bias


@pytest.mark.parametrize("classes", [2, 12])
@pytest.mark.parametrize("kind", LINEAR)
def test_the_softmax_of_a_head_is_the_probes_probabilities(kind, classes):
    X, y = data(classes)
    probe = probes.fit(kind, X[:80], y[:80], X[80:], y[80:])
    found = logits(linear_head(kind, probe.estimator, probe.temperature), X)
    np.testing.assert_allclose(softmax(found, axis=1), probe.predict_proba(X), atol=1e-4)
    if kind == "logistic":
        scores = probe.estimator.decision_function(X)
        wanted = (np.stack([-scores / 2, scores / 2], axis=1) if classes == 2 else scores) / probe.temperature
        np.testing.assert_allclose(found, wanted, atol=1e-4 * max(1, np.abs(wanted).max()))
    assert probe.temperature != 1


@pytest.mark.parametrize("shift", [-300.0, 0.0, 300.0])  # which decides the intercepts
@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("kind", LINEAR)
def test_a_class_that_the_probe_has_not_seen_is_never_the_first(kind, classes, shift):
    X, y = data(classes, shift=shift)
    probe = probes.fit(kind, X, y)
    known, every = probe.classes.tolist(), ["a new one", *probe.classes.tolist(), "zebra"]
    found = logits(linear_head(kind, probe.estimator, probe.temperature, every), X).astype(np.float64)
    mean = found[:, 1:-1].mean(axis=1)
    np.testing.assert_allclose(found[:, [0, -1]] - mean[:, None], -10, atol=1e-2)
    found = softmax(found, axis=1)
    assert found[:, [0, -1]].max() < 1e-4
    np.testing.assert_allclose(found[:, 1:-1], probe.predict_proba(X), atol=2e-3)
    assert [every[i] for i in found.argmax(axis=1)] == [known[i] for i in probe.predict_proba(X).argmax(axis=1)]


def test_classes_are_compared_as_text_in_whatever_order():
    X, y = data(12, shift=0.0)
    estimator = LogisticRegression(max_iter=9999).fit(X, np.searchsorted(LETTERS, y.astype(str)))
    wanted = [str(number) for number in range(12)][::-1]
    found = logits(linear_head("logistic", estimator, 1.0, wanted), X)
    np.testing.assert_allclose(found[:, ::-1], estimator.decision_function(X), atol=1e-3)


def test_a_class_of_the_probe_may_not_be_left_out():
    estimator = LogisticRegression(max_iter=9999).fit(*data(3, shift=0.0))
    with pytest.raises(FinetuningError, match="class 'c02' is missing from the classes to tune for"):
        linear_head("logistic", estimator, 1.0, ["c00", "c01"])


@pytest.mark.parametrize("kind", ["knn", "mlp", "centroid", "multi-label"])
def test_what_is_not_linear_has_no_head(kind):
    with pytest.raises(FinetuningError, match=f"a probe of kind {kind} has no linear head"):
        linear_head(kind, None)


@pytest.mark.parametrize("classes", [2, 12])
def test_a_layer_becomes_an_estimator_of_the_same_probabilities(classes):
    rng = np.random.default_rng(0)
    weight, bias, X = rng.normal(size=(classes, 5)), rng.normal(size=classes), rng.normal(size=(40, 5))
    estimator = head_estimator(weight, bias, LETTERS[:classes], 0.5)
    wanted = softmax(X @ weight.T + bias, axis=1)
    np.testing.assert_allclose(probes.probabilities(estimator, X), wanted, atol=1e-12)
    np.testing.assert_allclose(estimator.predict_proba(X), wanted, atol=1e-12)
    assert estimator.predict(X).tolist() == LETTERS[wanted.argmax(axis=1)].tolist()
    assert (estimator.C, estimator.n_features_in_) == (0.5, 5)


def test_a_random_head_is_small_and_its_seed_decides_it():
    weight, bias = random_head(4, 9, seed=1)
    assert (weight.shape, bias.tolist()) == ((4, 9), [0, 0, 0, 0])
    assert 0 < np.abs(weight).max() < 0.1
    np.testing.assert_array_equal(weight, random_head(4, 9, seed=1)[0])
    assert (weight != random_head(4, 9, seed=2)[0]).all()


@pytest.mark.parametrize(
    ("tied", "wanted"),
    [
        ([False, True, True, True], 0.01),
        ([False, False, True, True], 0.1),
        ([True, True, True, True], 0.001),
        ([True, False, False, True], 0.001),
        ([False, False, False, True], 1.0),
    ],
)
def test_tuning_starts_from_the_most_regularised_probe_that_is_good_enough(tied, wanted):
    path = [{"C": C, "top1": 0.8, "tied": stays} for C, stays in zip((0.001, 0.01, 0.1, 1.0), tied, strict=True)]
    assert gentle_strength(probes.Probe("logistic", None, 1.0, 1.0, "val", path, {"n": 100})) == wanted


def test_that_probe_is_one_of_those_that_selection_data_cannot_tell_apart():
    probe = probes.fit("logistic", *data(3))
    assert gentle_strength(probe) == min(step["C"] for step in probe.path if step["tied"]) < probe.chosen


@pytest.mark.parametrize(
    ("kind", "path", "scores"),
    [
        ("ridge", [{"alpha": 1.0, "top1": 0.9, "tied": True}, {"alpha": 10.0, "top1": 0.9, "tied": True}], {"n": 10}),
        ("logistic", [], {}),
        ("logistic", [{"C": 0.1, "top1": 1.0}], {"n": 100}),  # a model file of 0.1.0 does not say what is tied
    ],
)
def test_other_probes_and_those_that_say_too_little_keep_their_strength(kind, path, scores):
    assert gentle_strength(probes.Probe(kind, None, 1.0, 5.0, "val", path, scores)) == 5.0


def test_the_path_of_another_kind_of_probe_says_nothing_of_C():
    path = [{"alpha": 1.0, "tied": True}, {"alpha": 10.0, "tied": True}]
    assert gentle_strength(probes.Probe("logistic", None, 1.0, 0.5, "val", path)) == 0.5
