"""Every kind of probe against scikit-learn, its calibration, class weights, and data that are hard to take."""

import numpy as np
import pytest
from doubles import VECTOR_KINDS
from scaling import FlooredScaler, divisors
from scipy.special import softmax
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.metrics.pairwise import cosine_similarity
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid
from sklearn.neural_network import MLPClassifier
from sklearn.svm import LinearSVC
from sklearn.utils.validation import has_fit_parameter

from featurepipe import probes
from featurepipe.errors import ProbeError
from featurepipe.probes.kinds import mlp
from featurepipe.probes.kinds.knn_estimators import CosineNeighbors

KINDS = VECTOR_KINDS
WEIGHTED = ("logistic", "ridge", "svm", "lda", "mlp")
NEW = {"svm": 0.01, "lda": 0.1, "centroid": None, "knn": 5, "mlp": 1.0}
SHAPES = [(90, 8, 3), (60, 6, 2), (24, 60, 4), (20, 40, 2)]


def clusters(n=60, width=8, classes=3, *, seed=0, spread=1.5):
    """Noisy clusters, every class equally often; features of very different scales."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % classes
    X = np.random.default_rng(99).normal(size=(classes, width))[y] + spread * rng.normal(size=(n, width))
    return (X * 10.0 ** np.linspace(-1, 1, width) + 2).astype(np.float32), y


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(mlp, "EPOCHS", 5)
    monkeypatch.setattr(mlp, "HIDDEN", 8)


def uneven(kind=None):
    """Two classes of 60 and 10 samples that overlap, and their balanced weights."""
    X, y = clusters(120, 6, 2, spread=2.5)
    kept = (y == 0) | (np.arange(120) < 20)
    X, y = X[kept].astype(float), y[kept]
    return X, y, len(y) / (2 * np.bincount(y))[y]


# -- the same as scikit-learn -------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("C", [1e-4, 0.01, 1.0])
def test_svm_is_linear_svc_on_standardised_features(shape, C):
    X, y = clusters(*shape)
    T = clusters(50, *shape[1:], seed=1)[0].astype(float)
    probe, scaler = probes.fit("svm", X, y, value=C), FlooredScaler().fit(X.astype(float))
    theirs = LinearSVC(C=C, dual=False, tol=1e-9, max_iter=100_000).fit(scaler.transform(X.astype(float)), y)
    expected = theirs.decision_function(scaler.transform(T))
    assert isinstance(probe.estimator, LinearSVC)
    assert probe.path[0]["converged"]
    np.testing.assert_allclose(probe.estimator.decision_function(T), expected, atol=2e-3 * np.abs(expected).max())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("shrinkage", [0.01, 0.3, 1.0])
def test_lda_is_scikit_learns_on_standardised_features(shape, shrinkage):
    X, y = clusters(*shape)
    T = clusters(50, *shape[1:], seed=1)[0].astype(float)
    estimator, scaler = probes.fit("lda", X, y, value=shrinkage).estimator, FlooredScaler().fit(X.astype(float))
    theirs = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage)
    theirs.fit(scaler.transform(X.astype(float)), y)
    assert isinstance(estimator, LinearDiscriminantAnalysis)
    np.testing.assert_allclose(estimator.predict_proba(T), theirs.predict_proba(scaler.transform(T)), atol=1e-6)
    np.testing.assert_allclose(softmax(probes.decision_scores(estimator, T), 1), estimator.predict_proba(T), atol=1e-9)


def test_lda_without_shrinkage_takes_more_rows_than_features_and_the_other_way_round():
    X, y = clusters(90, 8, 3)
    T = clusters(50, 8, 3, seed=1)[0].astype(float)
    ours, theirs = probes.fit("lda", X, y, value=0).estimator, LinearDiscriminantAnalysis().fit(X.astype(float), y)
    # scikit-learn's svd divides by n - K, lsqr by n
    np.testing.assert_allclose(ours.predict(T), theirs.predict(T))
    wide = probes.fit("lda", *clusters(20, 60, 4), value=0)
    assert np.isfinite(wide.estimator.coef_).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_centroid_is_nearest_centroid(shape):
    X, y = clusters(*shape)
    T = clusters(50, *shape[1:], seed=1)[0].astype(float)
    probe, theirs = probes.fit("centroid", X, y), NearestCentroid().fit(X.astype(float), y)
    assert probe.chosen is None
    assert list(probe.path[0]) == ["top1", "log_loss", "tied", "converged"]
    np.testing.assert_allclose(probe.estimator.centroids_, theirs.centroids_, rtol=1e-9)
    np.testing.assert_allclose(probe.estimator.within_class_std_dev_, theirs.within_class_std_dev_, rtol=1e-9)
    assert probe.estimator.predict(T).tolist() == theirs.predict(T).tolist()
    distances = ((T[:, None] - theirs.centroids_) ** 2).sum(axis=2)
    np.testing.assert_allclose(probe.predict_proba(T), softmax(-distances / 2 / probe.temperature, 1), atol=1e-9)


@pytest.mark.parametrize("k", [1, 5, 20])
def test_knn_is_dinov2s_vote(k):
    X, y = clusters(60, 8, 4)
    T = clusters(30, 8, 4, seed=1)[0].astype(float)
    estimator = probes.fit("knn", X, y, value=k).estimator
    similar = cosine_similarity(T, X)
    nearest = np.argsort(-similar, axis=1)[:, :k]
    weights = softmax(np.take_along_axis(similar, nearest, axis=1) / 0.07, axis=1)  # as dinov2/eval/knn.py
    votes = (weights[:, :, None] * np.eye(4)[y[nearest]]).sum(axis=1)
    np.testing.assert_allclose(estimator.predict_proba(T), votes, atol=1e-5)
    smooth = (k * votes + 1 / 4) / (k + 1)
    np.testing.assert_allclose(softmax(probes.decision_scores(estimator, T), 1), smooth, atol=1e-5)


def test_the_strengths_of_knn_end_where_the_rows_do():
    X, y = clusters(30)
    assert [step["n_neighbors"] for step in probes.fit("knn", X, y).path] == [1, 5, 10, 20]
    assert probes.fit("knn", X, y, value=30).estimator.n_neighbors == 30
    assert probes.fit("knn", X, y, X, y, value=30).estimator.n_neighbors == 30


@pytest.mark.parametrize("classes", [2, 3])
def test_mlp_is_an_mlp_classifier_on_standardised_features(classes):
    X, y = clusters(60, 8, classes)
    T = clusters(30, 8, classes, seed=1)[0].astype(float)
    probe, scaler = probes.fit("mlp", X, y, value=1.0, seed=3), FlooredScaler().fit(X.astype(float))
    theirs = MLPClassifier((8,), alpha=1.0, max_iter=5, random_state=3)
    with pytest.warns(UserWarning, match="Maximum iterations"):
        theirs.fit(scaler.transform(X.astype(float)).astype(np.float32), y)
    np.testing.assert_allclose(
        probe.estimator.predict_proba(T), theirs.predict_proba(scaler.transform(T)), rtol=1e-3, atol=1e-4
    )
    np.testing.assert_allclose(
        softmax(probes.decision_scores(probe.estimator, T), 1), probe.estimator.predict_proba(T), atol=1e-9
    )
    other = probes.fit("mlp", X, y, value=1.0, seed=4).estimator
    assert not np.allclose(other.coefs_[0], probe.estimator.coefs_[0])


@pytest.mark.parametrize(("kind", "value"), NEW.items())
@pytest.mark.parametrize("names", [["no", "yes"], ["b", "a", "ü"], [False, True], [7, 3, 5]])
def test_labels_come_back_as_they_were(kind, value, names):
    X, y = clusters(60, 8, len(names), spread=0.3)
    probe = probes.fit(kind, X, np.array(names, object if isinstance(names[0], str) else None)[y], value=value)
    assert probe.classes.tolist() == sorted(names)
    guess = probe.estimator.predict(X.astype(float))
    assert (probe.classes[probe.predict_proba(X).argmax(1)] == guess).all()
    if kind != "mlp":  # five epochs
        assert np.mean(guess == np.array(names)[y]) > 0.9


# -- calibration --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_the_temperature_is_chosen_on_the_selection_scores_alone(kind):
    X, y = clusters(90, 8, 3, spread=2.5)
    V, v = clusters(600, 8, 3, spread=2.5, seed=1)
    value = {"logistic": 0.1, "ridge": 1.0, "approximate-knn": 5, **NEW}[kind]
    probe = probes.fit(kind, X, y, V, v, value=value)
    ((estimator, _),) = probes.KINDS[kind].fit_path(X.astype(float), y, [value])
    before, after = probes.evaluate(estimator, V, v), probes.evaluate(estimator, V, v, probe.temperature)
    assert probe.scores["ece"] == pytest.approx(after["ece"])
    assert probe.scores["ece_uncalibrated"] == pytest.approx(before["ece"])
    assert after["ece_uncalibrated"] == before["ece_uncalibrated"] == before["ece"]
    assert probe.scores["log_loss"] == pytest.approx(after["log_loss"])
    assert after["log_loss"] <= before["log_loss"]
    for other in (0.9, 1.1):
        assert probes.evaluate(estimator, V, v, other * probe.temperature)["log_loss"] > after["log_loss"] - 1e-5
    if kind in ("ridge", "centroid"):  # whose scores were never meant for a softmax
        assert after["ece"] < before["ece"]


@pytest.mark.parametrize("kind", KINDS)
def test_selection_data_without_a_mistake_make_no_probe_certain(kind):
    X, y = clusters(90, 8, 3, spread=0.1)
    probe = probes.fit(kind, X, y, *clusters(48, 8, 3, spread=0.1, seed=1), value=NEW.get(kind, 1.0))
    if kind == "mlp":  # five epochs
        assert np.isfinite(np.log(probe.temperature))
        return
    assert probe.scores["top1"] == 1
    assert probe.scores["log_loss"] < 1 / 30
    assert probe.scores["ece"] == pytest.approx(1 / 50, abs=1e-4)  # Laplace's rule: 49 of 50


def test_scores_without_meaning_are_not_trusted():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, 500)
    scores = rng.normal(size=(500, 2)) - np.eye(2)[truth]  # worse than none
    assert softmax(scores / probes.fit_temperature(scores, truth, np.arange(2)), 1).max() < 0.51


def test_distances_of_any_unit_are_calibrated():
    X, y = clusters(90, 8, 3, spread=2.5)
    one, other = probes.fit("centroid", X, y), probes.fit("centroid", X.astype(float) * 1e6, y)
    assert other.temperature == pytest.approx(1e12 * one.temperature, rel=1e-3)
    np.testing.assert_allclose(other.predict_proba(X.astype(float) * 1e6), one.predict_proba(X), atol=1e-4)


# -- few rows -----------------------------------------------------------------------------------------------------


def standardise(X, w=None):
    """Features standardised by hand: each by its own deviation or the floor, of fewer than ten rows all by one."""
    return (X - np.average(X, axis=0, weights=w)) / divisors(X, w)


@pytest.mark.parametrize("weight", [None, "balanced"])
@pytest.mark.parametrize("kind", WEIGHTED[:-1])
@pytest.mark.parametrize("rows", [9, 10])
def test_fewer_than_ten_rows_are_standardised_by_one_scale(kind, rows, weight):
    X, y = clusters(rows, 30, 2)
    X = np.concatenate([X, np.full((rows, 1), 7.25)], axis=1).astype(float)
    Z = standardise(X, None if weight is None else rows / (2 * np.bincount(y))[y])
    value = {"logistic": 0.1, "ridge": 10.0, "svm": 0.01, "lda": 0.1}[kind]
    theirs = {
        "logistic": LogisticRegression(C=value, class_weight=weight, tol=1e-9, max_iter=10_000),
        "ridge": RidgeClassifier(alpha=value, class_weight=weight),
        "svm": LinearSVC(C=value, class_weight=weight, dual=False, tol=1e-9, max_iter=100_000),
        "lda": LinearDiscriminantAnalysis(
            solver="lsqr", shrinkage=value, priors=None if weight is None else [0.5, 0.5]
        ),
    }[kind].fit(Z, y)
    ours = probes.fit(kind, X, y, value=value, class_weight=weight).estimator.decision_function(X)
    np.testing.assert_allclose(ours, theirs.decision_function(Z), atol=2e-3 * np.abs(ours).max())


@pytest.mark.parametrize("rows", [2, 9, 10])
def test_an_mlp_of_fewer_than_ten_rows_has_one_scale(rows):
    X, y = clusters(rows, 30, 2)
    probe, Z = probes.fit("mlp", X, y, value=1.0), standardise(X.astype(float)).astype(np.float32)
    theirs = MLPClassifier((8,), alpha=1.0, max_iter=5, random_state=0)
    with pytest.warns(UserWarning, match="Maximum iterations"):
        theirs.fit(Z, y)
    np.testing.assert_allclose(probe.estimator.predict_proba(X), theirs.predict_proba(Z), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", WEIGHTED[:-1])
def test_one_sample_per_class_says_more_where_they_lie_far_apart(kind):
    rng = np.random.default_rng(0)
    y = np.arange(100) % 2
    X = np.concatenate([40.0 * y[:, None], np.zeros((100, 1)), np.full((100, 1), 1e6)], axis=1)
    X = np.concatenate([X, rng.normal(size=(100, 200))], axis=1).astype(np.float32)  # and noise
    for pair in range(0, 20, 2):
        guess = check(probes.fit(kind, X[pair : pair + 2], y[:2]), X)
        assert (guess == y).all()  # by their own deviations, all features would count alike, 200 of which are noise


# -- class weights ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", WEIGHTED[:-1])
def test_balanced_weights_are_scikit_learns(kind):
    X, y, w = uneven()
    value = {"logistic": 0.1, "ridge": 10.0, "svm": 0.01, "lda": 0.1}[kind]
    Z = FlooredScaler().fit(X, sample_weight=w).transform(X)
    theirs = {
        "logistic": LogisticRegression(C=value, class_weight="balanced", tol=1e-9, max_iter=10_000),
        "ridge": RidgeClassifier(alpha=value, class_weight="balanced"),
        "svm": LinearSVC(C=value, class_weight="balanced", dual=False, tol=1e-9, max_iter=100_000),
        "lda": LinearDiscriminantAnalysis(solver="lsqr", shrinkage=value, priors=[0.5, 0.5]),
    }[kind].fit(Z, y)
    ours = probes.fit(kind, X, y, value=value, class_weight="balanced").estimator.decision_function(X)
    np.testing.assert_allclose(ours, theirs.decision_function(Z), atol=2e-3 * np.abs(ours).max())


@pytest.mark.parametrize("kind", WEIGHTED[:-1])
def test_balanced_weights_help_the_small_class(kind):
    X, y, _ = uneven()
    plain, balanced = (
        probes.fit(kind, X, y, class_weight=weight).estimator.predict(X) for weight in (None, "balanced")
    )
    assert (balanced[y == 1] == 1).mean() > (plain[y == 1] == 1).mean()


@pytest.mark.skipif(not has_fit_parameter(MLPClassifier(), "sample_weight"), reason="needs scikit-learn 1.7")
def test_an_mlp_has_class_weights_too():
    X, y, _ = uneven()
    how = {"value": 1.0}  # at one strength: what is chosen may differ, too
    plain, balanced = (probes.fit("mlp", X, y, class_weight=w, **how).estimator for w in (None, "balanced"))
    assert balanced.predict_proba(X)[:, 1].mean() > plain.predict_proba(X)[:, 1].mean()


@pytest.mark.parametrize("kind", ["centroid", "knn"])
def test_kinds_without_class_weights_say_so(kind):
    with pytest.raises(ProbeError, match=f"a {kind} probe has no class weights; .* logistic"):
        probes.fit(kind, *clusters(), class_weight="balanced")


def test_other_class_weights_are_refused():
    with pytest.raises(ProbeError, match="'heavy' is unknown"):
        probes.fit("ridge", *clusters(), class_weight="heavy")


# -- strengths ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        ("svm", 0, "C must be above 0"),
        ("mlp", np.nan, "alpha must be above 0"),
        ("lda", 1.01, "shrinkage must be from 0 to 1"),
        ("lda", -0.1, "shrinkage must be from 0 to 1"),
        ("lda", np.nan, "shrinkage must be from 0 to 1"),
        ("knn", 0, "n_neighbors must be a whole number from 1 to the 60"),
        ("knn", 2.5, "n_neighbors must be a whole number"),
        ("knn", 61, "n_neighbors must be a whole number"),
        ("knn", np.inf, "n_neighbors must be a whole number"),
        ("centroid", 1.0, "no strength to set"),
    ],
)
def test_strengths_that_a_kind_cannot_have(kind, value, message):
    with pytest.raises(ProbeError, match=message):
        probes.fit(kind, *clusters(), value=value)


@pytest.mark.parametrize(
    ("kind", "chosen", "edge"),
    [
        ("logistic", 1e-5, True),
        ("logistic", 1.0, False),
        ("lda", 1.0, False),
        ("centroid", None, False),
        ("knn", 1.0, False),
        ("knn", 200.0, True),
    ],
)
def test_only_an_open_end_of_a_grid_is_an_edge(kind, chosen, edge):
    assert probes.KINDS[kind].is_at_edge(chosen) is edge


# -- data that are hard to take -----------------------------------------------------------------------------------


def check(probe, X):
    proba = probe.predict_proba(X)
    assert np.isfinite(proba).all()
    np.testing.assert_allclose(proba.sum(axis=1), 1)
    return probe.estimator.predict(np.asarray(X, float))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_class_of_one_sample(kind):
    X, y = clusters(30, classes=2, spread=0.3)
    X, y = np.concatenate([X, X[:1] + 40]), np.append(y, 2)
    probe = probes.fit(kind, X, y)
    assert probe.scores["n"] == 30
    assert probe.classes.tolist() == [0, 1, 2]
    check(probe, X)


@pytest.mark.parametrize("kind", KINDS)
def test_one_and_two_samples_per_class(kind):
    X, y = clusters(3, 20, 3, spread=0.1)
    probe = probes.fit(kind, X, y)
    assert probe.temperature == (20 if kind == "lda" else 1)  # whose scores are sums over the features
    assert kind == "mlp" or check(probe, X).tolist() == y.tolist()
    X, y = clusters(6, 20, 3, spread=0.1)
    guess = check(probes.fit(kind, X, y), X)
    assert kind in ("mlp", "ridge") or np.mean(guess == y) > 0.8


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(12, 3), (6, 10)])
def test_equal_rows(kind, shape):
    y = np.arange(shape[0]) % 3 // 2
    assert set(check(probes.fit(kind, np.full(shape, 0.1, np.float32), y), np.full(shape, 0.1))) <= {0, 1}


@pytest.mark.parametrize("kind", KINDS)
def test_constant_features_and_zero_rows_change_little(kind):
    X, y = clusters(40, 6, 2, spread=0.3)
    X = np.concatenate([X, np.zeros((40, 1)), np.full((40, 1), 7.25)], axis=1)
    X[0] = 0
    guess = check(probes.fit(kind, X, y), X)
    assert kind == "mlp" or np.mean(guess[1:] == y[1:]) > 0.85


@pytest.mark.parametrize("kind", KINDS)
def test_duplicated_rows(kind):
    X, y = clusters(20, 30, 2, spread=0.3)
    X, y = np.repeat(X, 3, axis=0), np.repeat(y, 3)
    guess = check(probes.fit(kind, X, y), X)
    assert kind == "mlp" or (guess == y).all()


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("n", "width", "classes"), [(40, 3, 20), (30, 200, 3)])
def test_more_classes_than_features_and_more_features_than_rows(kind, n, width, classes):
    X, y = clusters(n, width, classes, spread=0.2)
    probe = probes.fit(kind, X, y)
    assert probe.estimator.n_features_in_ == width
    assert len(np.unique(check(probe, X))) > 1 or kind == "mlp"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite(kind, bad):
    X, y = clusters()
    X[3, 2] = bad
    with pytest.raises(ProbeError, match="not finite"):
        probes.fit(kind, X, y)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["svm", "lda", "centroid", "knn"])
def test_few_shots_of_every_kind(kind):
    X, y = clusters(60, spread=0.5)
    few = probes.fit_few_shot(kind, X, y, X, y, shots=[1, 2, 5], repeats=2)
    assert all(one["mean"] > 0.5 for one in few)


# -- weights of rows ------------------------------------------------------------------------------------------------


def weighted_rows(n, width, seed=0):
    """Rows with whole weights, and the same rows that many times."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 3
    X = rng.normal(size=(n, width)) + y[:, None] * np.linspace(0, 1, width)
    weights = rng.integers(1, 4, n).astype(float)
    times = weights.astype(int)
    return X, y, weights, X.repeat(times, axis=0), y.repeat(times)


