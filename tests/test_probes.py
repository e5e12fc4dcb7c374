"""Probes against scikit-learn, hand-made examples and plain loops."""

import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest
from scaling import FlooredScaler, divisors
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.metrics import (
    balanced_accuracy_score,
    confusion_matrix,
    log_loss,
    precision_recall_fscore_support,
)
from sklearn.pipeline import make_pipeline

from featurepipe import probes
from featurepipe.errors import ProbeError
from featurepipe.probes import metrics, selection

KINDS = ("logistic", "ridge")


def clusters(n=60, width=8, classes=3, *, seed=0, spread=1.5, names=None):
    """Noisy clusters, every class equally often; features of very different scales."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % classes
    X = np.random.default_rng(99).normal(size=(classes, width))[y] + spread * rng.normal(size=(n, width))
    X = (X * 10.0 ** np.linspace(-3, 3, width) + 5).astype(np.float32)
    return X, y if names is None else np.array(names)[y]


def explicit(kind, value):
    """The probe as one would write it with scikit-learn, solved tightly."""
    model = (
        LogisticRegression(C=value, tol=1e-9, max_iter=20_000) if kind == "logistic" else RidgeClassifier(alpha=value)
    )
    return make_pipeline(FlooredScaler(), model)


# -- the same as scikit-learn -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [0.003, 0.1, 1.0])
@pytest.mark.parametrize(
    ("n", "width", "classes", "names"),
    [
        (80, 8, 2, None),
        (80, 8, 2, ["yes", "no"]),
        (90, 8, 3, ["b", "a", "ü"]),
        (120, 12, 12, None),
        (20, 50, 2, None),
        (30, 100, 5, list("vwxyz")),
    ],
)
def test_folded_estimator_equals_the_explicit_pipeline(kind, value, n, width, classes, names):
    X, y = clusters(n, width, classes, names=names)
    X[:, 3] = 7.25  # a constant feature
    X[:, 4] = 0
    Z, _ = clusters(50, width, classes, seed=1)
    probe, pipeline = probes.fit(kind, X, y, value=value), explicit(kind, value).fit(X.astype(float), y)
    assert type(probe.estimator) is type(pipeline[-1])
    assert probe.estimator.classes_.tolist() == pipeline.classes_.tolist()
    theirs = pipeline.decision_function(Z.astype(float))
    np.testing.assert_allclose(probe.estimator.decision_function(Z.astype(float)), theirs, atol=2e-3)
    if kind == "logistic":
        ours, theirs = probe.estimator.predict_proba(Z), pipeline.predict_proba(Z.astype(float))
        np.testing.assert_allclose(ours, theirs, atol=1e-3)
        np.testing.assert_allclose(probe.predict_proba(Z), softmax(np.log(ours) / probe.temperature, 1), atol=1e-9)
    same = probe.estimator.predict(Z) == pipeline.predict(Z.astype(float))
    assert same.mean() > 0.97  # a tie within the solvers' tolerance may fall either way
    assert (probe.classes[probe.predict_proba(Z).argmax(1)] == probe.estimator.predict(Z)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_more_features_than_samples_give_coefficients_in_feature_space(kind):
    X, y = clusters(20, 300, 3)
    probe = probes.fit(kind, X, y, value=0.1)
    assert probe.estimator.coef_.shape == (3, 300)
    assert probe.estimator.n_features_in_ == 300
    pipeline = explicit(kind, 0.1).fit(X.astype(float), y)
    np.testing.assert_allclose(probe.estimator.coef_ * divisors(X), pipeline[-1].coef_, atol=1e-3)


@pytest.mark.parametrize("shape", [(12, 3), (6, 10)])
@pytest.mark.parametrize("kind", KINDS)
def test_equal_rows_give_the_class_shares(kind, shape):
    y = np.arange(shape[0]) % 3 // 2  # two thirds of class 0
    probe = probes.fit(kind, np.full(shape, 0.1, np.float32), y, value=1.0)
    assert (probe.estimator.predict(np.full(shape, 0.1)) == 0).all()
    if kind == "logistic":
        row = np.full((1, shape[1]), 0.1)
        np.testing.assert_allclose(probe.estimator.predict_proba(row), [[2 / 3, 1 / 3]], atol=1e-3)
        assert 1 / 2 < probe.predict_proba(row)[0, 0] <= 2 / 3  # no surer than that by calibration


def test_a_feature_of_tiny_scale_still_counts():
    X = np.zeros((40, 3))
    X[:, 1] = 1e-20 * (np.arange(40) % 2)
    probe = probes.fit("logistic", X, np.arange(40) % 2)
    assert probe.scores["top1"] == 1


# -- selection ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_the_best_candidate_on_val_is_chosen_and_refitted_on_train_and_val(kind):
    X, y = clusters(60, spread=4)
    V, v = clusters(40, spread=4, seed=1)
    name, grid = probes.KINDS[kind].parameter, probes.KINDS[kind].grid
    probe = probes.fit(kind, X, y, V, v)
    top1 = [np.mean(explicit(kind, c).fit(X.astype(float), y).predict(V.astype(float)) == v) for c in grid]
    np.testing.assert_allclose([step["top1"] for step in probe.path], top1, atol=0.026)
    right = np.array(
        [one.predict(V.astype(float)) == v for one, _ in probes.KINDS[kind].fit_path(X.astype(float), y, grid)]
    )
    np.testing.assert_array_equal([step["top1"] for step in probe.path], right.mean(axis=1))
    assert probe.selected_on == "val"
    assert [step[name] for step in probe.path] == list(grid)
    close = [step for step, stays in zip(probe.path, probes.tied(right), strict=True) if stays]
    assert [step for step in probe.path if step["tied"]] == close
    assert probe.chosen == min(close, key=lambda step: step["log_loss"])[name]
    np.testing.assert_array_equal(probe.right, right[grid.index(probe.chosen)])
    both = explicit(kind, probe.chosen).fit(np.concatenate([X, V]).astype(float), np.concatenate([y, v]))
    ours, theirs = probe.estimator.decision_function(V.astype(float)), both.decision_function(V.astype(float))
    np.testing.assert_allclose(ours, theirs, atol=0.02 * np.abs(theirs).max())


def test_the_val_set_decides():
    X, y = clusters(60, 80, 2, spread=3)
    noisy = y.copy()
    noisy[::3] = 1 - noisy[::3]
    like_train = probes.fit("logistic", X, noisy, X, noisy)  # learnt by heart is best
    clean = probes.fit("logistic", X, noisy, *clusters(400, 80, 2, spread=3, seed=1))
    assert like_train.chosen > clean.chosen


def test_a_given_value_is_used_as_it_is():
    X, y = clusters()
    probe = probes.fit("logistic", X, y, value=0.0123)
    assert (probe.chosen, probe.selected_on, len(probe.path)) == (0.0123, "given", 1)
    assert probe.estimator.C == 0.0123
    one = probes.fit("logistic", X[:3], y[:3], value=0.0123)
    assert (one.chosen, one.selected_on, one.estimator.C) == (0.0123, "given", 0.0123)


def test_a_given_c_needs_no_folds():
    X, y = clusters()
    alone, measured = (probes.fit("logistic", X, y, value=0.1, measure=measure) for measure in (False, True))
    assert (alone.selected_on, alone.path, alone.scores, alone.right) == ("given", [], {}, None)
    assert alone.temperature == 1.0 != measured.temperature
    note = "the strength was given and no val split measures it, so probabilities are not calibrated"
    assert (alone.notes, measured.notes) == ([note], [])
    np.testing.assert_array_equal(alone.estimator.coef_, measured.estimator.coef_)
    ridge = probes.fit("ridge", X, y, value=10.0, measure=False)  # its temperature is fitted on scores
    assert ridge.scores["n"] == len(y)
    assert ridge.temperature != 1


def test_discriminant_analysis_of_one_image_per_class_is_not_sure_and_says_so():
    rng = np.random.default_rng(0)
    y = np.array([f"c{k:02d}" for k in range(12)])
    centres = rng.normal(size=(12, 100)).repeat(4, axis=0)
    X = centres + 2 * rng.normal(size=centres.shape)
    train = np.arange(48) % 4 == 0
    for value in (None, 0.5):
        probe = probes.fit("lda", X[train], y, value=value)
        found = probes.evaluate(probe.estimator, X[~train], y.repeat(3), probe.temperature)
        assert found["log_loss"] < np.log(12)
        assert any("one sample per class" in note for note in probe.notes)
    assert not probes.fit("lda", X, y.repeat(4)).notes
    with pytest.raises(ProbeError, match="shrinkage 0 needs samples that differ within a class"):
        probes.fit("lda", X[train], y, value=0.0)


@pytest.mark.parametrize("value", [0, -1.0, np.nan, np.inf])
def test_a_value_that_is_no_strength_is_refused(value):
    with pytest.raises(ProbeError, match="C must be above 0"):
        probes.fit("logistic", *clusters(), value=value)


def test_one_sample_per_class_takes_the_middle_of_the_grid():
    X, y = clusters(3, classes=3)
    probe = probes.fit("logistic", X, y)
    assert probe.chosen == probes.C_GRID[len(probes.C_GRID) // 2]
    assert "one sample per class" in probe.selected_on
    assert probe.estimator.predict(X).tolist() == y.tolist()


def test_a_few_rows_that_can_be_held_out_choose_nothing():
    rng = np.random.default_rng(0)
    y = np.array([f"c{i:02}" for i in range(11)] + ["c00"])  # two rows of twelve can be held out
    X = rng.normal(size=(11, 20))[np.r_[0:11, 0]] * 3 + rng.normal(size=(12, 20))
    probe = probes.fit("logistic", X, y)
    assert probe.selected_on == "nothing: most classes have only one sample, so the middle of the grid"
    assert probe.chosen == sorted(probes.C_GRID)[len(probes.C_GRID) // 2]
    assert (probes.predict(probe.estimator, X) == y).all()
    assert probes.fit("logistic", X, y, value=0.1).scores  # a strength that is given is measured on what there is
    twice = probes.fit("logistic", np.tile(X[:11], (2, 1)), np.tile(y[:11], 2))
    assert twice.selected_on.startswith("5-fold")


def test_why_nothing_is_selected_on_speaks_of_groups_where_there_are_any():
    X, y = np.random.default_rng(0).normal(size=(40, 4)), np.repeat([0, 1], [30, 10])
    groups = np.array(["a"] * 30 + list("bcdefghijk"))
    said = probes.fit("ridge", X, y, groups=groups).selected_on
    assert said == "nothing: most samples are in classes of one sample or group, so the middle of the grid"
    said = probes.fit("ridge", X, y, groups=y).selected_on
    assert said == "nothing: one sample or group per class, so the middle of the grid"


def test_cross_validated_scores_are_those_of_a_plain_loop():
    X, y = clusters(53, classes=3, spread=4)
    folds = selection.assign_folds(y, 7)
    by_hand = np.empty((53, 3))
    for fold in np.unique(folds):  # statistics, too, come from the training part only
        pipeline = explicit("ridge", 10.0).fit(X[folds != fold].astype(float), y[folds != fold])
        by_hand[folds == fold] = pipeline.decision_function(X[folds == fold].astype(float))
    (ours,), _ = selection._cross_validate(probes.KINDS["ridge"], X.astype(float), y, [10.0], folds)
    np.testing.assert_allclose(np.concatenate([block for _, block in ours]), by_hand, atol=1e-9)
    probe = probes.fit("ridge", X, y, value=10.0, seed=7)
    assert probe.scores["top1"] == pytest.approx(np.mean(by_hand.argmax(1) == y))
    assert probe.scores["n"] == 53


def test_labels_without_meaning_score_no_better_than_chance():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(100, 400)), rng.permutation(np.arange(100) % 2)
    assert probes.fit("logistic", X, y, value=1.0).scores["top1"] < 0.7


def test_rows_of_a_group_stay_in_the_same_fold():
    y = np.repeat([0, 1, 2], [40, 9, 3])
    groups = np.array([f"image {i // 3}" for i in range(40)] + [f"image {i}" for i in range(9)] + ["copy"] * 3)
    folds = selection.assign_folds(y, 3, groups)
    for label in (0, 1):
        for group in np.unique(groups[y == label]):
            assert len(np.unique(folds[(y == label) & (groups == group)])) == 1
        assert set(folds[y == label]) == set(range(probes.FOLDS))
    assert folds[y == 2].tolist() == [-1] * 3  # one image, thrice: never held out
    assert selection.assign_folds(y, 3, np.arange(52)).tolist() == selection.assign_folds(y, 3).tolist()


def test_copies_do_not_flatter_the_selection():
    rng = np.random.default_rng(0)
    X, y = np.tile(rng.normal(size=(50, 30)), (3, 1)), np.tile(np.arange(50) % 2, 3)  # labels mean nothing
    assert probes.fit("knn", X, y, value=1).scores["top1"] > 0.9
    assert probes.fit("knn", X, y, value=1, groups=np.tile(np.arange(50), 3)).scores["top1"] < 0.7


@pytest.mark.parametrize("sizes", [(50, 50), (23, 7, 2), (5, 3, 1), (2, 2, 2, 2)])
def test_folds_are_stratified_and_leave_every_class_in_every_training_part(sizes):
    y = np.repeat(np.arange(len(sizes)), sizes)
    folds = selection.assign_folds(y, 0)
    for label, size in enumerate(sizes):
        mine = folds[y == label]
        if size == 1:
            assert mine.tolist() == [-1]
            continue
        counts = np.bincount(mine, minlength=probes.FOLDS)
        assert counts.max() - counts.min() <= 1
        assert all((mine != fold).any() for fold in range(probes.FOLDS))
    assert selection.assign_folds(y, 0).tolist() == folds.tolist()
    assert max(sizes) < 10 or selection.assign_folds(y, 1).tolist() != folds.tolist()


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_tiny_classes_are_taken(kind):
    X, y = clusters(30, classes=2)
    X, y = np.concatenate([X, X[:3] + 50]), np.concatenate([y, [2, 3, 3]])
    probe = probes.fit(kind, X, y)
    assert probe.classes.tolist() == [0, 1, 2, 3]
    assert probe.scores["n"] == 32  # class 2's only sample is never held out


# -- what cannot be fitted ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(bad):
    X, y = clusters()
    broken = X.copy()
    broken[5, 2] = bad
    for arguments in ((broken, y), (X, y, broken, y)):
        with pytest.raises(ProbeError, match="not finite"):
            probes.fit("logistic", *arguments)


GOOD = clusters()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((GOOD[0], None), r"n labels; got \(60, 8\) and \(\)"),
        ((GOOD[0], [None, *GOOD[1][1:]]), "row 0 has no label"),
        ((GOOD[0], np.where(GOOD[1] == 1, np.nan, GOOD[1])), "row 1 has no label"),
        ((GOOD[0][:, 0], GOOD[1]), r"got \(60,\) and \(60,\)"),
        ((GOOD[0][None], GOOD[1]), r"got \(1, 60, 8\) and \(60,\)"),
        ((GOOD[0], GOOD[1][1:]), r"got \(60, 8\) and \(59,\)"),
        ((GOOD[0][:, :0], GOOD[1]), r"embeddings have no features; got \(60, 0\)"),
        ((*GOOD, GOOD[0][:0], GOOD[1][:0]), "no samples to select on"),
        ((*GOOD, GOOD[0][:, :3], GOOD[1]), "embeddings of width 8 and 3"),
        ((*GOOD, GOOD[0], None), "selection data are embeddings and labels; one of the two is missing"),
        ((*GOOD, None, GOOD[1]), "selection data are embeddings and labels; one of the two is missing"),
        ((*GOOD, GOOD[0], GOOD[1][1:]), r"got \(60, 8\) and \(59,\)"),
        ((*GOOD, GOOD[0], [None] * 60), "row 0 has no label"),
        ((GOOD[0].astype(str).astype(object), GOOD[1] * 0 + np.arange(60)), None),
        (([["a", "b"]] * 60, GOOD[1]), "embeddings are numbers; could not convert string to float"),
        (([[1.0, 2.0], [3.0]], ["a", "b"]), "embeddings are numbers; "),
    ],
)
def test_rows_and_labels_that_do_not_fit_are_one_clear_line(arguments, message):
    if message is None:  # numbers written as text are numbers
        assert probes.fit("centroid", *arguments).classes.tolist() == list(range(60))
        return
    with pytest.raises(ProbeError, match=message) as raised:
        probes.fit("ridge", *arguments)
    assert "\n" not in str(raised.value)


def test_groups_are_one_for_each_row():
    with pytest.raises(ProbeError, match="59 groups for 60 rows"):
        probes.fit("ridge", *GOOD, groups=np.arange(59))


@pytest.mark.parametrize(
    ("y", "message"),
    [(np.zeros(60, int), r"only one class \(0\)"), (np.full(60, "cat"), r"only one class \('cat'\)")],
)
def test_one_class_is_refused(y, message):
    with pytest.raises(ProbeError, match=message):
        probes.fit("ridge", clusters()[0], y)


def test_no_samples_are_refused():
    with pytest.raises(ProbeError, match="no samples"):
        probes.fit("ridge", np.empty((0, 4)), np.empty(0))


def test_an_unknown_kind_is_refused_with_the_known_ones():
    with pytest.raises(ProbeError, match=r"'forest' is unknown; use logistic, ridge, .* mlp or attentive"):
        probes.fit("forest", *clusters())


def test_a_class_that_only_val_has_is_refused():
    X, y = clusters()
    with pytest.raises(ProbeError, match="class 2 is unknown"):
        probes.fit("logistic", X[y < 2], y[y < 2], X, y)


def test_an_optimum_that_was_not_reached_is_reported():
    probe = probes.fit("logistic", *clusters(spread=4), value=1e30)  # more than float64 can do
    assert probe.path[0]["converged"] is False


def test_ordinary_data_converge():
    assert all(step["converged"] for step in probes.fit("logistic", *clusters(spread=3)).path)


# -- figures ------------------------------------------------------------------------------------------------------


class Fixed:
    """An 'estimator' whose scores are given."""

    def __init__(self, proba, classes):
        self.scores, self.classes_ = np.log(proba), np.array(classes)

    def decision_function(self, X):
        return self.scores


def test_ece_of_an_example_worked_by_hand():
    # bins of 1/15: 0.95 and 0.94 share [14/15, 1], 0.6 and 0.62 share [9/15, 10/15)
    confidence, correct = np.array([0.95, 0.94, 0.6, 0.62, 0.8]), np.array([1, 0, 1, 1, 0], bool)
    by_hand = (2 * abs(0.5 - 0.945) + 2 * abs(1 - 0.61) + 1 * abs(0 - 0.8)) / 5
    assert metrics._ece(confidence, correct) == pytest.approx(by_hand)


def test_ece_equals_a_plain_loop_over_bins():
    rng = np.random.default_rng(0)
    confidence, correct = rng.uniform(0.2, 1, 500), rng.random(500) < 0.6
    total = 0.0
    for b in range(15):
        inside = (confidence >= b / 15) & (confidence < (b + 1) / 15)
        if inside.any():
            total += inside.mean() * abs(correct[inside].mean() - confidence[inside].mean())
    assert metrics._ece(confidence, correct) == pytest.approx(total)


def test_ece_takes_full_confidence():
    assert metrics._ece(np.ones(4), np.array([1, 1, 0, 1], bool)) == pytest.approx(0.25)


@pytest.mark.parametrize("names", [list(range(4)), ["d", "c", "b", "a"]])
def test_figures_equal_scikit_learns(names):
    rng = np.random.default_rng(0)
    classes = np.unique(names)
    proba = rng.dirichlet(np.ones(4), 200)
    y = classes[np.minimum(rng.integers(0, 5, 200), 3)]
    guess = classes[proba.argmax(1)]
    figures = probes.evaluate(Fixed(proba, classes), np.empty((200, 1)), y)
    assert figures["n"] == 200
    assert figures["top1"] == np.mean(guess == y)
    assert figures["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(y, guess))
    assert figures["log_loss"] == pytest.approx(log_loss(y, proba, labels=classes))
    assert figures["confusion"] == confusion_matrix(y, guess, labels=classes).tolist()
    assert figures["classes"] == [str(c) for c in classes]
    expected = precision_recall_fscore_support(y, guess, labels=classes, zero_division=0)
    for label, *row in zip(classes, *expected, strict=True):
        assert list(figures["per_class"][str(label)].values()) == pytest.approx(row)


def test_a_class_without_samples_does_not_enter_the_balance():
    proba = np.array([[0.8, 0.1, 0.1], [0.3, 0.5, 0.2]])
    figures = probes.evaluate(Fixed(proba, ["a", "b", "c"]), np.empty((2, 1)), ["a", "a"])
    assert figures["balanced_accuracy"] == 0.5
    assert figures["per_class"]["c"] == {"precision": 0, "recall": 0, "f1": 0, "support": 0}


def test_certain_and_wrong_is_a_finite_loss():
    with np.errstate(divide="ignore"):
        figures = probes.evaluate(Fixed(np.array([[1.0, 1e-320]]), ["a", "b"]), np.empty((1, 1)), ["b"])
    assert 600 < figures["log_loss"] < 800


@pytest.mark.parametrize(("classes", "there"), [(100, True), (101, False)])
def test_confusion_stops_at_100_classes(classes, there):
    proba = np.full((classes, classes), 1e-6) + np.eye(classes)
    figures = probes.evaluate(Fixed(proba, range(classes)), np.empty((classes, 1)), range(classes))
    assert (figures["confusion"] is not None) is there


@pytest.mark.parametrize(("y", "message"), [([], "no labelled samples"), (["a", "emu"], "'emu' is unknown.*a, b")])
def test_what_cannot_be_evaluated(y, message):
    with pytest.raises(ProbeError, match=message):
        probes.evaluate(Fixed(np.full((len(y), 2), 0.5), ["a", "b"]), np.empty((len(y), 1)), y)


def test_majority_is_the_commonest_training_class():
    assert probes.majority(np.array(list("aab")), np.array(list("abbb"))) == 0.25


@pytest.mark.parametrize("classes", [2, 4])
def test_the_temperature_of_ridge_lowers_log_loss_and_changes_no_prediction(classes):
    X, y = clusters(150, classes=classes)
    T, t = clusters(300, classes=classes, seed=1)
    probe = probes.fit("ridge", X, y)
    cooled, plain = probes.evaluate(probe.estimator, T, t, probe.temperature), probes.evaluate(probe.estimator, T, t)
    assert cooled["log_loss"] < plain["log_loss"] - 0.05
    assert cooled["confusion"] == plain["confusion"]
    np.testing.assert_allclose(probe.predict_proba(T).sum(1), 1)
    assert (probe.classes[probe.predict_proba(T).argmax(1)] == probe.estimator.predict(T.astype(float))).all()


def test_figures_are_the_same_in_blocks():
    classes = np.arange(1500)  # of which a block holds 2,796 rows
    scores, labels = np.random.default_rng(0).normal(size=(3000, 1500)), np.arange(3000) % 1500
    assert scores.size > metrics.BLOCK
    estimator = SimpleNamespace(classes_=classes, decision_function=lambda X: X)
    whole = metrics.figures(scores, labels, classes, 1.3)
    blocks = probes.evaluate(estimator, scores, labels, 1.3)
    assert blocks.pop("per_class") == whole.pop("per_class")
    assert blocks.pop("classes") == whole.pop("classes")
    assert blocks.pop("confused") == whole.pop("confused")
    assert blocks == pytest.approx(whole)


@pytest.mark.slow
def test_memory_of_figures_does_not_grow_with_rows_times_classes():
    rng = np.random.default_rng(0)
    classes, rows = np.arange(3000), 20_000
    model = SimpleNamespace(classes_=classes, centroids_=rng.normal(size=(len(classes), 4)))
    X, y = rng.normal(size=(rows, 4)).astype(np.float32), rng.integers(0, len(classes), rows)
    tracemalloc.start()
    found = probes.evaluate(model, X, y)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found["n"] == rows
    assert peak < 2.5e8  # the scores alone would be 480 MB


# -- many classes -----------------------------------------------------------------------------------------------


def many_classes(classes, rows=600):
    rng = np.random.default_rng(0)
    y = rng.integers(0, classes, rows)
    y[:classes] = np.arange(classes)
    X = rng.normal(size=(rows, 20)) + 2 * rng.normal(size=(classes, 20))[y]
    return X, y.astype(str)


def test_more_than_ten_classes_have_a_top_five():
    from sklearn.metrics import top_k_accuracy_score

    X, y = many_classes(12)
    fitted = probes.fit("ridge", X, y, value=1.0)
    proba = fitted.predict_proba(X)
    found = probes.evaluate(fitted.estimator, X, y, fitted.temperature)
    assert found["top5"] == top_k_accuracy_score(y, proba, k=5, labels=fitted.classes)
    assert found["top1"] < found["top5"] <= 1
    few = probes.fit("ridge", X, np.array(["a", "b"] * 300), value=1.0)
    assert "top5" not in probes.evaluate(few.estimator, X, np.array(["a", "b"] * 300))


def test_more_than_a_hundred_classes_name_the_pairs_that_are_most_confused():
    X, y = many_classes(120)
    fitted = probes.fit("ridge", X, y, value=1.0)
    found = probes.evaluate(fitted.estimator, X, y)
    guess = probes.predict(fitted.estimator, X)
    wrong = [(t, g) for t, g in zip(y.tolist(), guess.tolist(), strict=True) if t != g]
    pairs = found["confused"]["pairs"]
    assert found["confusion"] is None
    assert len(pairs) == 20
    assert found["confused"]["more"] == len(set(wrong)) - 20
    for one in pairs:
        assert wrong.count((one["true"], one["predicted"])) == one["count"]
    assert [one["count"] for one in pairs] == sorted((one["count"] for one in pairs), reverse=True)
