"""Self-training and label spreading against scikit-learn's own, and on images that no label comes to."""

import numpy as np
import pytest
from doubles import VECTOR_KINDS
from scaling import FlooredScaler
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import normalize
from sklearn.semi_supervised import SelfTrainingClassifier

from featurepipe import probes
from featurepipe.probes import pseudolabels
from featurepipe.probes.pseudolabels import LabelSpreader, fit_self_training


def blobs(n=120, width=6, classes=3, *, seed=0, spread=0.6, shots=4):
    """Clusters, and the labels of the first few of each."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % classes
    X = 2 * np.random.default_rng(99).normal(size=(classes, width))[y] + spread * rng.normal(size=(n, width))
    return X, y, np.where(np.arange(n) < shots * classes, y, -1)


# -- self-training ------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_self_training_is_scikit_learns_round_the_same_probe():
    X, _, known = blobs(spread=1.5)
    probe = probes.fit("logistic", X[known >= 0], known[known >= 0])
    mine = fit_self_training(probe, X, known)

    class Cooled(LogisticRegression):
        """With the probe's temperature."""

        def predict_proba(self, X):
            return softmax(self.decision_function(X) / probe.temperature, axis=1)

    explicit = make_pipeline(FlooredScaler(), Cooled(C=probe.chosen, tol=1e-9, max_iter=10_000))
    truth = SelfTrainingClassifier(explicit, threshold=pseudolabels.CONFIDENT).fit(X, known)
    assert mine.labeled_iter_.max() > 1  # several rounds
    assert mine.labeled_iter_.tolist() == truth.labeled_iter_.tolist()
    assert mine.transduction_.tolist() == truth.transduction_.tolist()
    np.testing.assert_allclose(mine.predict_proba(X), truth.predict_proba(X), atol=5e-4)


@pytest.mark.slow
@pytest.mark.parametrize("kind", VECTOR_KINDS)
def test_every_kind_trains_on_its_own_predictions(kind):
    X, y, known = blobs()
    probe = probes.fit(kind, X[known >= 0], known[known >= 0])
    trained = fit_self_training(probe, X, known)
    assert (trained.transduction_[known >= 0] == known[known >= 0]).all()  # given labels stay
    assert np.mean(trained.predict(X) == y) > 0.9


def test_who_is_confident_of_nothing_learns_nothing():
    X, _, known = blobs(spread=3)
    probe = probes.fit("logistic", X[known >= 0], known[known >= 0], value=1e-5)
    trained = fit_self_training(probe, X, known)
    assert trained.termination_condition_ == "no_change"
    assert trained.predict(X).tolist() == probe.estimator.predict(X).tolist()


def test_without_unlabelled_images_self_training_is_the_probe():
    X, y, _ = blobs(spread=3)
    probe = probes.fit("lda", X, y)
    assert fit_self_training(probe, X, y).predict(X).tolist() == probe.estimator.predict(X).tolist()


@pytest.mark.slow
def test_an_mlp_is_trained_again_under_its_seed():
    X, _, known = blobs(spread=2)
    probe = probes.fit("mlp", X[known >= 0], known[known >= 0], value=1.0, seed=3)
    scores = [fit_self_training(probe, X, known, seed).predict_proba(X) for seed in (3, 3, 4)]
    assert (scores[0] == scores[1]).all()
    assert (scores[0] != scores[2]).any()


# -- label spreading ----------------------------------------------------------------------------------------------


def spread_by_hand(X, T, known, k=pseudolabels.NEIGHBOURS, alpha=pseudolabels.ALPHA):
    """Zhou et al.'s limit (1 - α)(I - αS)⁻¹Y, its rows made shares, and the mean of the nearest; dense."""
    Z, U = normalize(X), normalize(T)
    similar = Z @ Z.T
    np.fill_diagonal(similar, -np.inf)
    W = np.zeros_like(similar)
    np.put_along_axis(W, np.argsort(-similar, axis=1)[:, :k], 1, axis=1)
    W = np.maximum(W, W.T)
    root = np.sqrt(W.sum(axis=1))
    F = np.linalg.solve(
        np.eye(len(Z)) - alpha * W / np.outer(root, root), np.eye(known.max() + 1)[known] * (known >= 0)[:, None]
    )
    F /= F.sum(axis=1, keepdims=True)
    near = np.argsort(-(U @ Z.T), axis=1)[:, :k]
    return F[near].mean(axis=1).argmax(axis=1)


@pytest.mark.parametrize("seed", range(3))
def test_labels_spread_as_published(seed):
    X, _, known = blobs(150, spread=2, seed=seed)
    T, t, _ = blobs(200, spread=2, seed=seed + 10)
    guesses = LabelSpreader(X, T).predict(known)
    assert guesses.tolist() == spread_by_hand(X, T, known).tolist()
    assert 0.5 < np.mean(guesses == t) < 1


def test_lengths_of_vectors_do_not_matter():
    X, _, known = blobs(spread=2)
    T, _, _ = blobs(seed=1, spread=2)
    lengths = np.random.default_rng(0).uniform(0.1, 10, (120, 1))
    assert (
        LabelSpreader(X * lengths, T / lengths).predict(known).tolist() == LabelSpreader(X, T).predict(known).tolist()
    )


def test_an_image_that_no_label_comes_to_gets_the_nearest_labelled_ones():
    angles = np.concatenate([np.linspace(0, 0.1, 30), np.linspace(1, 1.1, 30), np.linspace(1.4, 1.5, 30)])
    X = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    known = np.full(90, -1)
    known[[0, 89]] = [1, 0]  # the middle cluster has none, and is no neighbour of the others
    T = np.array([[np.cos(a), np.sin(a)] for a in (0.05, 1.05, 1.45)])
    assert LabelSpreader(X, T).predict(known).tolist() == [1, 0, 0]


def test_the_label_of_an_image_that_is_nobodys_neighbour_still_spreads():
    X = normalize(np.random.default_rng(0).normal(size=(60, 3)))
    near = NearestNeighbors(n_neighbors=pseudolabels.NEIGHBOURS, algorithm="brute").fit(X).kneighbors_graph()
    weights = LabelSpreader(X, X)._weights[:, :60]
    assert (near != near.T).nnz > 0
    assert (weights != weights.T).nnz == 0
    assert weights.diagonal().sum() == 0
    assert ((weights - near) < 0).nnz == 0


def test_fewer_images_than_neighbours_and_vectors_of_nothing():
    X, T = np.array([[1.0, 0], [0, 1], [1, 0.1]]), np.array([[1.0, 0.2], [0.1, 1]])
    assert len(LabelSpreader(X, T).predict(np.array([0, 1, -1]))) == 2
    X = np.vstack([X, np.zeros((2, 2))])
    assert set(LabelSpreader(X, np.zeros((1, 2))).predict(np.array([0, 1, -1, -1, -1]))) <= {0, 1}
