"""Named protocols: their published numbers, and plain scikit-learn transcriptions of each."""

from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
import torch
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import cross_val_score
from sklearn.svm import LinearSVC

from featurepipe import probes, protocols
from featurepipe.errors import ProbeError
from featurepipe.probes.kinds.knn import TEMPERATURE
from featurepipe.protocols import PROTOCOLS, margins, searches, shots
from featurepipe.protocols.definitions import AS_FITTED, ON_ALL, ONE_SCALE, UNTOUCHED
from featurepipe.protocols.evaluations import average_precisions
from featurepipe.statistics import scales

LOGISTIC = ("clip", "dinov2-logreg", "kornblith", "lpft")


def clusters(n=90, width=5, names=("ant", "bee", "cat"), *, seed=0, spread=1.2):
    """Noisy clusters, every class equally often, away from the origin."""
    rng = np.random.default_rng(seed)
    codes = np.arange(n) % len(names)
    X = 3 + np.random.default_rng(9).normal(size=(len(names), width))[codes] + spread * rng.normal(size=(n, width))
    return X, np.array(names)[codes]


def exact(C):
    return LogisticRegression(C=C, tol=1e-10, max_iter=10_000)


# -- what each fixes, as published ----------------------------------------------------------------------------------


def test_there_are_nine():
    assert sorted(PROTOCOLS) == [
        "bigvision-fewshot",
        "clip",
        "dinov2-knn",
        "dinov2-logreg",
        "featurepipe",
        "kornblith",
        "lpft",
        "vissl-lowshot-svm",
        "vissl-svm",
    ]
    for name, protocol in PROTOCOLS.items():
        assert protocol.name == name
        assert protocol.version == (3 if name == "featurepipe" else 1)
        assert protocol.source
        assert protocol.remarks
        assert list(protocol.grid) == sorted(protocol.grid)


@pytest.mark.parametrize(
    ("name", "lambdas"),
    [("clip", np.logspace(-6, 6, 97)), ("kornblith", np.logspace(-6, 5, 45))],
)
def test_grids_of_lambda(name, lambdas):
    np.testing.assert_allclose(sorted(1 / np.array(PROTOCOLS[name].grid)), lambdas, rtol=1e-12)


def test_other_grids():
    np.testing.assert_allclose(PROTOCOLS["dinov2-logreg"].grid, 10 ** np.linspace(-6, 5, 45), rtol=1e-12)
    np.testing.assert_allclose(PROTOCOLS["lpft"].grid, np.logspace(-7, 2, 50), rtol=1e-12)
    assert PROTOCOLS["dinov2-knn"].grid == (10, 20, 100, 200)
    assert TEMPERATURE == 0.07
    costs = (0.01, 0.1, 1, 2, 5, 10, 15, 20, 50, 100, 1000)
    assert PROTOCOLS["vissl-svm"].grid == PROTOCOLS["vissl-lowshot-svm"].grid == costs
    assert (margins.FOLDS, margins.ITERATIONS, margins.EPSILON) == (3, 2000, 1e-5)
    assert PROTOCOLS["bigvision-fewshot"].grid == (1024,)
    assert (shots.BIAS, shots.EPSILON) == (100, 1e-5)
    assert PROTOCOLS["featurepipe"].grid == probes.C_GRID


def test_shots_and_repeats():
    few = {name: (protocol.shots, protocol.repeats) for name, protocol in PROTOCOLS.items() if protocol.shots}
    assert few == {
        "vissl-lowshot-svm": ((1, 2, 4, 8, 16, 32, 64, 96), 5),
        "bigvision-fewshot": ((1, 5, 10, 25), 3),
    }


