"""Discriminant analysis, nearest mean and standardisation from statistics are scikit-learn's own."""

import pickle

import numpy as np
import pytest
import sklearn
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.neighbors import NearestCentroid
from sklearn.preprocessing import StandardScaler

from featurepipe.errors import ProbeError
from featurepipe.statistics import gather, to_centroids, to_lda, to_scaler


def sample(n=300, width=12, known=5, mean=0.0, seed=0, dtype=np.float32):
    rng = np.random.default_rng(seed)
    y = np.concatenate([np.arange(known), rng.integers(0, known, n - known)])
    scales = rng.uniform(0.05, 5, width)
    X = scales * (rng.normal(size=(n, width)) + rng.normal(size=(known, width))[y] + mean)
    return X.astype(dtype), np.array([f"c{code:02}" for code in range(known)])[y]


def fitted_attributes(estimator):
    return {name for name in vars(estimator) if name.endswith("_") and not name.startswith("_")}


def assert_alike(ours, theirs, rtol=1e-5, signless=("scalings_",)):
    assert fitted_attributes(ours) == fitted_attributes(theirs)
    for name in fitted_attributes(theirs):
        one, other = np.asarray(getattr(ours, name)), np.asarray(getattr(theirs, name))
        assert one.shape == other.shape, name
        if one.dtype.kind in "US":
            assert one.tolist() == other.tolist(), name
        else:
            one, other = (abs(one), abs(other)) if name in signless else (one, other)
            np.testing.assert_allclose(one, other, rtol, rtol * np.abs(other).max(), err_msg=name)


CASES = {
    "plain": {},
    "float16": {"dtype": np.float16},
    "large means": {"mean": 1000.0},
    "two classes": {"known": 2},
    "more features than rows": {"n": 30, "width": 50},
    "two classes, more features than rows": {"n": 10, "width": 50, "known": 2},
    "more classes than features": {"known": 20, "width": 4},
    "one feature": {"width": 1},
    "nearly all classes have one row": {"n": 31, "known": 30, "width": 4},
}


@pytest.mark.skipif(
    tuple(map(int, sklearn.__version__.split(".")[:2])) < (1, 9), reason="`scalings_` had another scale"
)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_discriminant_analysis(case):
    X, y = sample(**case)
    ours = to_lda(gather([(X[:9], y[:9]), (X[9:], y[9:])], y))
    X = X.astype(np.float64)
    theirs = LinearDiscriminantAnalysis().fit(X, y)
    # What lies within rounding of a singular value of zero has no direction; where there is more, they agree.
    assert_alike(ours, theirs)
    assert ours.predict(X).tolist() == theirs.predict(X).tolist()
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), 1e-4, 1e-6)
    np.testing.assert_allclose(np.abs(ours.transform(X)), np.abs(theirs.transform(X)), 1e-4, 1e-4)
    assert ours.get_params() == theirs.get_params()
    assert len(ours.get_feature_names_out()) == len(theirs.get_feature_names_out())


@pytest.mark.filterwarnings("ignore:Only one sample available")  # of a class, says scikit-learn
@pytest.mark.parametrize("shrinkage", [0.01, 0.5, 1.0])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_discriminant_analysis_with_shrinkage(case, shrinkage):
    X, y = sample(**case)
    ours = to_lda(gather([(X[:9], y[:9]), (X[9:], y[9:])], y), shrinkage=shrinkage)
    X = X.astype(np.float64)
    theirs = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage).fit(X, y)
    assert_alike(ours, theirs)
    assert ours.predict(X).tolist() == theirs.predict(X).tolist()
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), 1e-4, 1e-6)


def test_no_shrinkage_at_all_is_the_least_squares_solution_even_where_it_is_singular():
    X, y = sample()
    theirs = LinearDiscriminantAnalysis(solver="lsqr").fit(X.astype(np.float64), y)
    np.testing.assert_allclose(to_lda(gather([(X, y)], y), shrinkage=0.0).coef_, theirs.coef_, 1e-8, 1e-8)
    X, y = sample(20, 40)
    singular = to_lda(gather([(X, y)], y), shrinkage=0.0)
    truth = singular.means_ @ np.linalg.pinv(singular.covariance_, rcond=1e-10, hermitian=True)
    np.testing.assert_allclose(singular.coef_, truth, 1e-6, 1e-6 * np.abs(truth).max())


