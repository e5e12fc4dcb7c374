"""Multi-label probes against scikit-learn's own fits, label by label."""

from dataclasses import replace

import numpy as np
import pytest
from scaling import FlooredScaler
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score, hamming_loss, log_loss, precision_recall_curve
from sklearn.multiclass import OneVsRestClassifier
from sklearn.utils.class_weight import compute_sample_weight

from featurepipe import probes
from featurepipe.errors import ProbeError
from featurepipe.manifests import write_set
from featurepipe.probes import labels
from featurepipe.probes.notes import fit_notes
from featurepipe.solvers import LogisticPath

NAMES = np.array(["ant", "bee", "cat"])
GRID = (0.01, 0.1, 1.0, 10.0)


@pytest.fixture
def grid(monkeypatch):
    monkeypatch.setitem(probes.KINDS, "logistic", replace(probes.KINDS["logistic"], grid=GRID))


def data(n=120, width=6, seed=0, noise=1.5):
    """Embeddings and sets of labels: the rarest label is the hardest."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, width)) * np.arange(1, width + 1) + 3
    shift = np.array([0.0, -1.0, -2.0])
    Y = (X[:, :3] - 3) / np.arange(1, 4) + shift + noise * np.arange(3) / 2 * rng.normal(size=(n, 3)) > 0
    return X.astype(np.float32), Y.astype(int)


def sets(Y):
    return np.array([write_set(NAMES[row == 1]) for row in Y], object)


def scikit_learns(X, y, C, weight=None):
    """Its own optimum on standardised features, for raw ones: coefficients and intercept."""
    scaler = FlooredScaler().fit(X.astype(float))
    model = LogisticRegression(C=C, solver="newton-cg", tol=1e-10, max_iter=1000)
    model.fit(scaler.transform(X.astype(float)), y, sample_weight=weight)
    coef = model.coef_[0] / scaler.scale_
    return coef, model.intercept_[0] - coef @ scaler.mean_


# -- the estimator ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("class_weight", [None, "balanced"])
@pytest.mark.parametrize("value", [0.05, 5.0])
def test_every_labels_coefficients_are_scikit_learns(value, class_weight):
    X, Y = data()
    fitted = probes.fit_labels(X, sets(Y), value=value, class_weight=class_weight)
    for i, one in enumerate(fitted.estimator.estimators_):
        weight = None if class_weight is None else compute_sample_weight("balanced", Y[:, i])
        coef, intercept = scikit_learns(X, Y[:, i], value, weight)
        np.testing.assert_allclose(one.coef_[0], coef, atol=2e-3 * np.abs(coef).max())
        np.testing.assert_allclose(one.intercept_, intercept, atol=2e-3 * max(1, abs(intercept)))
        assert value == one.C


@pytest.mark.parametrize("class_weight", [None, "balanced"])
def test_labels_of_few_rows_are_standardised_by_one_scale(class_weight):
    X, Y = data(9)
    fitted = probes.fit_labels(X, sets(Y), value=1.0, class_weight=class_weight)
    Z = (X - X.mean(axis=0)).astype(float) / np.sqrt(X.var(axis=0).mean())
    for i, one in enumerate(fitted.estimator.estimators_):
        theirs = LogisticRegression(class_weight=class_weight, solver="newton-cg", tol=1e-10).fit(Z, Y[:, i])
        found = X @ one.coef_[0] + one.intercept_
        np.testing.assert_allclose(found, theirs.decision_function(Z), atol=2e-3 * np.abs(found).max())


def test_it_is_as_if_scikit_learn_had_fitted_it():
    X, Y = data()
    fitted = probes.fit_labels(X, sets(Y), value=1.0)
    estimator, theirs = fitted.estimator, OneVsRestClassifier(LogisticRegression(max_iter=5000)).fit(X, Y)
    assert type(estimator) is OneVsRestClassifier
    assert set(vars(estimator)) == set(vars(theirs))
    assert estimator.multilabel_
    assert estimator.n_classes_ == 3
    assert estimator.classes_.tolist() == fitted.classes.tolist() == NAMES.tolist()
    assert (estimator.predict(X).dtype, estimator.predict(X).shape) == (theirs.predict(X).dtype, (120, 3))
    assert estimator.predict_proba(X).shape == (120, 3)
    np.testing.assert_array_equal(estimator.predict(X), estimator.predict_proba(X) > 0.5)
    np.testing.assert_allclose(fitted.predict_proba(X), expit(estimator.decision_function(X)))
    assert 0 <= estimator.score(X, Y) <= 1
    with pytest.raises(ValueError, match="6 features"):
        estimator.predict(X[:, :4])


# -- selection ----------------------------------------------------------------------------------------------------


def test_each_label_takes_the_c_of_its_lowest_log_loss_on_val(grid):
    (X, Y), (X_val, Y_val) = data(), data(seed=1)
    fitted = probes.fit_labels(X, sets(Y), X_val, sets(Y_val))
    table = np.empty((len(GRID), 3))
    for i, C in enumerate(GRID):
        for k in range(3):
            coef, intercept = scikit_learns(X, Y[:, k], C)
            table[i, k] = log_loss(Y_val[:, k], expit(X_val @ coef + intercept))
    assert list(fitted.chosen.values()) == [GRID[i] for i in table.argmin(axis=0)]
    assert len(set(fitted.chosen.values())) > 1, "the labels differ, or this shows nothing"
    np.testing.assert_allclose([step["log_loss"] for step in fitted.path], table.mean(axis=1), rtol=1e-3)
    assert all(step["converged"] for step in fitted.path)
    assert fitted.selected_on == "val"
    both = np.concatenate([X, X_val]), np.concatenate([Y, Y_val])
    for k, one in enumerate(fitted.estimator.estimators_):
        coef, _ = scikit_learns(both[0], both[1][:, k], one.C)
        np.testing.assert_allclose(one.coef_[0], coef, atol=2e-3 * np.abs(coef).max())


def test_cross_validation_scores_rows_that_were_held_out(grid):
    X, Y = data()
    fitted = probes.fit_labels(X, sets(Y), seed=3)
    folds = labels.label_folds(Y, np.arange(len(Y)), 3)
    held_out = np.empty(Y.shape)
    for fold in range(probes.FOLDS):
        out = folds == fold
        for k, name in enumerate(NAMES):
            coef, intercept = scikit_learns(X[~out], Y[~out, k], fitted.chosen[name])
            held_out[out, k] = X[out] @ coef + intercept
    assert fitted.selected_on == "5-fold cross-validation on train"
    losses = [log_loss(Y[:, k], expit(held_out[:, k])) for k in range(3)]
    assert fitted.scores["log_loss"] == pytest.approx(np.mean(losses), rel=1e-3)


def test_one_path_of_all_labels_per_fold(grid, monkeypatch):
    made = []
    monkeypatch.setattr(labels, "LogisticPath", lambda X, Y, **k: made.append(Y.shape[1]) or LogisticPath(X, Y, **k))
    X, Y = data()
    probes.fit_labels(X, sets(Y))
    assert made == [3] * (probes.FOLDS + 1)


def test_a_given_c_is_for_all_and_reported_as_given():
    X, Y = data()
    fitted = probes.fit_labels(X, sets(Y), value=0.3)
    assert fitted.chosen == {"ant": 0.3, "bee": 0.3, "cat": 0.3}
    assert (fitted.selected_on, fitted.notes, len(fitted.path)) == ("given", [], 1)


@pytest.mark.parametrize("on_val", [False, True])
def test_a_label_too_rare_to_select_on_takes_what_suits_the_others(grid, on_val):
    X, Y = data()
    Y[:, 2] = 0
    Y[7, 2] = 1
    val = (X[10:60], sets(Y[10:60])) if on_val else ()
    fitted = probes.fit_labels(X, sets(Y), *val)
    assert fitted.notes[0].startswith("too few samples to select the C of cat: C=")
    assert fitted.notes[0].endswith(f"C={fitted.chosen['cat']:g}, which is best for the other labels")
    assert all(step["converged"] for step in fitted.path)


def test_nothing_to_select_on_takes_the_middle(grid):
    X, Y = np.eye(4), np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0]])
    fitted = probes.fit_labels(X, sets(Y))
    assert set(fitted.chosen.values()) == {GRID[len(GRID) // 2]}
    assert fitted.selected_on == "nothing: no label has enough samples to select on, so the middle of the grid"


def test_folds_deal_out_rare_labels_and_keep_groups_together():
    rng = np.random.default_rng(0)
    Y = np.stack([np.arange(200) % 40 == 0, rng.random(200) < 0.3, rng.random(200) < 0.9], axis=1).astype(int)
    folds = labels.label_folds(Y, np.arange(200), 0)
    assert np.bincount(folds).tolist() == [40] * 5
    assert np.bincount(folds[Y[:, 0] == 1], minlength=5).tolist() == [1] * 5
    for k in (1, 2):
        assert np.ptp(np.bincount(folds, Y[:, k], 5)) <= 3
    groups = np.arange(200) // 2
    folds = labels.label_folds(Y, groups, 0)
    assert (folds[::2] == folds[1::2]).all()
    assert not np.array_equal(folds, labels.label_folds(Y, groups, 1))


def test_a_path_that_does_not_converge_says_so():
    X, Y = data()
    fitted = probes.fit_labels(X, sets(Y), value=1e30)  # more than float64 can do
    assert not any(step["converged"] for step in fitted.path)
    assert not any(one.converged for one in fitted.certificate.values())


@pytest.mark.parametrize("on_val", [False, True])
def test_each_label_has_the_certificate_of_the_final_fit_at_its_c(grid, on_val):
    (X, Y), (X_val, Y_val) = data(), data(seed=1)
    fitted = probes.fit_labels(X, sets(Y), *((X_val, sets(Y_val)) if on_val else ()))
    assert len(set(fitted.chosen.values())) > 1
    assert {label: one.C for label, one in fitted.certificate.items()} == fitted.chosen
    if on_val:
        X, Y = np.concatenate([X, X_val]), np.concatenate([Y, Y_val])
    for one in fitted.certificate.values():
        assert one.converged
        total = 0.0  # all labels' objectives at this C
        for label in range(3):
            coef, intercept = scikit_learns(X, Y[:, label], one.C)
            losses = np.logaddexp(0, X @ coef + intercept) - (X @ coef + intercept) * Y[:, label]
            total += losses.sum() + ((coef * X.astype(float).std(axis=0)) ** 2).sum() / (2 * one.C)
        assert one.objective == pytest.approx(total, rel=1e-6)


def test_a_final_fit_that_does_not_converge_is_noted(grid):
    X, Y = data()
    fitted = probes.fit_labels(X, sets(Y))
    certificates = {label: replace(one, converged=False) for label, one in fitted.certificate.items()}
    fitted = replace(fitted, certificate=certificates)
    stalled = ", ".join(f"{C:g} (final fit)" for C in sorted(set(fitted.chosen.values())))
    assert f"the optimum was not reached at C={stalled}" in fit_notes(fitted)
    assert all(step["converged"] for step in fitted.path)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (["a", "a", ";"], r"only one label \('a'\) to train on; a multi-label probe needs at least two"),
        ([";", ";", ";"], "no labels to train on"),
        (["a;b", "b", "b;a"], "label 'b' is on every row"),
    ],
)
def test_labels_that_cannot_be_fitted(y, message):
    with pytest.raises(ProbeError, match=message):
        probes.fit_labels(np.eye(3), y)


def test_other_bad_input():
    X, Y = data()
    with pytest.raises(ProbeError, match="class 'dog' is unknown"):
        probes.fit_labels(X, sets(Y), X[:2], ["ant;dog", ";"])
    with pytest.raises(ProbeError, match="not finite"):
        probes.fit_labels(np.full_like(X, np.nan), sets(Y))
    with pytest.raises(ProbeError, match="C must be above 0"):
        probes.fit_labels(X, sets(Y), value=-1.0)
    with pytest.raises(ProbeError, match="class_weight 'heavy' is unknown"):
        probes.fit_labels(X, sets(Y), class_weight="heavy")


# -- figures ------------------------------------------------------------------------------------------------------


def interpolated(truth, scores):
    """The area under scikit-learn's curve, with each precision the best at that or any higher recall."""
    precision, recall, _ = precision_recall_curve(truth, scores)
    return -np.sum(np.diff(recall) * np.maximum.accumulate(precision)[:-1])