def test_normalisation_splits_refit_and_metric():
    rules = {n: (p.normalisation, p.held_out, p.stratified, p.refit, p.metrics) for n, p in PROTOCOLS.items()}
    both = ("top1", "balanced_accuracy")
    assert rules["clip"] == rules["kornblith"] == (UNTOUCHED, 0.2, True, ON_ALL, both)
    assert rules["dinov2-logreg"] == (UNTOUCHED, 0.1, False, ON_ALL, both)
    assert rules["lpft"] == (ONE_SCALE, 0.2, True, AS_FITTED, ("top1",))
    assert {n for n, p in PROTOCOLS.items() if p.metric == "map"} == {"vissl-svm", "vissl-lowshot-svm"}
    assert {n for n, p in PROTOCOLS.items() if p.linear} == {*LOGISTIC, "featurepipe"}


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(PROTOCOLS))
def test_no_published_protocol_has_our_scales(name, monkeypatch):
    """What features are divided by is our own protocol's alone: with other scales the others give the same."""
    X, y = clusters(60)
    X *= np.logspace(-2, 1, X.shape[1])  # two of five are below the floor
    T, t = clusters(60, seed=1)
    short = replace(PROTOCOLS[name], grid=PROTOCOLS[name].grid[:3], coarse=0, repeats=min(PROTOCOLS[name].repeats, 1))

    def figures():
        if short.shots:
            return protocols.run_shots(short, X, y, T, t)
        outcome = protocols.run(short, X, y)
        return outcome.path, outcome.temperature, protocols.evaluate(outcome, T, t)

    before = figures()
    monkeypatch.setattr(scales, "FLOOR", 100.0)
    assert (figures() == before) is (name != "featurepipe")


@pytest.mark.slow
def test_our_own_protocol_is_calibrated_and_the_others_are_not():
    X, y = clusters()
    ours = protocols.run(PROTOCOLS["featurepipe"], X, y)
    probe = probes.fit("logistic", X, y)
    assert ours.temperature == probe.temperature != 1
    T, t = clusters(60, seed=1)
    assert protocols.evaluate(ours, T, t) == probes.evaluate(probe.estimator, T, t, probe.temperature)
    assert protocols.run(replace(PROTOCOLS["lpft"], grid=(0.1, 1.0)), X, y).temperature == 1


# -- CLIP's search --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("peak", range(97))
def test_the_search_finds_the_peak_of_a_curve_with_one(peak):
    curve = -np.abs(np.arange(97) - peak).astype(float)
    asked = []
    found = searches.search(lambda place: asked.append(place) or curve[place], 97, PROTOCOLS["clip"].coarse)
    assert searches.best(found) == curve.argmax()
    assert len(asked) == len(set(asked)) == len(found)
    assert asked[:7] == [0, 16, 32, 48, 64, 80, 96]
    inside = 0 < round(peak / 16) < 6
    assert len(asked) == 15 if inside else len(asked) <= 15


def test_the_search_asks_for_these_and_no_others():
    found = searches.search(lambda place: -abs(place - 37), 97, 16)
    assert list(found) == [0, 16, 32, 48, 64, 80, 96, 24, 40, 36, 44, 34, 38, 35, 37]
    assert list(searches.search(lambda place: -place, 97, 16)) == [0, 16, 32, 48, 64, 80, 96, 8, 4, 2, 1]


def test_ties_go_to_the_first_of_the_grid():
    assert searches.best({16: 0.5, 0: 0.5, 8: 0.5, 32: 0.4}) == 0
    assert list(searches.search(lambda _: 0.0, 5)) == [0, 1, 2, 3, 4]


def test_clip_fits_fifteen_of_its_grid_once():
    X, y = clusters()
    outcome = protocols.run(PROTOCOLS["clip"], X[:60], y[:60], X[60:], y[60:])
    places = [PROTOCOLS["clip"].grid.index(step["C"]) for step in outcome.path]
    assert places == sorted(set(places))
    assert set(range(0, 97, 16)) < set(places)
    assert len(places) <= 15


# -- logistic regression, against scikit-learn ----------------------------------------------------------------------


def transcribed(name, X, y, X_val, y_val, metric="top1"):
    """Chosen C and final estimator of every-candidate protocols, as one would write it with scikit-learn."""
    protocol = coarser(name)
    score = balanced_accuracy_score if metric == "balanced_accuracy" else lambda a, b: np.mean(a == b)
    mean, std = (X.mean(), X.std()) if name == "lpft" else (0.0, 1.0)
    values = [score(y_val, exact(C).fit((X - mean) / std, y).predict((X_val - mean) / std)) for C in protocol.grid]
    C = protocol.grid[int(np.argmax(values))]
    if name == "lpft":
        return C, values, exact(C).fit((X - mean) / std, y), (mean, std)
    final = exact(C).fit(np.concatenate([X, X_val]), np.concatenate([y, y_val]))
    return C, values, final, (mean, std)


def coarser(name):
    """A protocol with fewer candidates, whose optima scikit-learn reaches; the grids themselves are tested above."""
    step = 8 if name == "clip" else 6
    return replace(PROTOCOLS[name], grid=PROTOCOLS[name].grid[8:-24:step], coarse=0)