@pytest.mark.parametrize("kind", probes.kinds.names("weighs_rows"))
@pytest.mark.parametrize(("n", "width"), [(60, 5), (30, 40), (6, 4)])  # X'X, the rows themselves, a shared scale
@pytest.mark.parametrize("class_weight", [None, "balanced"])
def test_a_row_of_weight_two_is_the_row_twice(kind, n, width, class_weight):
    X, y, weights, many, labels = weighted_rows(n, width)
    if class_weight is not None:  # which counts rows, as scikit-learn does, so that they have to be as many
        many, labels, weights = X.repeat(2, axis=0), y.repeat(2), np.full(n, 2.0)
    how = {"value": 0.1, "class_weight": class_weight, "measure": False}
    one = probes.fit(kind, X, y, sample_weight=weights, **how).estimator
    same = probes.fit(kind, many, labels, **how).estimator
    plain = probes.fit(kind, X, y, **how).estimator
    np.testing.assert_allclose(one.coef_, same.coef_, rtol=2e-3, atol=2e-4)
    np.testing.assert_allclose(one.intercept_, same.intercept_, rtol=2e-3, atol=2e-4)
    assert np.abs(one.coef_ - plain.coef_).max() > 1e-3 or class_weight is not None


def test_weights_count_in_every_fit_of_the_selection_too():
    X, y, _, _, _ = weighted_rows(60, 5)
    plain, same = probes.fit("lda", X, y), probes.fit("lda", X, y, sample_weight=np.ones(60))
    assert [one["log_loss"] for one in same.path] == pytest.approx([one["log_loss"] for one in plain.path])
    heavy = np.where(y == 0, 50.0, 1.0)
    found = probes.fit("ridge", X, y, sample_weight=heavy)
    assert (probes.predict(found.estimator, X) == 0).mean() > 0.4
    assert found.scores["n"] == 60  # each held-out row counts once
    halves = probes.fit("logistic", X[::2], y[::2], X[1::2], y[1::2], sample_weight=heavy[::2])
    assert halves.selected_on == "val"