def test_figures_are_scikit_learns():
    X, Y = data(noise=4.0)
    estimator = probes.fit_labels(X, sets(Y), value=1.0).estimator
    new, truth = data(seed=5, noise=4.0)
    found = probes.evaluate(estimator, new, sets(truth))
    scores, guess = estimator.decision_function(new), estimator.predict(new)
    per_label = [interpolated(truth[:, k], scores[:, k]) for k in range(3)]
    assert [found["per_class"][name]["average_precision"] for name in NAMES] == pytest.approx(per_label)
    assert found["map"] == pytest.approx(np.mean(per_label))
    assert found["micro_f1"] == f1_score(truth, guess, average="micro")
    assert found["macro_f1"] == pytest.approx(f1_score(truth, guess, average="macro"))
    assert found["subset_accuracy"] == accuracy_score(truth, guess)
    assert found["hamming"] == pytest.approx(hamming_loss(truth, guess))
    assert found["log_loss"] == pytest.approx(np.mean([log_loss(truth[:, k], expit(scores[:, k])) for k in range(3)]))
    assert [found["per_class"][name]["support"] for name in NAMES] == truth.sum(axis=0).tolist()
    assert (found["n"], found["classes"]) == (120, NAMES.tolist())


def test_labels_that_no_image_has_are_left_out_of_the_means():
    scores, Y = np.array([[2.0, 3.0, -1.0], [-1.0, -2.0, -3.0]]), np.array([[1, 0, 0], [0, 0, 1]])
    found = probes.label_figures(scores, Y, NAMES)
    assert found["per_class"]["bee"]["average_precision"] is None
    assert found["map"] == np.mean([1.0, 0.5])
    assert found["macro_f1"] == np.mean([1.0, 0.0])
    assert probes.label_figures(scores, 0 * Y, NAMES)["map"] is None


def test_images_without_labels_alone_cannot_be_evaluated_on():
    X, Y = data()
    estimator = probes.fit_labels(X, sets(Y), value=1.0).estimator
    with pytest.raises(ProbeError, match="none of the 2 samples to evaluate on has a label"):
        probes.evaluate(estimator, X[:2], [";", ";"])
    with pytest.raises(ProbeError, match="class 'dog' is unknown to the model; it knows ant, bee, cat"):
        probes.evaluate(estimator, X[:2], ["ant;dog", ";"])


def test_chance_is_what_rankings_at_random_get():
    Y = np.random.default_rng(0).random((2000, 3)) < (0.1, 0.5, 0.8)
    scores = np.random.default_rng(1).normal(size=(2000, 3))
    assert probes.chance(sets(Y.astype(int))) == pytest.approx(probes.label_figures(scores, Y, NAMES)["map"], abs=0.02)
    assert probes.chance([";"]) == 0