@pytest.mark.parametrize("name", LOGISTIC)
@pytest.mark.parametrize("names", [("ant", "bee", "cat"), ("no", "yes")])
def test_logistic_protocols_choose_and_predict_as_scikit_learn(name, names):
    X, y = clusters(names=names)
    Z, truth = clusters(60, names=names, seed=1)
    C, values, final, (mean, std) = transcribed(name, X, y, Z, truth)
    outcome = protocols.run(coarser(name), X, y, Z, truth)
    assert [step["top1"] for step in outcome.path] == pytest.approx(values)
    assert (outcome.chosen, outcome.selected_on, outcome.metric) == (C, "val", "top1")
    assert outcome.certificate.converged
    new, _ = clusters(40, names=names, seed=2)
    np.testing.assert_array_equal(outcome.estimator.predict(new), final.predict((new - mean) / std))
    np.testing.assert_allclose(outcome.estimator.predict_proba(new), final.predict_proba((new - mean) / std), atol=2e-4)
    assert outcome.scores["top1"] == max(values)


def test_the_metric_asked_for_selects():
    X, y = clusters(spread=2.5)
    Z, truth = clusters(80, spread=2.5, seed=1)
    few = (truth != "cat") | (np.arange(80) < 12)  # rare in the selection data
    _, values, _, _ = transcribed("kornblith", X, y, Z[few], truth[few], "balanced_accuracy")
    outcome = protocols.run(coarser("kornblith"), X, y, Z[few], truth[few], metric="balanced_accuracy")
    assert [step["balanced_accuracy"] for step in outcome.path] == pytest.approx(values)
    assert outcome.chosen == coarser("kornblith").grid[int(np.argmax(values))]


def test_lpft_has_one_scale_for_all_features_and_keeps_what_was_fitted_on_train():
    X, y = clusters()
    one = protocols.run(coarser("lpft"), X, y, X[:30], y[:30])
    other = protocols.run(coarser("lpft"), 100 * X + 7, y, 100 * X[:30] + 7, y[:30])
    np.testing.assert_allclose(one.estimator.coef_, 100 * other.estimator.coef_, rtol=1e-3, atol=1e-5)
    assert one.chosen == other.chosen


@pytest.mark.parametrize("name", ["clip", "kornblith", "lpft", "dinov2-logreg"])
def test_without_val_a_part_of_train_selects(name):
    X, y = clusters()
    protocol = coarser(name)
    fitted, held = searches.hold_out(protocol, y, 3)
    assert sorted([*fitted, *held]) == list(range(90))
    outcome = protocols.run(protocol, X, y, seed=3)
    given = protocols.run(protocol, X[fitted], y[fitted], X[held], y[held])
    assert outcome.selected_on == f"{len(held)} of 90 training rows held out"
    assert outcome.chosen == given.chosen
    np.testing.assert_allclose(outcome.estimator.coef_, given.estimator.coef_, rtol=1e-3, atol=1e-4)


def test_dinov2_holds_out_torchs_first_tenth():
    y = clusters(95)[1]
    torch.manual_seed(0)
    order = torch.randperm(95).numpy()
    fitted, held = searches.hold_out(PROTOCOLS["dinov2-logreg"], y, 0)
    assert held.tolist() == order[:9].tolist()
    assert sorted(fitted) == sorted(order[9:])


def test_the_others_hold_out_a_fifth_of_each_class():
    y = np.repeat(["ant", "bee", "cat"], [20, 11, 1])
    _, held = searches.hold_out(PROTOCOLS["clip"], y, 0)
    assert dict(zip(*np.unique(y[held], return_counts=True), strict=True)) == {"ant": 4, "bee": 2}
    assert searches.hold_out(PROTOCOLS["clip"], y, 1)[1].tolist() != held.tolist()


def test_a_class_held_out_as_a_whole_counts_as_wrong():
    X, y = clusters(40)
    y = np.where(np.arange(40) == searches.hold_out(PROTOCOLS["dinov2-logreg"], y, 0)[1][0], "dog", y)
    outcome = protocols.run(coarser("dinov2-logreg"), X, y)
    assert max(step["top1"] for step in outcome.path) <= 0.75
    assert outcome.estimator.classes_.tolist() == ["ant", "bee", "cat", "dog"]
    (note,) = outcome.notes
    assert note.startswith("class 'dog' was held out as a whole (1 sample), so it counts as wrong in the selection")


