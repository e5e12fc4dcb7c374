"""The logistic C path against scikit-learn's own fits, and its certificates."""

import warnings

import numpy as np
import pytest
from scaling import FlooredScaler
from scipy.special import logsumexp
from sklearn.linear_model import LogisticRegression

from featurepipe.errors import ProbeError
from featurepipe.solvers import LogisticPath, SvmPath, paths, stacks

STRENGTHS = np.logspace(-6, 5, 12)
SHAPES = [(300, 40, 5), (60, 100, 4), (200, 20, 2), (50, 300, 2), (30, 5, 10), (12, 400, 12), (400, 30, 3)]


def features(n, width, classes, seed=0, dtype=np.float32):
    """Correlated features with a large mean; every class occurs."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, width)) @ rng.normal(size=(width, width)) / np.sqrt(width) + 3
    y = np.concatenate([np.arange(classes), rng.integers(0, classes, n - classes)])
    X[:, 0] += y
    return X.astype(dtype), y


def objective(X, y, coef, intercept, C, weight=1.0):
    scores = X.astype(float) @ coef.T + intercept
    if len(coef) == 1:
        losses = np.logaddexp(0, scores[:, 0]) - scores[:, 0] * y
    else:
        losses = logsumexp(scores, axis=1) - scores[np.arange(len(y)), y]
    return (weight * losses).sum() + (coef**2).sum() / (2 * C)


def scikit_learns(X, y, C, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = LogisticRegression(C=C, solver="newton-cg", tol=1e-10, max_iter=1000)
        return model.fit(X.astype(float), y, **options)


@pytest.mark.slow
@pytest.mark.parametrize(("n", "width", "classes"), SHAPES)
def test_every_objective_is_as_low_as_scikit_learns_and_the_certificate_true(n, width, classes):
    X, y = features(n, width, classes)
    for C, fit in zip(STRENGTHS, LogisticPath(X, y).fit(STRENGTHS), strict=True):
        ours, certificate = objective(X, y, fit.coef, fit.intercept, C), fit.certificate
        theirs = objective(X, y, *(lambda m: (m.coef_, m.intercept_))(scikit_learns(X, y, C)), C)
        assert ours <= theirs * (1 + paths.TOLERANCE)
        assert ours - theirs <= certificate.gap * ours + 1e-9 * ours  # theirs is no lower than the optimum
        assert certificate.objective == pytest.approx(ours, rel=1e-9)
        assert certificate.converged
        assert certificate.gap <= paths.TOLERANCE
        assert fit.coef.shape == ((1 if classes == 2 else classes), width)


@pytest.mark.parametrize(("n", "width", "classes"), SHAPES[:4])
def test_coefficients_are_scikit_learns(n, width, classes):
    X, y = features(n, width, classes)
    (fit,) = LogisticPath(X, y, tolerance=1e-12).fit([0.1])
    model = scikit_learns(X, y, 0.1)
    np.testing.assert_allclose(fit.coef, model.coef_, atol=1e-4 * np.abs(model.coef_).max())
    np.testing.assert_allclose(fit.intercept, model.intercept_, atol=1e-4 * np.abs(model.intercept_).max())


@pytest.mark.parametrize("classes", [paths.MANY, 200])
def test_many_classes_reach_scikit_learns_optimum_to_the_stated_tolerance(classes):
    X, y = features(2 * classes, 8, classes)
    (fit,) = LogisticPath(X, y, scale=True).fit([0.1])
    Z = FlooredScaler().fit_transform(X.astype(float))
    model = LogisticRegression(C=0.1, tol=1e-7, max_iter=1000).fit(Z, y)
    theirs = objective(Z, y, model.coef_, model.intercept_, 0.1)
    assert fit.certificate.converged
    assert fit.certificate.gap <= paths.LOOSE
    assert -1e-6 * theirs <= fit.certificate.objective - theirs <= (fit.certificate.gap + 1e-6) * theirs


def test_many_classes_reach_any_tolerance_and_by_either_preconditioner(monkeypatch):
    X, y = features(140, 8, 70)
    weight = np.random.default_rng(0).integers(1, 4, 140)
    found = [next(LogisticPath(X, y, sample_weight=weight, tolerance=1e-9).fit([0.1]))]
    monkeypatch.setattr(paths, "COUPLED", 10)
    found.append(next(LogisticPath(X, y, sample_weight=weight, tolerance=1e-9).fit([0.1])))
    monkeypatch.setattr(paths, "MANY", 100)
    monkeypatch.setattr(paths, "COUPLED", 100)
    found.append(next(LogisticPath(X, y, sample_weight=weight, tolerance=1e-9).fit([0.1])))
    for fit in found:
        assert fit.certificate.converged
        assert fit.certificate.objective == pytest.approx(found[-1].certificate.objective, rel=2e-9)


def test_standardised_features_are_penalised_but_the_coefficients_are_for_those_given():
    X, y = features(200, 20, 3)
    X *= np.logspace(-3, 3, 20, dtype=np.float32)
    (fit,) = LogisticPath(X, y, scale=True, tolerance=1e-10).fit([0.01])
    scaler = FlooredScaler().fit(X.astype(float))
    model = scikit_learns(scaler.transform(X.astype(float)), y, 0.01)
    found = X.astype(float) @ fit.coef.T + fit.intercept
    np.testing.assert_allclose(found, model.decision_function(scaler.transform(X.astype(float))), atol=1e-3)


@pytest.mark.slow
def test_the_order_of_strengths_changes_no_answer():
    X, y = features(150, 30, 4)
    up = {fit.certificate.C: fit for fit in LogisticPath(X, y, tolerance=1e-10).fit(STRENGTHS)}
    for fit in LogisticPath(X, y, tolerance=1e-10).fit([1e5, 1e-6, 1.0, 1.0, 10.0, 0.1]):
        C = min(up, key=lambda c: abs(np.log(c / fit.certificate.C)))
        assert fit.certificate.converged
        assert objective(X, y, fit.coef, fit.intercept, C) == pytest.approx(up[C].certificate.objective, rel=1e-8)


def test_a_path_of_svms_takes_few_steps_and_products():
    X, y = features(120, 300, 6)
    fits = list(SvmPath(X, y, scale=True).fit(10.0 ** np.arange(-6, 3)))
    assert all(fit.certificate.converged for fit in fits)
    assert max(fit.certificate.steps for fit in fits) <= 4
    assert sum(fit.certificate.products for fit in fits) <= 100


def test_labels_beside_each_other_take_no_more_products_than_the_hardest_alone():
    X, y = features(300, 80, 6)
    Y = np.stack([(y == k).astype(int) for k in range(6)] + [(y % 2 == 0).astype(int)], axis=1)
    together = next(LogisticPath(X, Y).fit([1.0])).certificate
    alone = [next(LogisticPath(X, column).fit([1.0])).certificate for column in Y.T]
    assert together.converged
    assert together.products <= 1.1 * max(one.products for one in alone)


def test_the_path_is_lazy():
    strengths = iter([0.1, 1.0, 10.0])
    next(LogisticPath(*features(40, 5, 3)).fit(strengths))
    assert list(strengths) == [1.0, 10.0]


@pytest.mark.slow
def test_products_may_read_the_features_instead_of_keeping_a_copy(tmp_path):
    X, y = features(300, 40, 5)
    np.save(tmp_path / "X.npy", X)
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    for kept, read in zip(
        LogisticPath(X, y).fit(STRENGTHS), LogisticPath(mapped, y, keep=False).fit(STRENGTHS), strict=True
    ):
        assert read.certificate.converged
        assert read.certificate.objective == pytest.approx(kept.certificate.objective, rel=2 * paths.TOLERANCE)


@pytest.mark.slow
def test_rows_in_many_chunks_give_the_same(monkeypatch):
    X, y = features(300, 40, 5)
    whole = [fit.certificate.objective for fit in LogisticPath(X, y).fit(STRENGTHS)]
    monkeypatch.setattr(stacks, "CHUNK_BYTES", 8 * 40 * 7)
    parts = [fit.certificate.objective for fit in LogisticPath(X, y).fit(STRENGTHS)]
    np.testing.assert_allclose(parts, whole, rtol=2 * paths.TOLERANCE)


@pytest.mark.parametrize("classes", [2, 4])
def test_a_weight_counts_as_so_many_copies(classes):
    X, y = features(80, 10, classes)
    weight = np.random.default_rng(1).integers(0, 4, 80).astype(float)
    weight[:classes] = 1
    (fit,) = LogisticPath(X, y, sample_weight=weight).fit([1.0])
    copies = np.repeat(np.arange(80), weight.astype(int))
    (same,) = LogisticPath(X[copies], y[copies]).fit([1.0])
    assert fit.certificate.objective == pytest.approx(same.certificate.objective, rel=1e-6)
    np.testing.assert_allclose(fit.coef, same.coef, atol=1e-3 * np.abs(same.coef).max())


def test_labels_of_a_matrix_are_fitted_as_if_each_were_alone():
    X, y = features(120, 15, 3)
    Y = np.stack([y == 0, y > 0, y % 2 == 0], axis=1).astype(int)
    fits = list(LogisticPath(X, Y, tolerance=1e-11).fit([0.1, 10.0]))
    for label in range(3):
        for together, alone in zip(fits, LogisticPath(X, Y[:, label], tolerance=1e-11).fit([0.1, 10.0]), strict=True):
            np.testing.assert_allclose(together.coef[label], alone.coef[0], atol=1e-3 * np.abs(alone.coef).max())


@pytest.mark.parametrize("classes", [2, 3])
def test_constant_features_leave_the_class_shares(classes):
    y = np.arange(30) % classes
    for scale in (False, True):
        (fit,) = LogisticPath(np.full((30, 4), 7.0, np.float32), y, scale=scale).fit([1.0])
        assert np.abs(fit.coef).max() < 1e-6
        assert fit.certificate.converged
        np.testing.assert_allclose(fit.intercept, fit.intercept.mean(), atol=1e-6)


@pytest.mark.slow
def test_a_rare_class_among_many_rows():
    X, y = features(3000, 10, 2)
    y = np.where(y == 1, 1, 0)
    y[:-1] = np.where(y[:-1] > 0, 1, 0)
    y[-1] = 2  # one sample
    for C, fit in zip(STRENGTHS, LogisticPath(X, y).fit(STRENGTHS), strict=True):
        theirs = scikit_learns(X, y, C)
        assert fit.certificate.objective <= objective(X, y, theirs.coef_, theirs.intercept_, C) * (1 + 1e-6)
        assert fit.certificate.converged


def test_a_feature_hidden_by_anothers_scale_is_not_certified():
    rng = np.random.default_rng(0)
    y = np.arange(200) % 2
    X = np.stack([1e8 * rng.normal(size=200), y + 0.1 * rng.normal(size=200)], axis=1)  # the second tells all
    X = np.concatenate([X, 0.5 * rng.normal(size=(200, 38))], axis=1)  # among few the first would decide the floor
    (hidden,) = LogisticPath(X, y).fit([1.0])
    sizes = np.array([1e8] + 39 * [1])
    theirs = scikit_learns(X / sizes, y, 1.0)  # except for the first's penalty the same
    optimum = objective(X / sizes, y, theirs.coef_, theirs.intercept_, 1.0)
    certificate = hidden.certificate
    assert certificate.objective > 1.1 * optimum  # the feature is among the axes left out
    assert not certificate.converged
    assert certificate.objective - optimum <= certificate.gap * certificate.objective
    (seen,) = LogisticPath(X, y, scale=True).fit([1.0])
    assert seen.certificate.converged
    assert seen.certificate.objective < 0.9 * certificate.objective


def test_axes_of_rounding_are_no_reason_to_doubt():
    rng = np.random.default_rng(0)
    X = (rng.normal(size=(300, 5)) @ rng.normal(size=(5, 200)) + 10).astype(np.float32)  # 195 axes hold rounding
    assert all(fit.certificate.converged for fit in LogisticPath(X, np.arange(300) % 3).fit(STRENGTHS[:-1]))


def test_the_intercept_of_a_rare_label_reaches_its_optimum_beside_common_ones():
    rng = np.random.default_rng(0)
    X, Y = rng.normal(size=(5000, 4)), np.zeros((5000, 2))
    Y[::2, 0], Y[7, 1] = 1, 1
    for fit in LogisticPath(X, Y).fit([1e-9, 1e-3]):
        assert fit.certificate.converged
        P = 1 / (1 + np.exp(-(X @ fit.coef.T + fit.intercept)))
        np.testing.assert_allclose(P.sum(axis=0), [2500, 1], rtol=1e-6)


def test_an_intercept_that_is_not_at_its_optimum_is_said(monkeypatch):
    X, y = features(60, 5, 3)
    path = LogisticPath(X, y)
    monkeypatch.setattr(path, "_balance", lambda W, S: (W, S, path._loss.estimates(S, path._Y), False))
    assert not next(path.fit([1.0])).certificate.converged


def test_steps_used_up_are_said():
    X, y = features(100, 20, 3)
    (fit,) = LogisticPath(X, y, tolerance=1e-30).fit([100.0])  # rounding leaves more than that
    assert not fit.certificate.converged
    assert fit.certificate.gap > 1e-30


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(bad):
    X, y = features(20, 5, 2)
    X[3, 2] = bad
    with pytest.raises(ProbeError, match="not finite"):
        LogisticPath(X, y)


def test_what_cannot_be_fitted():
    X, y = features(20, 5, 2)
    with pytest.raises(ProbeError, match="at least two classes"):
        LogisticPath(X, np.zeros(20, int))
    with pytest.raises(ProbeError, match="20 rows of features, but 19 targets"):
        LogisticPath(X, y[1:])
    with pytest.raises(ProbeError, match="above 0 and finite; got -1"):
        list(LogisticPath(X, y).fit([-1]))


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (np.arange(20) % 3 - 1, r"class numbers are 0 to 2, each of which occurs; got \[-1, 0, 1\]"),
        (2 * (np.arange(20) % 2), r"class numbers are 0 to 1, each of which occurs; got \[0, 2\]"),
        (2 * np.eye(20), "holds 0 and 1 only"),
    ],
)
def test_targets_that_are_none_are_refused(targets, message):
    with pytest.raises(ProbeError, match=message):
        LogisticPath(features(20, 5, 2)[0], targets)


@pytest.mark.parametrize("weight", [np.ones(19), -np.ones(20), np.zeros(20), np.full(20, np.nan), np.ones((20, 1))])
def test_weights_that_are_none_are_refused(weight):
    X, y = features(20, 5, 2)
    with pytest.raises(ProbeError, match="sample_weight is one number for each of 20 rows"):
        LogisticPath(X, y, sample_weight=weight)


def test_weights_of_every_label_count_as_if_each_were_alone():
    X, y = features(120, 15, 3)
    Y = np.stack([y == 0, y > 0, y % 2 == 0], axis=1).astype(int)
    weight = np.random.default_rng(1).random(Y.shape) * (1, 10, 100)
    (fit,) = LogisticPath(X, Y, sample_weight=weight, tolerance=1e-11).fit([0.1])
    assert fit.certificate.converged
    for label in range(3):
        model = scikit_learns(X, Y[:, label], 0.1, sample_weight=weight[:, label])
        np.testing.assert_allclose(fit.coef[label], model.coef_[0], atol=1e-3 * np.abs(model.coef_).max())
        np.testing.assert_allclose(fit.intercept[label], model.intercept_[0], atol=2e-3)


@pytest.mark.parametrize("weight", [np.ones((20, 2)), np.ones((20, 3)) * (1, 1, 0), -np.ones((20, 3))])
def test_weights_of_labels_that_are_none_are_refused(weight):
    X, y = features(20, 5, 3)
    with pytest.raises(ProbeError, match="sample_weight is one number for each of 20 rows"):
        LogisticPath(X, np.eye(3)[y], sample_weight=weight)


def test_many_classes_that_are_all_but_certain_still_converge():
    rng = np.random.default_rng(0)
    y = np.arange(650) % paths.MANY
    X = (rng.normal(size=(650, 40)) + rng.normal(size=(paths.MANY, 40))[y]).astype(np.float32)
    path = LogisticPath(X, y, sample_weight=rng.exponential(size=650) ** 3, scale=True)
    certificates = [fit.certificate for fit in path.fit([1e-2, 1.0, 1e2, 1e4, 1e6])]
    assert all(one.converged for one in certificates)
    assert max(one.products for one in certificates) < 1000


# -- many rows and classes ----------------------------------------------------------------------------------------


@pytest.fixture
def crowd():
    """Many classes of very different sizes."""
    rng = np.random.default_rng(0)
    y = np.concatenate([np.arange(70), (70 * rng.random(1400) ** 2).astype(int)])
    return (0.7 * rng.normal(size=(70, 12))[y] + rng.normal(size=(1470, 12)) + 3).astype(np.float32), y


@pytest.mark.slow
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("keep", [True, False])
def test_without_arrays_of_rows_and_classes_the_optimum_is_the_same(crowd, monkeypatch, weighted, keep):
    X, y = crowd
    how = {"scale": True, "keep": keep}
    if weighted:
        how["sample_weight"] = np.random.default_rng(1).random(len(y)) + 0.5
    exact = list(LogisticPath(X, y, tolerance=1e-7, **how).fit([1e-3, 1.0]))
    monkeypatch.setattr(paths, "ARRAY", 1000)
    for one, other in zip(LogisticPath(X, y, **how).fit([1e-3, 1.0]), exact, strict=True):
        bound, best = one.certificate, other.certificate.objective
        assert bound.converged
        assert bound.gap <= paths.LOOSE
        excess = bound.objective / best - 1
        assert -1e-7 <= excess <= bound.gap  # what is proven holds
        scores = X @ one.coef.T + one.intercept
        assert np.mean(scores.argmax(1) == (X @ other.coef.T + other.intercept).argmax(1)) > 0.98


def test_the_bound_holds_far_from_the_optimum_and_with_a_wrong_intercept(crowd, monkeypatch):
    X, y = crowd
    best = next(LogisticPath(X, y, tolerance=1e-7).fit([1.0])).certificate.objective
    monkeypatch.setattr(paths, "ARRAY", 1000)
    lean = LogisticPath(X, y)._lean
    rng = np.random.default_rng(2)
    for size in (0.0, 0.01, 1.0):
        W = size * rng.normal(size=(70, lean.rows.rank + 1))
        objective, norm, gap = lean._certify(W, 1.0)
        assert objective * (1 - gap) <= best <= objective
        assert norm > 0
    loss = -np.log(np.bincount(y)[y] / len(y)).sum()  # of intercepts alone, which are then right
    W = np.zeros((70, lean.rows.rank + 1))
    W[:, -1] = np.log(np.bincount(y) / len(y))
    objective, _, gap = lean._certify(W, 1e-9)
    assert objective == pytest.approx(loss)
    assert gap < 1e-4


def test_class_numbers_are_checked_as_ever_where_there_are_many(monkeypatch):
    monkeypatch.setattr(paths, "ARRAY", 1000)
    with pytest.raises(ProbeError, match="class numbers are 0 to 99, each of which occurs"):
        LogisticPath(np.zeros((200, 3)), np.arange(200) % 100 + 1)
    with pytest.raises(ProbeError, match="200 rows of features, but 100 targets"):
        LogisticPath(np.zeros((200, 3)), np.arange(100))