@pytest.mark.parametrize("kind", ["centroid", "knn", "mlp"])
def test_kinds_without_weights_of_rows_say_so(kind):
    X, y, weights, _, _ = weighted_rows(30, 5)
    with pytest.raises(ProbeError, match=f"a {kind} probe has no weights of samples.*logistic, ridge, svm, lda"):
        probes.fit(kind, X, y, sample_weight=weights)


@pytest.mark.parametrize("weights", [np.zeros(30), np.ones(29), np.full(30, np.nan), -np.ones(30)])
def test_weights_that_are_none_are_refused(weights):
    X, y, _, _, _ = weighted_rows(30, 5)
    with pytest.raises(ProbeError, match="one number above 0 for each of 30 rows"):
        probes.fit("ridge", X, y, sample_weight=weights)


def test_neighbours_of_a_second_fit_are_those_of_its_own_rows():
    rng = np.random.default_rng(0)
    A, B, queries = (rng.normal(size=(40, 5)).astype(np.float32) for _ in range(3))
    estimator = CosineNeighbors(n_neighbors=3, metric="cosine").fit(A, np.arange(40) % 2)
    estimator.kneighbors(queries)
    found = estimator.fit(B[:20], np.arange(20) % 2).kneighbors(queries, return_distance=False)
    wanted = KNeighborsClassifier(n_neighbors=3, metric="cosine").fit(B[:20], np.arange(20) % 2)
    np.testing.assert_array_equal(found, wanted.kneighbors(queries, return_distance=False))