def test_a_hold_out_that_leaves_one_class_says_which_and_why():
    X, y = clusters(40)
    y = np.where(np.isin(np.arange(40), searches.hold_out(PROTOCOLS["dinov2-logreg"], y, 0)[1][:2]), "dog", "ant")
    with pytest.raises(
        ProbeError,
        match="dinov2-logreg holds out 10% of the training samples at random, which took all 2 samples of class 'dog' "
        "and left one class to fit; add samples of 'dog', give a val split, or take another seed",
    ):
        protocols.run(PROTOCOLS["dinov2-logreg"], X, y)


@pytest.mark.parametrize("val", [True, False])
def test_the_featurepipe_protocol_is_probes_fit(val):
    X, y = clusters()
    rest = clusters(30, seed=1) if val else (None, None)
    outcome = protocols.run(PROTOCOLS["featurepipe"], X, y, *rest, seed=2)
    probe = probes.fit("logistic", X, y, *rest, seed=2)
    assert (outcome.chosen, outcome.selected_on, outcome.path) == (probe.chosen, probe.selected_on, probe.path)
    assert outcome.certificate == probe.certificate
    assert outcome.chosen == outcome.certificate.C
    np.testing.assert_array_equal(outcome.estimator.coef_, probe.estimator.coef_)


# -- nearest neighbours ---------------------------------------------------------------------------------------------


def votes(X, y, new, k):
    """DINOv2's vote, row by row."""
    X, new = X / np.linalg.norm(X, axis=1, keepdims=True), new / np.linalg.norm(new, axis=1, keepdims=True)
    labels = []
    for row in new:
        cosines = X @ row
        order = np.argsort(-cosines)[:k]
        weights = np.exp(cosines[order] / 0.07)
        labels.append(max(np.unique(y), key=lambda label: weights[y[order] == label].sum()))
    return np.array(labels)


