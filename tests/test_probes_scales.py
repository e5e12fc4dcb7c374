"""Probes on features of unlike sizes: hardly ever active, or huge, as networks have them."""

import numpy as np
import pytest

from featurepipe import probes
from featurepipe.statistics import scales

SCALED = ("logistic", "ridge", "svm", "lda", "mlp")


def with_a_rare_channel(n, active, size, seed):
    """Two classes that overlap in thirty features, and a channel that is 0 except in some rows."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 2
    X = rng.normal(size=(n, 31)) + 0.5 * np.random.default_rng(99).normal(size=(2, 31))[y]
    X[:, 30] = 0
    X[active, 30] = size
    return X.astype(np.float32), y


@pytest.mark.slow
@pytest.mark.parametrize("kind", SCALED)
def test_a_channel_active_in_3_of_400_rows_does_no_harm_where_it_is_active_more_often(kind, monkeypatch):
    X, y = with_a_rare_channel(400, [11, 111, 211], 0.2, seed=0)  # all three of one class, by chance
    T, t = with_a_rare_channel(2000, np.arange(0, 2000, 3), 1.0, seed=1)

    def new_log_loss(width=31):
        probe = probes.fit(kind, X[:, :width], y)
        return probes.evaluate(probe.estimator, T[:, :width], t, probe.temperature)["log_loss"]

    found, without_the_channel = new_log_loss(), new_log_loss(30)
    assert found == pytest.approx(without_the_channel, rel=0.02)
    assert found < 0.11
    monkeypatch.setattr(scales, "FLOOR", 0.0)  # divided by its own deviation, a new row's 1.0 becomes 57
    assert new_log_loss() > 3 * found


@pytest.mark.slow
@pytest.mark.parametrize("kind", SCALED)
def test_a_few_huge_features_do_not_flatten_the_others(kind):
    rng = np.random.default_rng(0)
    y = np.arange(150) % 3
    X = rng.normal(size=(150, 80)) + np.random.default_rng(99).normal(size=(3, 80))[y] / 2
    huge = X * np.where(np.arange(80) < 3, 1000.0, 1.0)  # 3 of 80, as some vision transformers have them
    plain, other = (probes.fit(kind, matrix, y) for matrix in (X, huge))
    assert plain.chosen == other.chosen
    np.testing.assert_allclose(
        probes.decision_scores(other.estimator, huge), probes.decision_scores(plain.estimator, X), rtol=1e-3, atol=2e-3
    )
    assert [step["top1"] for step in other.path] == [step["top1"] for step in plain.path]