def test_constant_features_do_not_change_the_discriminants():
    X, y = sample(dtype=np.float64)
    X[:, 3], X[:, 7] = 0.1, 1e4 / 3
    rest = np.delete(X, [3, 7], axis=1)
    ours, without = to_lda(gather([(X, y)], y)), to_lda(gather([(rest, y)], y))
    np.testing.assert_allclose(np.delete(ours.coef_, [3, 7], axis=1), without.coef_, 1e-9, 1e-9)
    assert np.abs(ours.coef_[:, [3, 7]]).max() < 1e-9
    assert ours.predict(X).tolist() == LinearDiscriminantAnalysis().fit(rest, y).predict(rest).tolist()


def test_class_means_that_are_all_the_same_leave_the_priors():
    X, y = np.array([[1.0, 0], [-1, 0], [0, 1], [0, -1], [2, 2], [-2, -2]]), np.array([0, 0, 1, 1, 1, 1])
    ours = to_lda(gather([(X, y)], y))
    assert ours.predict(X).tolist() == [1] * 6
    np.testing.assert_allclose(ours.predict_proba(X), np.tile([1 / 3, 2 / 3], (6, 1)))


@pytest.mark.filterwarnings("ignore:The number of unique classes")
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_nearest_class_mean(case):
    X, y = sample(**case)
    ours = to_centroids(gather([(X[:9], y[:9]), (X[9:], y[9:])], y))
    X = X.astype(np.float64)
    theirs = NearestCentroid().fit(X, y)
    assert_alike(ours, theirs)
    assert ours.predict(X).tolist() == theirs.predict(X).tolist()
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), 1e-5, 1e-6)
    assert pickle.loads(pickle.dumps(ours)).predict(X).tolist() == theirs.predict(X).tolist()


def test_the_nearest_class_mean_of_one_row_per_class_is_the_nearest_row():
    X, y = sample(30, 12, known=30)
    ours = to_centroids(gather([(X, y)], y))
    np.testing.assert_allclose(ours.centroids_, X, 1e-6, 1e-6)
    assert ours.predict(X + np.float32(1e-3)).tolist() == y.tolist()


@pytest.mark.parametrize("mean", [0.0, 1e4])
def test_standardisation(mean):
    X, y = sample(mean=mean, dtype=np.float64)
    X[:, 3], X[:, 7], X[:, 8] = 0.1, 1e8 / 3, 0.0
    ours, theirs = to_scaler(gather([(X[:9], y[:9]), (X[9:], y[9:])], y)), StandardScaler().fit(X)
    assert_alike(ours, theirs, 1e-9)
    assert ours.scale_[[3, 7, 8]].tolist() == [1, 1, 1]
    np.testing.assert_allclose(ours.transform(X), theirs.transform(X), 1e-6, 1e-6)


X, Y = np.array([[0.0, 1], [2, 1], [5, 1]]), ["a", "b", "b"]


@pytest.mark.parametrize(
    ("make", "rows", "labels", "message"),
    [
        (to_lda, X, ["a"] * 3, "only class 'a' has rows"),
        (to_centroids, X, ["a"] * 3, "only class 'a' has rows"),
        (to_lda, X, ["a", "b", "c"], "every class has a single row"),
        (to_lda, np.full((3, 2), 0.1), Y, "no feature varies within a class"),
        (to_lda, np.array([[0.0], [1], [1]]), Y, "no feature varies within a class"),
        (lambda s: to_lda(s, shrinkage=1.5), X, Y, "shrinkage must be from 0 to 1; got 1.5"),
    ],
)
def test_what_cannot_be_fitted_is_one_line(make, rows, labels, message):
    with pytest.raises(ProbeError, match=message):
        make(gather([(rows, labels)], ["a", "b", "c"]))