def test_knn_votes_as_dinov2_and_marks_the_best_k():
    X, y = clusters(150, spread=2)
    Z, truth = clusters(60, spread=2, seed=1)
    outcome = protocols.run(PROTOCOLS["dinov2-knn"], X, y, Z, truth)
    by_hand = {k: np.mean(votes(X, y, Z, k) == truth) for k in (10, 20, 100)}
    assert {step["k"]: step["top1"] for step in outcome.path} == pytest.approx(by_hand)
    assert outcome.chosen == max(by_hand, key=by_hand.get)
    new, labels = clusters(50, spread=2, seed=2)
    np.testing.assert_array_equal(outcome.estimator.predict(new), votes(X, y, new, outcome.chosen))
    found = protocols.evaluate(outcome, new, labels)
    assert [one["k"] for one in found["by_k"]] == [10, 20, 100]
    for one in found["by_k"]:
        guess = votes(X, y, new, one["k"])
        assert one["top1"] == pytest.approx(np.mean(guess == labels))
        assert one["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(labels, guess))
    assert found["top1"] == next(one["top1"] for one in found["by_k"] if one["k"] == outcome.chosen)


def test_knn_without_val_leaves_out_each_row_once():
    X, y = clusters(60, spread=2)
    outcome = protocols.run(PROTOCOLS["dinov2-knn"], X, y)
    by_hand = [
        np.mean([votes(np.delete(X, i, 0), np.delete(y, i), X[[i]], k)[0] == y[i] for i in range(60)]) for k in (10, 20)
    ]
    assert [step["top1"] for step in outcome.path] == pytest.approx(by_hand)
    assert outcome.selected_on == "leave-one-out on train"


def test_knn_needs_ten_neighbours():
    X, y = clusters(10)
    assert protocols.run(PROTOCOLS["dinov2-knn"], X, y, X, y).chosen == 10
    with pytest.raises(ProbeError, match="10 training samples are too few for 10 neighbours"):
        protocols.run(PROTOCOLS["dinov2-knn"], X, y)


# -- SVMs -----------------------------------------------------------------------------------------------------------

COSTS = (0.1, 1.0, 10.0)


def vissl(X, y, folds=3, costs=COSTS):
    """VISSL's training as its code has it: the cost and the machine of each class."""
    Z = X / (np.linalg.norm(X, axis=1) + 1e-5)[:, None]
    found = {}
    for label in np.unique(y):
        signs = np.where(y == label, 1, -1)
        machines = [LinearSVC(C=C, dual=True, class_weight={1: 2, -1: 1}, max_iter=2000, random_state=0) for C in costs]
        scores = [
            cross_val_score(machine, Z, signs, cv=folds, scoring="average_precision").mean() for machine in machines
        ]
        best = int(np.argmax(scores)) if len(costs) > 1 else 0
        found[label] = (costs[best], machines[best].fit(Z, signs))
    return found


def area(scores, positive):
    """VISSL's average precision, with its loops."""
    order = np.argsort(scores)[::-1]
    hits = positive[order].astype(float)
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    recall = np.cumsum(hits) / hits.sum()
    rec, prec = np.r_[0, recall, 1], np.r_[0, precision, 0]
    for i in range(len(prec) - 2, -1, -1):
        prec[i] = max(prec[i], prec[i + 1])
    return sum((rec[i] - rec[i - 1]) * prec[i] for i in np.where(rec[1:] != rec[:-1])[0] + 1)


@pytest.mark.parametrize("names", [("ant", "bee", "cat"), ("no", "yes")])
@pytest.mark.parametrize("val", [True, False])
def test_vissl_svm_is_vissls(names, val):
    X, y = clusters(60, names=names)
    Z, truth = clusters(30, names=names, seed=1)
    protocol = replace(PROTOCOLS["vissl-svm"], grid=COSTS)
    outcome = protocols.run(protocol, X, y, *((Z, truth) if val else ()))
    every = (np.concatenate([X, Z]), np.concatenate([y, truth])) if val else (X, y)
    by_hand = vissl(*every)
    assert outcome.chosen == {label: cost for label, (cost, _) in by_hand.items()}
    new, labels = clusters(40, names=names, seed=2)
    unit = new / (np.linalg.norm(new, axis=1) + 1e-5)[:, None]
    scores = np.stack([machine.decision_function(unit) for _, machine in by_hand.values()], axis=1)
    np.testing.assert_allclose(outcome.estimator.decision_function(new), scores)
    found = protocols.evaluate(outcome, new, labels)
    assert found["per_class"] == pytest.approx({c: area(scores[:, i], labels == c) for i, c in enumerate(by_hand)})
    assert found["map"] == pytest.approx(np.mean(list(found["per_class"].values())))
    assert outcome.selected_on == "3-fold cross-validation on train" + " and val" * val


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]])
def test_average_precision_of_equal_scores_does_not_depend_on_the_order_of_rows(order):
    positive, scores = np.array([True, False, False, True]), np.array([1.0, 1, 1, 0])  # 1 of 3, then 2 of 4
    found = probes.average_precision(scores[order], positive[order])
    assert found == 0.5


def test_average_precision_is_the_interpolated_area():
    rng = np.random.default_rng(0)
    for seed in range(20):
        scores = rng.normal(size=(30, 2))
        truth = np.array(["a", "b"])[rng.integers(0, 2, 30)]
        found = average_precisions(scores, truth, np.array(["a", "b", "c"])[:2])["per_class"]
        assert found["a"] == pytest.approx(area(scores[:, 0], truth == "a")), seed
    assert "c" not in average_precisions(np.zeros((2, 3)), np.array(["a", "b"]), np.array(["a", "b", "c"]))["per_class"]


def test_machines_that_stop_early_are_named():
    X, y = clusters(30, spread=3)
    outcome = protocols.run(replace(PROTOCOLS["vissl-svm"], grid=(1e5,)), X, y)
    assert "stopped at 2,000 iterations, as published: " in outcome.notes[0]


def test_a_class_too_small_for_the_folds_is_named():
    X, y = clusters(30)
    y[0] = y[1] = "dog"
    with pytest.raises(ProbeError, match="'dog' has 2 images, fewer than the 3 folds"):
        protocols.run(PROTOCOLS["vissl-svm"], X, y)


# -- few shots ------------------------------------------------------------------------------------------------------


def test_draws_are_big_visions():
    y = clusters(30)[1]
    for repeat, rows in enumerate(shots.draws(y, 4, 3, 5)):
        generator = np.random.default_rng(5 + repeat)
        expected = [generator.permutation(np.where(y == label)[0])[:4] for label in ("ant", "bee", "cat")]
        assert rows.tolist() == np.concatenate(expected).tolist()


