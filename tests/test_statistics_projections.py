"""Embeddings as points of a plane."""

import numpy as np
import pytest
from sklearn.decomposition import PCA

from featurepipe.statistics import Plane, tsne


@pytest.mark.parametrize("shape", [(60, 9), (9, 60), (40, 2)])
def test_the_plane_is_scikit_learns_up_to_signs(shape):
    X = np.random.default_rng(0).normal(size=shape) * np.linspace(1, 4, shape[1])
    plane, expected = Plane.of(X.astype(np.float32)), PCA(2).fit(X)
    assert np.abs(plane.place(X)) == pytest.approx(np.abs(expected.transform(X)), abs=1e-4)
    assert plane.explained == pytest.approx(expected.explained_variance_ratio_.sum(), abs=1e-5)
    assert (plane.axes[np.arange(2), np.abs(plane.axes).argmax(axis=1)] > 0).all()  # never mirrored


@pytest.mark.parametrize("X", [np.ones((1, 5)), np.ones((7, 5)), np.arange(6.0)[:, None]])
def test_what_has_no_plane_still_has_places(X):
    found = Plane.of(X)
    assert np.isfinite(found.place(X)).all()
    assert found.place(X).shape == (len(X), 2)
    assert 0 <= found.explained <= 1


def test_tsne_keeps_groups_together_and_repeats_itself():
    rng = np.random.default_rng(0)
    X = np.concatenate([rng.normal(size=(20, 5)), 20 + rng.normal(size=(20, 5))])
    found = tsne(X)
    near = np.linalg.norm(found[:, None] - found[None], axis=2)
    assert near[:20, :20].max() < near[:20, 20:].min()
    assert (found == tsne(X)).all()