@pytest.mark.parametrize("names", [("ant", "bee", "cat"), ("no", "yes")])
@pytest.mark.parametrize("width", [3, 40])  # primal, dual
def test_bigvisions_ridge_is_scikit_learns_on_its_features(names, width):
    X, y = clusters(24, width, names)
    X[:, 1] = 5  # constant
    new, _ = clusters(30, width, names, seed=1)
    mean, std = X.mean(axis=0), X.std(axis=0) + 1e-5

    def features(rows):
        return np.column_stack([(rows - mean) / std, np.full(len(rows), 100.0)])

    targets = 2.0 * (y[:, None] == np.array(names)) - 1
    ridge = Ridge(alpha=1024, fit_intercept=False, solver="cholesky").fit(features(X), targets)
    estimator = shots.fit_ridge(X, y, 1024.0)
    wanted = ridge.predict(features(new))
    np.testing.assert_array_equal(estimator.predict(new), np.array(names)[wanted.argmax(axis=1)])
    scores = estimator.decision_function(new)
    np.testing.assert_allclose(scores, wanted if len(names) > 2 else wanted[:, 1], rtol=1e-6, atol=1e-9)


def test_bigvision_fewshot_is_the_mean_over_its_draws():
    X, y = clusters()
    Z, truth = clusters(50, seed=1)
    found = protocols.run_shots(PROTOCOLS["bigvision-fewshot"], X, y, Z, truth)
    assert [one["shots"] for one in found] == [1, 5, 10, 25]
    for one in found:
        drawn = shots.draws(y, one["shots"], 3, 0)
        values = [np.mean(shots.fit_ridge(X[rows], y[rows], 1024.0).predict(Z) == truth) for rows in drawn]
        assert one["values"] == pytest.approx(values)
        assert (one["mean"], one["std"]) == pytest.approx((np.mean(values), np.std(values, ddof=1)))
        assert one["metric"] == "top1"


def test_the_interval_of_the_mean_over_draws_is_students():
    X, y = clusters(spread=2)
    Z, truth = clusters(50, spread=2, seed=1)
    protocol = replace(PROTOCOLS["bigvision-fewshot"], repeats=5)
    for one in protocols.run_shots(protocol, X, y, Z, truth):
        error = one["std"] / np.sqrt(5)
        assert one["interval"] == pytest.approx(scipy.stats.t.interval(0.95, 4, one["mean"], error))
    easy = protocols.run_shots(PROTOCOLS["bigvision-fewshot"], *clusters(spread=0), *clusters(50, spread=0))
    assert {tuple(one["interval"]) for one in easy} == {(1.0, 1.0)}
    alone = protocols.run_shots(replace(protocol, repeats=1), X, y, Z, truth)
    assert {(one["std"], one["interval"]) for one in alone} == {(None, None)}


@pytest.mark.slow
def test_vissl_lowshot_selects_inside_each_draw():
    X, y = clusters(60)
    Z, truth = clusters(40, seed=1)
    protocol = replace(PROTOCOLS["vissl-lowshot-svm"], grid=COSTS, shots=(1, 2, 4, 50), repeats=2)
    found = protocols.run_shots(protocol, X, y, Z, truth)
    assert [one["shots"] for one in found] == [1, 2, 4]
    unit = Z / (np.linalg.norm(Z, axis=1) + 1e-5)[:, None]
    for one in found:
        values = []
        for rows in shots.draws(y, one["shots"], 2, 0):
            if one["shots"] == 1:
                by_hand = {
                    label: (1.0, LinearSVC(class_weight={1: 2, -1: 1}, dual=True, max_iter=2000, random_state=0))
                    for label in np.unique(y)
                }
                normal = X[rows] / (np.linalg.norm(X[rows], axis=1) + 1e-5)[:, None]
                for label, (_, machine) in by_hand.items():
                    machine.fit(normal, np.where(y[rows] == label, 1, -1))
            else:
                by_hand = vissl(X[rows], y[rows], min(3, one["shots"]))
            scores = {label: machine.decision_function(unit) for label, (_, machine) in by_hand.items()}
            values.append(np.mean([area(scores[label], truth == label) for label in scores]))
        assert one["values"] == pytest.approx(values)
        assert one["metric"] == "map"


# -- exact copies of an image ---------------------------------------------------------------------------------------


def copied(n=40, times=3, width=6, names=("ant", "bee"), *, seed=0):
    """Embeddings without meaning, each so many times, in random order; and the image that each row is of."""
    images = np.random.default_rng(seed).permutation(np.tile(np.arange(n), times))
    X, y = np.random.default_rng(seed + 1).normal(size=(n, width)), np.array(names)[np.arange(n) % len(names)]
    return X[images], y[images], np.array([f"digest {image}" for image in images])


@pytest.mark.parametrize("name", ["clip", "dinov2-logreg"])
def test_copies_are_held_out_together(name):
    _, y, groups = copied()
    fitted, held = searches.hold_out(PROTOCOLS[name], y, 0, groups)
    assert sorted([*fitted, *held]) == list(range(120))
    assert not set(groups[fitted]) & set(groups[held])
    assert len(held) == 120 * PROTOCOLS[name].held_out


@pytest.mark.parametrize("name", ["clip", "kornblith", "lpft", "dinov2-logreg"])
def test_without_copies_the_same_rows_are_held_out_in_the_same_order(name):
    y = clusters(95)[1]
    for one, other in zip(
        searches.hold_out(PROTOCOLS[name], y, 4),
        searches.hold_out(PROTOCOLS[name], y, 4, np.random.default_rng(0).permutation(95)),
        strict=True,
    ):
        assert one.tolist() == other.tolist()


@pytest.mark.parametrize("name", ["kornblith", "dinov2-knn", "vissl-svm", "featurepipe"])
def test_copies_do_not_flatter_the_selection(name):
    X, y, groups = copied(width=60)
    protocol = replace(PROTOCOLS[name], grid=PROTOCOLS[name].grid[:1] if name == "dinov2-knn" else (1e4, 1e5))
    key = "map" if name == "vissl-svm" else "top1"
    alone = protocols.run(protocol, X, y)
    together = protocols.run(protocol, X, y, groups=groups)
    assert max(step[key] for step in alone.path) > 0.85
    assert max(step[key] for step in together.path) < 0.75


@pytest.mark.slow
@pytest.mark.parametrize("name", ["clip", "dinov2-knn", "vissl-svm", "featurepipe"])
def test_groups_of_single_rows_change_nothing(name):
    X, y = clusters(60, spread=2)
    Z, truth = clusters(30, spread=2, seed=1)
    protocol = PROTOCOLS[name] if name != "clip" else coarser(name)
    if name == "vissl-svm":
        protocol = replace(protocol, grid=(0.1, 10.0))
    for val in ((), (Z, truth)):
        one = protocols.run(protocol, X, y, *val)
        other = protocols.run(protocol, X, y, *val, groups=np.arange(90 if val else 60)[::-1])
        assert (one.path, one.chosen, one.selected_on) == (other.path, other.chosen, other.selected_on)
        np.testing.assert_array_equal(one.estimator.predict(Z), other.estimator.predict(Z))


def test_a_copys_own_votes_are_left_out_and_no_others():
    X, y, groups = copied(20, 2)
    outcome = protocols.run(PROTOCOLS["dinov2-knn"], X, y, groups=groups)
    by_hand = [np.mean([votes(X[groups != g], y[groups != g], X[[i]], 10)[0] == y[i] for i, g in enumerate(groups)])]
    by_hand += [np.mean([votes(X[groups != g], y[groups != g], X[[i]], 20)[0] == y[i] for i, g in enumerate(groups)])]
    assert [step["top1"] for step in outcome.path] == pytest.approx(by_hand)
    with pytest.raises(ProbeError, match="12 training samples, of which 5 are one, are too few for 10 neighbours"):
        protocols.run(PROTOCOLS["dinov2-knn"], X[:12], np.resize(["a", "b"], 12), groups=[0] * 5 + list(range(1, 8)))


def test_a_class_of_copies_is_too_small_for_the_folds():
    X, y = clusters(30)
    groups = np.where(y == "cat", "the same", np.arange(30).astype(str))
    with pytest.raises(ProbeError, match="'cat' has 1 distinct images, fewer than the 3 folds"):
        protocols.run(PROTOCOLS["vissl-svm"], X, y, groups=groups)


def test_copies_on_train_and_val_share_a_fold():
    X, y, groups = copied(24, 2, width=60)
    protocol = replace(PROTOCOLS["vissl-svm"], grid=(1e4, 1e5))
    half = (X[:24], y[:24], X[24:], y[24:])
    apart = protocols.run(protocol, *half).path[0]["map"]
    assert protocols.run(protocol, *half, groups=groups).path[0]["map"] < apart - 0.1


def test_no_draw_holds_an_image_twice():
    _, y, groups = copied()
    for rows in shots.draws(y, 5, 10, 0, groups):
        assert len(set(groups[rows])) == len(rows) == 10
    X, y, groups = copied(12, 4)
    found = protocols.run_shots(PROTOCOLS["bigvision-fewshot"], X, y, X, y, groups=groups)
    assert [one["shots"] for one in found] == [1, 5]


def test_groups_are_one_for_each_row():
    X, y = clusters(30)
    with pytest.raises(ProbeError, match="30 groups for 60 rows"):
        protocols.run(PROTOCOLS["clip"], X, y, X, y, groups=np.arange(30))
    with pytest.raises(ProbeError, match="29 groups for 30 rows"):
        protocols.run_shots(PROTOCOLS["bigvision-fewshot"], X, y, X, y, groups=np.arange(29))


# -- nothing is selected on what is reported ------------------------------------------------------------------------


@pytest.mark.slow
def test_permuted_test_labels_change_no_few_shot_classifier():
    X, y = clusters(40)
    Z, truth = clusters(30, seed=1)
    protocol = replace(PROTOCOLS["vissl-lowshot-svm"], grid=(0.1, 1.0), shots=(2, 4), repeats=2)

    def fit(rows, count):  # no test label is near
        estimator, _ = margins.fit(X[rows], y[rows], protocol.grid, folds=min(3, count), seed=0)
        return estimator.decision_function(Z)

    scores = [[fit(rows, count) for rows in shots.draws(y, count, protocol.repeats, 0)] for count in protocol.shots]
    for labels in (truth, np.roll(truth, 1)):
        found = protocols.run_shots(protocol, X, y, Z, labels)
        expected = [[average_precisions(one, labels, np.unique(y))["map"] for one in some] for some in scores]
        assert [one["values"] for one in found] == expected


# -- bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PROTOCOLS)
def test_data_that_no_protocol_can_use(name):
    X, y = clusters(30)
    other = {"X_test": X, "y_test": y} if PROTOCOLS[name].shots else {"X_val": X, "y_val": y}
    follow = protocols.run_shots if PROTOCOLS[name].shots else protocols.run
    labels = "y_test" if PROTOCOLS[name].shots else "y_val"
    with pytest.raises(ProbeError, match="only one class \\('ant'\\)"):
        follow(PROTOCOLS[name], X, np.full(30, "ant"), **other)
    with pytest.raises(ProbeError, match="not finite"):
        follow(PROTOCOLS[name], np.where(X > 4, np.nan, X), y, **other)
    with pytest.raises(ProbeError, match="class 'emu' is unknown"):
        follow(PROTOCOLS[name], X, y, **(other | {labels: np.where(y == "ant", "emu", y)}))


def test_what_a_protocol_has_not():
    X, y = clusters(30)
    with pytest.raises(ProbeError, match="'clap' is unknown; use one of featurepipe, clip, dinov2-logreg"):
        protocols.named("clap")
    with pytest.raises(ProbeError, match="lpft has no metric 'map'; use top1"):
        protocols.run(PROTOCOLS["lpft"], X, y, metric="map")
    with pytest.raises(ProbeError, match="use run_shots"):
        protocols.run(PROTOCOLS["bigvision-fewshot"], X, y)
    with pytest.raises(ProbeError, match="clip has no shots; use run"):
        protocols.run_shots(PROTOCOLS["clip"], X, y, X, y)
    with pytest.raises(ProbeError, match=r"holds out 10% of the training samples .* of 9 that leaves none"):
        protocols.run(PROTOCOLS["dinov2-logreg"], X[:9], y[:9])


def test_rows_and_labels_must_match():
    X, y = np.random.default_rng(0).normal(size=(60, 4)), np.arange(60) % 3
    for name in ("clip", "kornblith", "dinov2-logreg", "dinov2-knn", "vissl-svm", "featurepipe"):
        with pytest.raises(ProbeError, match=r"n labels; got \(60, 4\) and \(59,\)"):
            protocols.run(protocols.named(name), X, y[1:])
        with pytest.raises(ProbeError, match="embeddings of width 4 and 3"):
            protocols.run(protocols.named(name), X, y, X[:9, :3], y[:9])
